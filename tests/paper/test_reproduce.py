"""`rarl reproduce` as a whole: what it leaves, that nothing is run twice, and that shards make the table that
one command makes."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from helpers.reproducing import CELLS, RESULTS, SHOWN, TRAINED, command, contents, first_seed_of
from rarl.report.record import load_records
from rarl.yaml_files import read_yaml_mapping

# ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────


def test_results_json_is_what_the_cells_measured(whole):
    out, _ = whole
    results = json.loads((out / RESULTS).read_text())
    assert results.keys() == {
        *("table", "task", "split", "model", "seeds", "lists", "steps", "arms", "differences", "missing"),
        *("prompts", "learning_rates", "max_new_tokens"),
    }
    assert (results["table"], results["task"], results["split"]) == ("table6", "digits", "test")
    assert (results["model"], results["seeds"], results["missing"]) == ("embedded base", [0, 1], [])
    assert results["steps"] == {"base": 0, "regression": 2, "rarl_no_mutation": 4, "rarl": 4}
    assert results["prompts"] == {
        **{"base": [], "regression": [2], "rarl_no_mutation": [2, 2], "rarl": [2, 2]}
    }
    assert results["learning_rates"]["rarl"] == [1e-3, 1e-3]
    assert results["max_new_tokens"] == 48
    assert results["lists"]["2"]["n"] == 3
    assert list(results["arms"]) == SHOWN
    for arm, entries in results["arms"].items():
        of_seeds = [
            json.loads((out / f"seed-{seed}/{arm}/metrics.json").read_text())["arms"][arm] for seed in (0, 1)
        ]
        for name in ("mae", "tau2", "parsed", "valid", "agreement2"):
            assert entries[name]["seeds"] == [metrics[name]["value"] for metrics in of_seeds]
            assert entries[name]["value"] == pytest.approx(sum(entries[name]["seeds"]) / 2)
            assert entries[name]["low"] <= entries[name]["value"] <= entries[name]["high"]
    assert list(results["differences"]) == SHOWN[:-1]
    for arm, entries in results["differences"].items():
        ours, theirs = (results["arms"][name]["mae"]["seeds"] for name in ("rarl", arm))
        assert entries["mae"]["seeds"] == [a - b for a, b in zip(ours, theirs, strict=True)]


def test_a_cell_is_a_run_of_one_arm(whole):
    out, _ = whole
    for seed in (0, 1):
        assert sorted(path.name for path in (out / f"seed-{seed}").iterdir()) == sorted(SHOWN)
        for arm in SHOWN:
            cell = out / f"seed-{seed}/{arm}"
            assert list(json.loads((cell / "metrics.json").read_text())["arms"]) == [arm]
            config = read_yaml_mapping(cell / "config.yaml")
            assert (config["seed"], config["model"]) == (seed, str(out / f"bases/{seed}"))
            models = [path.name for path in cell.iterdir() if path.is_dir()]
            assert models == ([] if arm == "base" else [arm])
    first, second = (contents(out / f"seed-{seed}", "*/*/model.safetensors") for seed in (0, 1))
    assert all(first[name] != second[name] for name in first)
    assert len(set(first.values())) == len(TRAINED)
    made = sorted(path.name for path in out.iterdir() if path.suffix != ".lock")
    assert made == ["bases", "seed-0", "seed-1", "table6"]
    assert not list(out.rglob(".*.unfinished"))


def test_the_report_and_the_terminal_show_measured_and_published(whole):
    out, text = whole
    report = (out / "table6/report.md").read_text()
    assert (out / "table6/report.html").stat().st_size > 1000
    for shown in (report, text):
        for words in ("Measured: digits, test split", "embedded base", "+ RARL, no RMO", "minus each of"):
            assert words in " ".join(shown.split())
        assert shown.index("Measured") < shown.index("Published")
        for number in ("6.95", "4.34", "4.17", "4.02", "0.806"):
            assert number in shown[shown.index("Published") :]
    assert "[1/8] seed 0, base" in text
    assert "seed 1, base" in text
    assert "[8/8] seed 1, rarl" in text


def test_what_is_finished_is_not_run_again_and_the_files_are_the_same(whole, run, nothing_runs):
    out, _ = whole
    before = contents(out, "**/*.json*", "**/*.safetensors", "table6/*", "**/config.yaml")
    text = run("table6", out, "--seeds", "0,1")
    assert contents(out, "**/*.json*", "**/*.safetensors", "table6/*", "**/config.yaml") == before
    assert "s/step" not in text
    assert "Measured: digits" in text


def test_json_is_one_document_on_stdout_and_nothing_else(whole, small, recipe, nothing_runs):
    out, _ = whole
    options = ["--config", recipe, "--data", small, "--out", out, "--seeds", "0,1"]
    code, text, err = command("table6", *options, "--json")
    assert code == 0
    assert json.loads(text) == json.loads((out / RESULTS).read_text())
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert "seed 0, base" in err


def test_one_seed_has_intervals_of_replies(whole, of_one_seed):
    results = json.loads((of_one_seed / "results.json").read_text())
    metrics = json.loads((whole[0] / "seed-0/rarl/metrics.json").read_text())["arms"]["rarl"]
    assert results["seeds"] == [0]
    assert results["arms"]["rarl"].keys() == metrics.keys()
    for name, entry in results["arms"]["rarl"].items():
        assert entry == metrics[name] | {"seeds": [metrics[name]["value"]]}
    assert results["differences"]["base"].keys() == {"mae", "tau2"}


@contextlib.contextmanager
def at(folder, kept):
    """`folder` is as it was afterwards: its cells know their paths, so that a copy elsewhere would not do."""
    shutil.copytree(folder, kept)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


def test_rarl_from_sft_and_a_longer_sft_are_arms_of_any_table(whole, run, tmp_path):
    out, _ = whole
    with at(out, tmp_path / "kept"):
        before = contents(out, *CELLS)
        text = run("table6", out, "--seeds", "0", "--arms", "sft_rarl,sft_long")
        after = contents(out, *CELLS)
        assert {name: after[name] for name in before} == before
        results = json.loads((out / RESULTS).read_text())
        assert list(results["arms"]) == ["base", "sft_long", "sft_rarl", *TRAINED]
        assert results["steps"]["sft_long"] == results["steps"]["sft_rarl"] == 6
        assert results["prompts"]["sft_rarl"] == [4, 2]
        assert results["learning_rates"]["sft_rarl"] == [2e-5, 1e-3]
        assert "+ SFT, then RARL 4 at 2e-05, then 2 at 0.001" in " ".join(text.split())
        cells = [out / "seed-0" / arm for arm in ("sft_long", "sft_rarl")]
        assert {name: arm.since for name, arm in load_records(cells).arms.items()} == {
            **{"sft_long": 0, "sft_rarl": 4}
        }
        of_sft, of_rarl = (
            (out / f"seed-0/{arm}/{arm}/model.safetensors").read_bytes() for arm in ("sft", "sft_rarl")
        )
        assert of_sft != of_rarl
        assert "+ SFT, longer" in (out / "table6/report.md").read_text()


def test_another_table_takes_the_cells_that_are_there(whole, run, tmp_path, monkeypatch):
    out, _ = whole
    from rarl.paper import grid as grid_module

    trained, train = [], grid_module.train_stage

    def watched(config, stage, start, groups, folder, console, held_out=()):
        trained.append((config.seed, folder.name))
        train(config, stage, start, groups, folder, console, held_out)

    monkeypatch.setattr(grid_module, "train_stage", watched)
    with at(out, tmp_path / "kept"):
        before = contents(out, *CELLS, "table6/*")
        run("table3", out, "--seeds", "0")
        after = contents(out, *CELLS, "table6/*")
        assert {name: after[name] for name in before} == before
        assert trained == [(0, "ranking"), (0, "joint")]
        results = json.loads((out / "table3/results.json").read_text())
        assert list(results["arms"]) == ["base", "regression", "ranking", "joint", "rarl"]
        assert list(results["differences"]) == ["base", "regression", "ranking", "joint"]
        assert "COCO-ReM" in (out / "table3/report.md").read_text()


def test_another_recipe_is_refused_and_nothing_is_lost(whole, small, recipe, nothing_runs):
    out, _ = whole
    before = contents(out, "**/*.*")
    options = ["--config", recipe, "--data", small, "--out", out, "--seeds", "0,1"]
    for override, words in [
        ("trainer.learning_rate=2e-3", "trainer.learning_rate: 0.001 before, 0.002 now"),
        ("evaluation.images=[1,2,4]", "evaluation was"),
    ]:
        code, text, err = command("table6", *options, "--set", override)
        assert (code, text) == (2, "")
        assert words in err
        assert "Traceback" not in err
        assert contents(out, "**/*.*") == before


# ── shards ───────────────────────────────────────────────────────────────────────────────────────────────


def test_two_machines_make_the_table_of_one(whole, of_one_seed, run, tmp_path, monkeypatch, request):
    """Each in a folder of its own, by the same relative path; then one's cells are copied to the other's."""
    machines = [tmp_path / "one", tmp_path / "two"]
    for number, machine in enumerate(machines, 1):
        machine.mkdir()
        monkeypatch.chdir(machine)
        text = run("table6", "runs/grid", "--seeds", "0", "--shard", f"{number}/2")
        results = json.loads((machine / "runs/grid" / RESULTS).read_text())
        made = {path.parent.relative_to(machine / "runs/grid") for path in machine.rglob("metrics.json")}
        named = {Path(*missing.replace("seed ", "seed-").split()) for missing in results["missing"]}
        assert made
        assert named
        assert made | named == {Path("seed-0", arm) for arm in SHOWN}
        assert not made & named
        assert "Not finished yet" in " ".join(text.split())
    for cells in (machines[1] / "runs/grid").glob("seed-*"):
        shutil.copytree(cells, machines[0] / "runs/grid" / cells.name, dirs_exist_ok=True)
    monkeypatch.chdir(machines[0])
    request.getfixturevalue("nothing_runs")
    run("table6", "runs/grid", "--seeds", "0")
    assert Path("runs/grid", RESULTS).read_bytes() == (of_one_seed / "results.json").read_bytes()
    assert contents(Path("runs/grid"), *CELLS) == first_seed_of(whole[0])


def test_a_machine_without_a_share_ends_well(run, tmp_path):
    out = tmp_path / "grid"
    run("table6", out, "--seeds", "0", "--shard", "9/9")
    results = json.loads((out / RESULTS).read_text())
    assert results["missing"] == [f"seed 0 {arm}" for arm in SHOWN]
    assert results["arms"] == {}


def test_a_cell_that_another_command_trains_is_left_to_it(whole, small, recipe, other_command, nothing_runs):
    """Who asks for all cells is told; who asks for those of the other seed is not kept out."""
    out, before = whole[0], contents(whole[0], *CELLS)
    other_command(out / "seed-0/rarl", "training")
    given = ["table6", "--config", recipe, "--data", small, "--out", out, "--seeds"]
    code, _, err = command(*given, "0,1")
    assert code == 2
    assert f"error: {out / 'seed-0/rarl'}: another command is at work here (training)" in err
    assert command(*given, "1")[0] == 0
    assert contents(out, *CELLS) == before


def test_a_base_that_has_to_be_built_is_built_once_for_its_seed(digits, tmp_path, monkeypatch):
    """The digits have a split for it; seed 0 is shipped. The building itself is `pretraining`'s."""
    import rarl.paper.reproduce
    from rarl.demo import CONFIG
    from rarl.models.pretraining import copy_base

    asked = []

    def build(out, seed, console, collection=None):
        asked.append((out, seed, collection.root))
        copy_base(out)

    monkeypatch.setattr(rarl.paper.reproduce, "make_base", build)
    monkeypatch.setattr(
        rarl.paper.reproduce, "prepare_digits", lambda out: shutil.copytree(digits.root, out) and digits
    )
    monkeypatch.setattr(rarl.paper.reproduce, "prepare_cells", lambda grid: [])
    out = tmp_path / "grid"
    mapping = read_yaml_mapping(CONFIG)
    planned = rarl.paper.reproduce.plan_grid("table2", mapping, "test", out=out, seeds=[2, 0, 1])
    quiet = Console(file=io.StringIO())
    grid, mine, _ = rarl.paper.reproduce._prepare_grid(planned, quiet)
    assert asked == [(out / f"bases/{seed}", seed, digits.root) for seed in (2, 1)]
    assert {cell.config.model for cell in grid} == {str(out / f"bases/{seed}") for seed in (0, 1, 2)}
    assert grid == mine
    shutil.rmtree(out / "data")
    rarl.paper.reproduce._prepare_grid(planned, quiet)
    assert len(asked) == 2  # they are there
