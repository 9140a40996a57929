"""Grids of the paper's arms: what each cell trains, which share what, how they are divided into shards, and
that what is finished stays."""

import hashlib
import io
import json
import shutil

import pytest
from rich.console import Console

from rarl.demo import CONFIG
from rarl.errors import ConfigError
from rarl.models.pretraining import copy_base
from rarl.paper import grid as grid_module
from rarl.paper.arms import PAPER_ARMS
from rarl.paper.grid import (
    cells,
    cells_of_shard,
    evaluate_cell,
    parts_of,
    prepare_cells,
    total_steps,
    train_cell,
)
from rarl.paper.results import measured
from rarl.training.config import config_from, reply_length, stage_groups
from rarl.yaml_files import read_yaml_mapping, yaml_text

ARMS = list(PAPER_ARMS)
TWO = ["rarl_no_mutation", "rarl"]
WAYS = ["dynamic_sampling", "rarl_shaped", "rarl_own_statistics"]
ALL, LISTS = [1, 2, 4, 8, 8], [2, 4, 8, 8]
BEGINS_WITH = {"sft_rarl": "sft"} | dict.fromkeys(["rarl_no_mutation", *WAYS, "rarl"], "regression")


def recipe_of(output="grid", *, first=None, second=None, **changes):
    """The demo's run of two stages, with numbers of its own and changes."""
    mapping = read_yaml_mapping(CONFIG) | {"output": str(output)}
    mapping["sft"] = {"reasoning": "template", "trainer": {"learning_rate": 5e-4}}
    own = {"images": ALL, "max_steps": 400, "trainer": {"learning_rate": 3e-4}}
    stages = [mapping["stages"][0] | (first or {}), mapping["stages"][1] | own | (second or {})]
    return config_from(mapping | {"stages": stages} | changes, "recipe")


def grid_of(recipe=None, arms=ARMS, seeds=(0,)):
    return cells(recipe or recipe_of(), arms, seeds, {seed: f"base-{seed}" for seed in seeds})


@pytest.fixture(scope="module")
def by_arm():
    return {cell.arm: cell for cell in grid_of()}


# ── what each cell is ────────────────────────────────────────────────────────────────────────────────────

MUTATED = 0.5
# Arm: images, weights, steps, probability of mutation, of each stage. The recipe's stages are of 200 and of
# 400 steps with 8 prompts each, so that one stage alone has 600.
STAGES = {
    "regression": [([1], [1, 0, 1], 200, None)],
    "ranking": [(LISTS, [0, 1, 1], 600, None)],
    "joint": [(ALL, [1, 1, 1], 600, None)],
    "rarl_no_mutation": [([1], [1, 0, 1], 200, None), (ALL, [1, 1, 1], 400, None)],
    "dynamic_sampling": [([1], [1, 0, 1], 200, None), (ALL, [1, 1, 1], 400, None)],
    **{
        arm: [([1], [1, 0, 1], 200, None), (ALL, [1, 1, 1], 400, MUTATED)]
        for arm in ("rarl_shaped", "rarl_own_statistics", "rarl")
    },
}


@pytest.mark.parametrize("arm", STAGES)
def test_the_stages_of_an_arm(by_arm, arm):
    found = [
        (
            stage.images,
            stage.weights.in_order,
            stage.max_steps,
            None if stage.mutation is None else stage.mutation.probability,
        )
        for stage in by_arm[arm].config.stages
    ]
    assert found == STAGES[arm]
    assert by_arm[arm].config.sft is None


@pytest.mark.parametrize(("arm", "reasoning"), [("sft", "template"), ("sft_answer_only", "empty")])
def test_the_two_baselines_imitate_the_prompts_of_both_stages(by_arm, arm, reasoning):
    config = by_arm[arm].config
    assert config.sft.name == arm
    assert config.sft.reasoning == reasoning
    assert config.sft.trainer.learning_rate == 5e-4  # what the recipe says of it holds for both
    assert [stage.max_steps for stage in config.stages] == [200, 400]
    assert config.sft_arguments()["max_steps"] == 600


def test_a_recipe_needs_no_section_for_the_baseline():
    found = {cell.arm: cell.config.sft for cell in grid_of(recipe_of(sft=None), ["sft", "rarl"])}
    assert found["sft"].name == "sft"
    assert found["rarl"] is found["regression"] is None


def test_the_base_as_a_reference_is_that_of_the_seed():
    """A cell of the second stage starts from the first stage's model, but its run's model is the base."""
    cell = grid_of(recipe_of(second={"reference": "base"}), ["rarl"])[-1]
    assert cell.config.stages[-1].reference == "base"
    assert (cell.config.model, str(cell.start)) == ("base-0", "grid/seed-0/regression/regression")


STEPS = {
    **{"base": 0, "sft": 600, "sft_answer_only": 600, "regression": 200, "ranking": 600, "joint": 600},
    **{"rarl_no_mutation": 600, "rarl": 600, "sft_long": 1000, "sft_rarl": 1000},
    **dict.fromkeys(WAYS, 600),
}


def test_arms_stand_after_the_one_they_begin_with():
    assert {name: arm.begins_with for name, arm in PAPER_ARMS.items() if arm.begins_with} == BEGINS_WITH
    assert all(ARMS.index(first) < ARMS.index(arm) for arm, first in BEGINS_WITH.items())
    assert ARMS[-1] == "rarl"  # from which the others are subtracted
    assert [name for name, arm in PAPER_ARMS.items() if not arm.trained] == ["base"]
    assert [name for name, arm in PAPER_ARMS.items() if arm.label is None] == ["base"]


def test_the_steps_since_the_base(by_arm):
    assert {arm: total_steps(cell) for arm, cell in by_arm.items()} == STEPS


@pytest.mark.parametrize(
    ("first", "second", "steps"),
    [
        ((10, 4), (6, 8), 11),  # 40 + 48 prompts, 8 a step
        ((5, 3), (2, 8), 4),  # 15 + 16: 4 steps are one prompt more, 3 would be too few
        ((1, 1), (1, 1), 2),
        ((100, 1), (1, 50), 3),
    ],
)
def test_one_stage_has_no_fewer_prompts_than_two(first, second, steps):
    changes = [
        {"max_steps": count, "trainer": {"prompts_per_step": prompts}} for count, prompts in (first, second)
    ]
    grid = grid_of(recipe_of(first=changes[0], second=changes[1]), ["joint", "ranking"])
    assert {cell.arm: cell.config.stages[0].max_steps for cell in grid} == {"joint": steps, "ranking": steps}
    keys = [cell.config.trainer_for(cell.config.stages[0])["prompts_per_step"] for cell in grid]
    assert keys == [second[1]] * 2


def test_what_the_second_stage_says_of_its_trainer_holds_for_the_arms_of_one_stage(by_arm):
    rates = {
        arm: [cell.config.trainer_for(stage)["learning_rate"] for stage in cell.config.stages]
        for arm, cell in by_arm.items()
        if arm in STAGES
    }
    assert rates == {
        "regression": [1.5e-4],
        "ranking": [3e-4],
        "joint": [3e-4],
        **{arm: [1.5e-4, 3e-4] for arm in ["rarl_no_mutation", *WAYS, "rarl"]},
    }


def test_from_sft_the_second_stage_is_rarl_s(by_arm):
    config, rarl = by_arm["sft_rarl"].config, by_arm["rarl"].config
    assert config.sft == by_arm["sft"].config.sft
    assert config.sft_arguments() == by_arm["sft"].config.sft_arguments()
    assert config.stages[0] == rarl.stages[0]  # of which SFT has the prompts as well
    assert config.stages[1] == rarl.stages[1].model_copy(update={"start": "sft"})
    assert config.steps_before(config.stages[1]) == 600
    assert rarl.steps_before(rarl.stages[1]) == 200
    parts = [(part.steps, part.prompts, part.learning_rate) for part in parts_of(by_arm["sft_rarl"])]
    assert parts == [(600, 4800, 5e-4), (400, 3200, 3e-4)]


def test_the_longer_sft_has_the_prompts_of_sft_and_of_the_second_stage_from_there(by_arm, digits):
    config = by_arm["sft_long"].config
    [part] = parts_of(by_arm["sft_long"])
    assert (part.steps, part.prompts, part.learning_rate) == (1000, 8000, 5e-4)
    assert config.stages[:2] == by_arm["sft"].config.stages
    again = config.stages[2]
    assert again == config.stages[1].model_copy(update={"name": "rarl_again"})
    rows = digits.split("train")
    first, second = ([g.rows for g in stage_groups(config, stage, rows)] for stage in config.stages[1:])
    assert len(first) == len(second) == 3200
    assert first != second  # further prompts: SFT sees each once


def test_a_recipe_whose_stage_starts_from_sft_is_refused():
    """It says nothing that an arm would follow: `sft_rarl` starts from SFT, and the others don't."""
    with pytest.raises(ConfigError, match="add the arm that starts from SFT by --arms sft_rarl"):
        grid_of(recipe_of(second={"start": "sft"}))


@pytest.mark.parametrize("given", [None, 80])
def test_the_replies_of_all_arms_are_cut_at_one_length(given):
    """A cell of the first stage alone was once cut at that stage's own length."""
    changes = {"first": {"trainer": {"max_completion_length": 24}}}
    if given:
        changes["evaluation"] = {"max_new_tokens": given}
    for cell in grid_of(recipe_of(**changes)):
        assert cell.config.evaluation.max_new_tokens == reply_length(cell.config) == (given or 96)


def test_as_many_prompts_where_responses_serve_twice():
    """50 x 8 and 80 / 2 x 8 prompts are 720; in one stage of the second's settings, 90 generations for 180
    steps."""
    first, second = {"max_steps": 50}, {"max_steps": 80, "trainer": {"num_iterations": 2}}
    grid = grid_of(recipe_of(first=first, second=second))
    prompts = {cell.arm: [part.prompts for part in parts_of(cell)] for cell in grid}
    assert prompts == {
        **{"base": [], "sft": [720], "sft_answer_only": [720], "sft_long": [1040], "sft_rarl": [720, 320]},
        **{"regression": [400], "ranking": [720], "joint": [720]},
        **{arm: [400, 320] for arm in ["rarl_no_mutation", *WAYS, "rarl"]},
    }
    steps = {cell.arm: total_steps(cell) for cell in grid}
    assert (steps["joint"], steps["rarl"], steps["sft"]) == (180, 130, 90)


def test_ranking_keeps_its_other_weights():
    weights = {"regression": 3, "ranking": 0.5, "format": 2}
    grid = grid_of(recipe_of(second={"weights": weights}), ["ranking", "joint"])
    assert {cell.arm: cell.config.stages[0].weights.in_order for cell in grid} == {
        "ranking": [0, 0.5, 2],
        "joint": [3, 0.5, 2],
    }


def test_where_a_cell_is_and_what_it_begins_with(by_arm):
    starts = {arm: str(cell.start) for arm, cell in by_arm.items()}
    begun = {arm: f"grid/seed-0/{first}/{first}" for arm, first in BEGINS_WITH.items()}
    assert starts == dict.fromkeys(ARMS, "base-0") | begun
    for arm, cell in by_arm.items():
        assert cell.folder.as_posix() == f"grid/seed-0/{arm}"
        assert cell.config.output == cell.folder
        assert cell.config.model == "base-0"
        assert str(cell.model) == ("base-0" if arm == "base" else f"grid/seed-0/{arm}/{arm}")


def test_the_first_stage_is_the_same_run_for_all_that_begin_with_it(by_arm):
    shared = by_arm["regression"].config
    for arm in TWO:
        config = by_arm[arm].config
        assert config.stages[0] == shared.stages[0]
        assert (config.seed, config.trainer, config.model) == (shared.seed, shared.trainer, shared.model)


def test_arms_that_differ_in_mutation_alone_see_the_same_groups(digits):
    recipe = recipe_of(first={"max_steps": 3}, second={"max_steps": 7})
    rows = digits.split("train")
    seen = {
        (cell.arm, cell.seed): [
            [[row.id for row in group.rows] for group in stage_groups(cell.config, stage, rows)]
            for stage in cell.config.stages
        ]
        for cell in grid_of(recipe, seeds=(0, 1))
    }
    for seed in (0, 1):
        assert seen["rarl", seed] == seen["rarl_no_mutation", seed] == seen["sft", seed]
        assert seen["rarl", seed] == seen["sft_answer_only", seed]
        assert seen["rarl", seed][0] == seen["regression", seed][0]
        assert [len(groups) for groups in seen["rarl", seed]] == [3 * 8, 7 * 8]
        assert len(seen["joint", seed][0]) == len(seen["ranking", seed][0]) == 10 * 8
    assert seen["rarl", 0] != seen["rarl", 1]


# ── which cells, in which order ──────────────────────────────────────────────────────────────────────────


def test_seed_by_seed_in_the_order_of_the_tables():
    grid = grid_of(arms=reversed(ARMS), seeds=(5, 0))
    assert [(cell.seed, cell.arm) for cell in grid] == [(seed, arm) for seed in (5, 0) for arm in ARMS]
    assert [cell.config.seed for cell in grid] == [5] * len(ARMS) + [0] * len(ARMS)


@pytest.mark.parametrize(
    ("arms", "wanted"),
    [
        (["rarl"], ["regression", "rarl"]),
        (["rarl_no_mutation", "base"], ["base", "regression", "rarl_no_mutation"]),
        (["joint", "sft", "ranking"], ["sft", "ranking", "joint"]),
        (["base"], ["base"]),
        (["regression", "rarl"], ["regression", "rarl"]),
        (["sft_rarl"], ["sft", "sft_rarl"]),
        (["rarl", "sft_long", "sft_rarl"], ["sft", "sft_long", "sft_rarl", "regression", "rarl"]),
    ],
)
def test_a_first_stage_that_is_needed_is_there_once_and_before(arms, wanted):
    assert [cell.arm for cell in grid_of(arms=arms)] == wanted


# ── several machines ─────────────────────────────────────────────────────────────────────────────────────


def unit(cell, seeds_whole):
    """What must be on one machine."""
    together = BEGINS_WITH.get(cell.arm, cell.arm)
    return cell.seed if seeds_whole else (cell.seed, together)


@pytest.mark.parametrize("seeds_whole", [False, True])
@pytest.mark.parametrize("machines", [1, 2, 3, 4, 5, 40])
def test_every_cell_is_made_by_one_machine(machines, seeds_whole):
    grid = grid_of(seeds=(0, 1, 2))
    shards = [
        cells_of_shard(grid, number, machines, seeds_whole=seeds_whole) for number in range(1, machines + 1)
    ]
    made = [(cell.seed, cell.arm) for cell in grid for some in shards if cell in some]
    assert made == [(cell.seed, cell.arm) for cell in grid]  # each once, none left out
    machine_of = {}
    for number, some in enumerate(shards):
        assert [cell for cell in grid if cell in some] == some  # in the grid's order: first stages come first
        for cell in some:
            assert machine_of.setdefault(unit(cell, seeds_whole), number) == number
    busy = sum(bool(some) for some in shards)
    assert busy == min(machines, 3 if seeds_whole else 21)  # no machine idles while another has two units


def test_the_work_is_spread_by_steps():
    """Of one seed: a unit of 2,200 (the first stage and its five arms), one of 1,000 (SFT and RARL from
    there), SFT of 1,000, three arms of 600, the base."""
    grid = grid_of()
    shards = [cells_of_shard(grid, number, 2, seeds_whole=False) for number in (1, 2)]
    own = STEPS | dict.fromkeys(BEGINS_WITH, 400)
    assert sorted(sum(own[cell.arm] for cell in some) for some in shards) == [2800, 3200]


def test_machines_agree_whatever_further_arms_are_asked_for():
    """Each machine divides by itself."""
    grid = grid_of(arms=["base", "rarl"], seeds=(0, 1))
    again = grid_of(arms=["rarl", "base"], seeds=(0, 1))
    for number in (1, 2, 3):
        one, other = (cells_of_shard(some, number, 3, seeds_whole=False) for some in (grid, again))
        assert [(cell.seed, cell.arm) for cell in one] == [(cell.seed, cell.arm) for cell in other]


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────

ONE_STAGE = {"stages": [{"name": "rarl", "images": [1, 2], "max_steps": 5, "mutation": {"k": 2}}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (ONE_STAGE, "^stages: the arms of the paper's tables come from a run of two stages"),
        ({"first": {"images": [2], "weights": {"ranking": 1}}}, "^stages: .*regression alone"),
        ({"second": {"weights": {"regression": 0}}}, r"^stages\[1\].weights: must all be above 0"),
        ({"second": {"weights": {"ranking": 0}}}, r"^stages\[1\].weights"),
        ({"second": {"weights": {"format": 0}}}, r"^stages\[1\].weights"),
        ({"second": {"mutation": None}}, r"^stages\[1\].mutation: missing"),
        ({"second": {"mutation": {"probability": 0}}}, r"^stages\[1\].mutation"),
    ],
)
def test_a_recipe_that_the_arms_can_t_be_made_of(changes, message):
    with pytest.raises(ConfigError, match=message):
        grid_of(recipe_of(**changes), ["base"])


def test_three_stages_are_no_recipe():
    mapping = read_yaml_mapping(CONFIG)
    third = mapping["stages"][1] | {"name": "third"}
    recipe = config_from(mapping | {"stages": [*mapping["stages"], third]}, "recipe")
    with pytest.raises(ConfigError, match="two stages"):
        grid_of(recipe, ["base"])


def test_an_arm_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"^unknown arm 'rlhf': the arms are base, sft, "):
        grid_of(arms=["base", "rlhf"])


# ── running them ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small(few_digits):
    return few_digits(train=16, validation=6, test=6)


KEYS = {
    **{"prompts_per_step": 1, "num_generations": 4, "learning_rate": 1e-3, "beta": 0.0, "save_steps": 1},
    **{"logging_steps": 1, "max_completion_length": 48},
}
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def short(small):
    """`short(folder, arms, seeds, trainer={...}, evaluation={...})`: a grid of a step a stage."""

    def make(folder, arms=("base", "rarl"), seeds=(0,), trainer=None, evaluation=None):
        stage = {"max_steps": 1, "trainer": {}}
        recipe = recipe_of(
            folder,
            first=stage,
            second={**stage, "images": [1, 2]},
            data=str(small.root),
            trainer=KEYS | (trainer or {}),
            validation=None,
            evaluation={"images": [1, 2], "lists": 3, "position_lists": 0} | (evaluation or {}),
        )
        return cells(recipe, arms, seeds, dict.fromkeys(seeds, str(folder / "bases/0")))

    return make


def run(grid):
    for cell, collection in zip(grid, prepare_cells(grid), strict=True):
        train_cell(cell, collection, QUIET)
        evaluate_cell(cell, collection, QUIET)


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grids") / "finished"
    copy_base(folder / "bases/0")
    grid = short(folder)
    run(grid)
    return grid


@pytest.fixture
def copy(finished, tmp_path):
    """The folder of a copy of the finished grid, where nothing may be trained: cells know their paths, so it
    stands in the finished one's place until the test is over."""
    folder = finished[0].folder.parent.parent
    shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder)
    shutil.move(tmp_path / "kept", folder)


@pytest.fixture
def trained(monkeypatch):
    """What is asked to be trained: (arm, start, steps, ids of the first group); nothing is."""
    asked = []

    def stage(config, stage, start, groups, folder, console, held_out=()):
        asked.append((folder.name, str(start), stage.max_steps, len(groups)))

    def sft(config, groups, folder, console, held_out=()):
        asked.append((folder.name, config.model, None, len(groups)))

    monkeypatch.setattr(grid_module, "train_stage", stage)
    monkeypatch.setattr(grid_module, "train_sft", sft)
    return asked


def tree(folder):
    """Every file, with what is in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_each_cell_leaves_a_run_of_its_arm_alone(finished):
    for cell in finished:
        metrics = json.loads((cell.folder / "metrics.json").read_text())
        assert list(metrics["arms"]) == [cell.arm]
        assert metrics["seed"] == cell.seed
        assert {"mae", "tau2", "parsed", "valid"} <= metrics["arms"][cell.arm].keys()
        folders = {path.name for path in cell.folder.iterdir() if path.is_dir()}
        assert folders == (set() if cell.arm == "base" else {cell.arm})  # no checkpoints, no shared stage
    models = [(cell.model / "model.safetensors").read_bytes() for cell in finished if cell.arm != "base"]
    assert models[0] != models[1]
    lists = [(cell.folder / "lists-test-0.json").read_text() for cell in finished]
    assert lists[0] == lists[1] == lists[2]


def test_what_is_finished_is_not_run_again(finished, copy, trained, monkeypatch):
    before = tree(copy)
    monkeypatch.setattr("rarl.training.run.evaluate", lambda *a, **k: pytest.fail("something was evaluated"))
    monkeypatch.setattr("rarl.training.run.load_model", lambda *a: pytest.fail("a model was loaded"))
    run(finished)
    assert trained == []
    assert tree(copy) == before


def test_further_arms_begin_with_what_is_there(short, copy, trained):
    grid = short(copy, ARMS)
    collections = prepare_cells(grid)
    for cell, collection in zip(grid, collections, strict=True):
        train_cell(cell, collection, QUIET)
    base, first = f"{copy}/bases/0", f"{copy}/seed-0/regression/regression"
    assert trained == [
        ("sft", base, None, 2),
        ("sft_answer_only", base, None, 2),
        ("sft_long", base, None, 3),
        ("sft_rarl", f"{copy}/seed-0/sft/sft", 1, 1),
        ("ranking", base, 2, 2),
        ("joint", base, 2, 2),
        ("rarl_no_mutation", first, 1, 1),
        *((way, first, 1, 1) for way in WAYS),
    ]


def test_a_model_that_is_gone_is_made_again_and_its_numbers_go_first(finished, copy, monkeypatch):
    rarl = finished[-1]
    before = tree(copy)
    shutil.rmtree(rarl.folder / "rarl")
    train, seen = grid_module.train_stage, []

    def watched(*args):
        seen.append(list(json.loads((rarl.folder / "metrics.json").read_text())["arms"]))
        train(*args)

    monkeypatch.setattr(grid_module, "train_stage", watched)
    run(finished)
    assert seen == [[]]
    after = tree(copy)
    # Times stand in the log and in training.json, and of these in the digests.
    varying = {f"seed-0/rarl/rarl/{name}" for name in ("log.jsonl", "training.json", "digests.json")}
    assert {name: after[name] for name in after if name not in varying} == {
        name: before[name] for name in before if name not in varying
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"learning_rate": 2e-3}}, r"trainer.learning_rate: 0.001 before, 0.002 now"),
        ({"evaluation": {"images": [1, 2, 4]}}, r"config.yaml: evaluation was .*choose another folder"),
        ({"evaluation": {"lists": 4}}, "config.yaml: evaluation was "),
        ({"evaluation": {"batch_size": 1}}, "config.yaml: evaluation was "),
    ],
)
def test_another_recipe_is_refused_and_nothing_is_lost(short, copy, trained, changes, message):
    before = tree(copy)
    with pytest.raises(ConfigError, match=message):
        prepare_cells(short(copy, ARMS, **changes))
    assert tree(copy) == before
    assert trained == []


def test_cells_cut_at_another_length_are_not_compared(finished, short, copy, trained):
    """As an earlier version left them, whose cells of one stage had the length of that stage."""
    [regression] = [cell for cell in finished if cell.arm == "regression"]
    file = regression.folder / "config.yaml"
    saved = read_yaml_mapping(file)
    assert saved["evaluation"]["max_new_tokens"] == 48
    saved["evaluation"]["max_new_tokens"] = None
    del saved["stages"][0]["start"]
    file.write_text(yaml_text(saved))
    prepare_cells(finished)  # the same length, though it doesn't say so
    assert len(measured(finished)[0]) == 3

    saved["evaluation"]["max_new_tokens"] = 20
    file.write_text(yaml_text(saved))
    before = tree(copy)
    for compared in (prepare_cells, measured):
        with pytest.raises(ConfigError, match="replies were cut at different lengths") as caught:
            compared(finished)
        message = str(caught.value)
        assert f"{regression.folder}: 20 tokens, not 48" in message
        assert "remove metrics.json and predictions.jsonl there" in message
        assert message.count("tokens, not") == 1
    assert tree(copy) == before

    for name in ("metrics.json", "predictions.jsonl"):
        (regression.folder / name).unlink()
    run(finished)
    assert trained == []
    assert sorted(measured(finished)[0]) == ["base", "rarl", "regression"]


def test_a_grid_that_is_refused_has_begun_nothing(short, copy):
    """Cells that are new come before the one that does not fit: begun, they would stand in the way of the
    recipe as it was."""
    before = tree(copy)
    with pytest.raises(ConfigError, match=r"learning_rate: 0.001 before, 0.002 now"):
        prepare_cells(short(copy, seeds=(1, 0), trainer={"learning_rate": 2e-3}))
    assert tree(copy) == before
    prepare_cells(short(copy, seeds=(1, 0)))


def test_checkpoints_that_were_left_go(finished, copy, trained):
    left = finished[-1].folder / "checkpoints/rarl/checkpoint-1"
    left.mkdir(parents=True)
    run(finished)
    assert trained == []
    assert not left.parent.parent.exists()
