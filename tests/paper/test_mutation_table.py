"""The table `mutation`: its arms as they are trained, and what each took, on few digits and with two steps a
stage."""

import json

import pytest

from helpers.grids import results_of
from helpers.reproducing import RECIPE
from rarl.paper.mutation_table import MUTATION_TABLE, REPRODUCED_TABLES, effort_table, reproduced
from rarl.paper.tables import published_tables
from rarl.training.config import config_from
from rarl.yaml_files import read_yaml_mapping

OWN = ("rarl_no_mutation", "dynamic_sampling", "rarl_shaped", "rarl_own_statistics", "rarl")


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("grids") / "mutation"
    return out, run("mutation", out, "--seeds", "0", "--set", "stages.1.resample_rounds=2")


def test_it_is_a_table_without_published_numbers():
    assert REPRODUCED_TABLES[-1] == "mutation"
    assert reproduced("mutation") is MUTATION_TABLE
    assert reproduced("table6").parts
    assert published_tables(MUTATION_TABLE) == []
    assert MUTATION_TABLE.title == "Mutation"


def test_its_arms_differ_in_what_is_done_about_stagnant_groups_alone(made):
    out, _ = made
    ways = {}
    for arm in OWN:
        stage = read_yaml_mapping(out / f"seed-0/{arm}/config.yaml")["stages"][1]
        mutation = stage.pop("mutation")
        ways[arm] = (stage.pop("stagnant"), mutation and (mutation["weight"], mutation["statistics"]))
        assert mutation is None or mutation["probability"] == RECIPE["stages"][1]["mutation"]["probability"]
        ways.setdefault("rest", stage)
        assert stage == ways["rest"]
    del ways["rest"]
    assert ways == {
        "rarl_no_mutation": (None, None),
        "dynamic_sampling": ("resample", None),
        "rarl_shaped": (None, ("shaped", "group")),
        "rarl_own_statistics": (None, ("one", "own")),
        "rarl": (None, ("one", "group")),
    }


def test_what_each_arm_took_stands_in_the_results_and_in_the_table(made):
    out, text = made
    effort = json.loads((out / "mutation/results.json").read_text())["effort"]
    assert list(effort) == ["regression", *OWN]
    first, plain, drawn = (effort[arm] for arm in ("regression", "rarl_no_mutation", "dynamic_sampling"))
    assert (first["updates"], first["prompts"], first["responses"]) == (2, 2, 8)
    assert (plain["updates"], plain["prompts"], plain["responses"]) == (4, 4, 16)
    last = json.loads(
        (out / "seed-0/dynamic_sampling/dynamic_sampling/log.jsonl").read_text().splitlines()[-1]
    )
    assert drawn["responses"] == 8 + last["effort/responses"] >= 16
    assert drawn["updates"] == 4
    assert plain["seconds"] > first["seconds"] > 0
    assert "Measured: what the arms took" in text
    assert "+ RARL, dynamic sampling, no RMO" in (out / "mutation/report.md").read_text()


def test_the_papers_tables_have_no_such_part():
    assert effort_table(results_of(), {}) is None


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            {"stagnant": "resample", "mutation": {}},
            r"stages\[0\].stagnant: 'resample' leaves responses as they",
        ),
        ({"stagnant": "mutate"}, r"stages\[0\].stagnant: 'mutate' needs a mutation"),
        ({"stagnant": "drop"}, r"stages\[0\].stagnant: must be 'keep', 'mutate' or 'resample', not 'drop'"),
        ({"trainer": {"stagnant": "keep"}}, r"trainer.stagnant: is not set here but by stages\[\].stagnant"),
    ],
)
def test_a_yaml_that_contradicts_itself_is_refused(stage, said):
    from rarl.errors import ConfigError

    with pytest.raises(ConfigError, match=said):
        config_from(RECIPE | {"output": "x", "stages": [RECIPE["stages"][0] | stage]}, "a.yaml")
