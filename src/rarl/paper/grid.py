"""The paper's comparisons as grids of cells: an arm and a seed each (Tables 2-6, section 4). A grid is a
folder; what is whole in it is not made again, arms that begin alike share what they begin with, and the cells
may be spread over machines. What the paper printed, and the tables, are not here."""

import gc
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rarl.data.collection import Collection
from rarl.errors import ConfigError
from rarl.files import read_yaml_mapping
from rarl.training.arms import train_sft, train_stage
from rarl.training.callbacks import validation_groups
from rarl.training.checkpoints import is_finished
from rarl.training.config import RunConfig, check_trainer_fields, config_from
from rarl.training.run import begin_run, check_run, evaluate_arm, forget_results, stage_groups

ARMS = ("base", "sft", "sft_answer_only", "regression", "ranking", "joint", "rarl_no_mutation", "rarl")
"""In the order in which tables show them."""
TWO_STAGES = ("rarl_no_mutation", "rarl")
SHARED = "regression"  # the first stage of the arms with two


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        config: a run of this arm alone; `output` is the cell's folder, and the model folder in it has the
            arm's name.
        start: the model that its training begins with; for `base` the one that is evaluated.
    """

    arm: str
    seed: int
    config: RunConfig
    start: str | Path

    @property
    def folder(self) -> Path:
        return self.config.output

    @property
    def model(self) -> str | Path:
        """What is evaluated."""
        return self.start if self.arm == "base" else self.folder / self.arm


def cells(
    recipe: RunConfig, arms: Iterable[str], seeds: Sequence[int], models: Mapping[int, str]
) -> list[Cell]:
    """The cells of a grid, each after the one it begins with; first stages that others need are among them.

    Args:
        recipe: a run of two stages, of which the first is regression alone; `output` is the grid's folder,
            `data` the collection.
        arms: names out of `ARMS`.
        models: the base of each seed.

    Raises:
        ConfigError: if the recipe has not what the arms need.
    """
    wanted = set(arms)
    if unknown := wanted - set(ARMS):
        raise ConfigError(f"unknown arm '{min(unknown)}': the arms are {', '.join(ARMS)}")
    _check_recipe(recipe)
    if wanted & set(TWO_STAGES):
        wanted.add(SHARED)
    return [
        _cell(recipe, arm, seed, models[seed])
        for seed in seeds
        for arm in ARMS  # the first stage comes before the arms that begin with it
        if arm in wanted
    ]


def shard(grid: Sequence[Cell], number: int, count: int, *, seeds_whole: bool) -> list[Cell]:
    """The cells of machine `number` (from 1) of `count`.

    Cells that share something which is made on the way stay together: a first stage and the arms that begin
    with it; with `seeds_whole` all cells of a seed, where its base has to be built. The rest goes, by its
    steps, to whoever has least to do.
    """
    units: dict[tuple[int, str], list[Cell]] = {}
    for cell in grid:
        together = SHARED if cell.arm in TWO_STAGES else cell.arm
        units.setdefault((cell.seed, "" if seeds_whole else together), []).append(cell)
    loads = [0] * count
    chosen: list[Cell] = []
    for unit in sorted(units.values(), key=lambda unit: -sum(_steps(cell) for cell in unit)):
        machine = loads.index(min(loads))
        loads[machine] += sum(_steps(cell) for cell in unit) + 1
        if machine == number - 1:
            chosen += unit
    return [cell for cell in grid if cell in chosen]


def total_steps(cell: Cell) -> int:
    """The steps of gradient descent between the base and the cell's model."""
    if cell.arm == "base":
        return 0
    if cell.config.sft is not None:
        return int(cell.config.sft_arguments()["max_steps"])
    return sum(stage.max_steps for stage in cell.config.stages)


def _steps(cell: Cell) -> int:
    """The steps that a cell trains by itself."""
    return cell.config.stages[-1].max_steps if cell.arm in TWO_STAGES else total_steps(cell)


def _check_recipe(recipe: RunConfig) -> None:
    if len(recipe.stages) != 2 or recipe.stages[0].weights.ranking > 0:
        raise ConfigError(
            "stages: the arms of the paper's tables come from a run of two stages, regression alone "
            "(weights.ranking 0) and then everything; change the stages, or compare runs of your own with "
            "rarl train and rarl report"
        )
    second = recipe.stages[1]
    if not all(second.weights.in_order):
        raise ConfigError("stages[1].weights: must all be above 0: this is the stage with everything")
    if second.mutation is None or second.mutation.probability == 0:
        raise ConfigError("stages[1].mutation: missing; the arm rarl needs it, and others are made without")
    if set(second.images) == {1}:
        raise ConfigError("stages[1].images: must have lists of 2 images or more, to be ranked")


def _cell(recipe: RunConfig, arm: str, seed: int, model: str) -> Cell:
    """The run of one arm, with the recipe's prompts: arms that see the same groups see them in one order."""
    plain = recipe.to_dict()
    first, second = plain["stages"]
    without_mutation = {**second, "mutation": None}
    # As many prompts as the two stages have together, so that the arms of one stage are no worse off.
    prompts = [stage.max_steps * recipe.trainer_for(stage)["prompts_per_step"] for stage in recipe.stages]
    whole = -(-sum(prompts) // recipe.trainer_for(recipe.stages[1])["prompts_per_step"])
    stages: dict[str, list[dict[str, Any]]] = {
        "regression": [first],
        "joint": [{**without_mutation, "max_steps": whole}],
        "ranking": [
            {
                **without_mutation,
                "max_steps": whole,
                "weights": {**second["weights"], "regression": 0.0},
                "images": [count for count in second["images"] if count > 1],
            }
        ],
        "rarl_no_mutation": [first, without_mutation],
    }
    sft = None
    if arm in ("sft", "sft_answer_only"):
        sft = {**(plain["sft"] or {}), "reasoning": "template" if arm == "sft" else "empty"}
    output = recipe.output / f"seed-{seed}" / arm
    changes = {"seed": seed, "model": model, "output": str(output), "sft": sft}
    config = config_from(plain | changes | {"stages": stages.get(arm, [first, second])}, f"the arm {arm}")
    start = recipe.output / f"seed-{seed}" / SHARED / SHARED if arm in TWO_STAGES else model
    return Cell(arm, seed, config, start)


def prepare_cells(grid: Sequence[Cell]) -> list[Collection]:
    """Checks every cell and begins its run, so that nothing runs where something can't; the collections.

    Raises:
        ConfigError, DataError, ModelError: for what can't work, or a cell that was begun otherwise.
    """
    for cell in grid:
        check_trainer_fields(cell.config)
        _check_evaluated_alike(cell)
    collections = [check_run(cell.config, resume=True) for cell in grid]
    for cell in grid:  # nothing has begun where one is refused
        begin_run(cell.config, resume=True)
        if cell.arm != "base" and not is_finished(cell.folder / cell.arm):
            forget_results(cell.config, cell.arm)  # of a model that is gone
    return collections


def train_cell(cell: Cell, collection: Collection, console: Console) -> None:
    """Trains the cell's arm, unless it is finished, from its last complete checkpoint where there is one."""
    config, folder = cell.config, cell.folder / cell.arm
    if cell.arm == "base" or is_finished(folder):
        return
    rows, held_out = collection.split("train"), validation_groups(config, collection)
    groups = [stage_groups(config, stage, rows) for stage in config.stages]
    if config.sft is not None:
        train_sft(config, [group for drawn in groups for group in drawn], folder, console, held_out)
    else:
        train_stage(config, config.stages[-1], cell.start, groups[-1], folder, console, held_out)
    gc.collect()  # a trainer and its models refer to each other


def evaluate_cell(cell: Cell, collection: Collection, console: Console) -> None:
    """Evaluates the cell's arm, unless it is evaluated, and takes away what its training left."""
    shutil.rmtree(cell.folder / "checkpoints", ignore_errors=True)
    evaluate_arm(cell.config, collection, cell.arm, cell.model, console)


def _check_evaluated_alike(cell: Cell) -> None:
    """Unlike a run, whose evaluation may change, a grid compares cells."""
    saved = cell.folder / "config.yaml"
    if saved.is_file():
        before, now = read_yaml_mapping(saved).get("evaluation"), cell.config.to_dict()["evaluation"]
        if before != now:
            raise ConfigError(
                f"{saved}: evaluation was {before}, and is {now} now: give back the values from before, or "
                "choose another folder with --out"
            )
