"""The paper's comparisons (section 4, Tables 2-6) as grids of cells, each an arm with a seed. A grid is a
folder. What is whole in it is not made again, arms that begin alike share what they begin with, and the cells
may be divided into shards for several machines. What the paper printed, and the tables, are not here."""

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
from rarl.method.rewards import TERMS
from rarl.paper.arms import PAPER_ARMS, SHARED_STAGE, PaperArm, PaperStage
from rarl.training.arms import train_sft, train_stage
from rarl.training.callbacks import validation_groups
from rarl.training.checkpoints import is_finished
from rarl.training.config import RunConfig, check_trainer_fields, config_from
from rarl.training.run import begin_run, check_run, evaluate_arm, forget_results, stage_groups


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: a name in `PAPER_ARMS`.
        config: a run of this arm alone. Its `output` is the cell's folder, and the model's folder in there
            has the arm's name.
        start: the model that its training starts from; for `base`, the one that is evaluated.
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
        """The model that is evaluated."""
        return self.folder / self.arm if self.row.trained else self.start

    @property
    def row(self) -> PaperArm:
        """How its arm is trained."""
        return PAPER_ARMS[self.arm]


def cells(
    recipe: RunConfig, arms: Iterable[str], seeds: Sequence[int], models: Mapping[int, str]
) -> list[Cell]:
    """The cells of a grid, each after the one it starts from. First stages that others start from are among
    them, asked for or not.

    Args:
        recipe: a run of two stages, the first of them regression alone. `output` is the grid's folder, `data`
            the collection.
        arms: names in `PAPER_ARMS`.
        models: SEED -> its base.

    Raises:
        ConfigError: if an arm is unknown, or the recipe lacks what the arms need.
    """
    wanted = set(arms)
    if unknown := wanted - set(PAPER_ARMS):
        raise ConfigError(f"unknown arm '{min(unknown)}': the arms are {', '.join(PAPER_ARMS)}")
    _check_recipe(recipe)
    if any(PAPER_ARMS[arm].begins_with_first_stage for arm in wanted):
        wanted.add(SHARED_STAGE)
    return [
        _make_cell(recipe, arm, seed, models[seed])
        for seed in seeds
        for arm in PAPER_ARMS.values()
        if arm.name in wanted
    ]


def cells_of_shard(grid: Sequence[Cell], number: int, count: int, *, seeds_whole: bool) -> list[Cell]:
    """The cells of shard `number` (from 1) of `count`.

    Cells that share something which is made on the way stay together: a first stage and the arms that start
    from it, or, with `seeds_whole`, all cells of a seed, because its base has to be built. Such a unit goes,
    the longest first, to the shard with the fewest steps so far.
    """
    units: dict[tuple[int, str], list[Cell]] = {}
    for cell in grid:
        together = SHARED_STAGE if cell.row.begins_with_first_stage else cell.arm
        units.setdefault((cell.seed, "" if seeds_whole else together), []).append(cell)
    loads = [0] * count
    chosen: list[Cell] = []
    for unit in sorted(units.values(), key=lambda unit: -sum(_own_steps(cell) for cell in unit)):
        least = loads.index(min(loads))
        loads[least] += sum(_own_steps(cell) for cell in unit) + 1
        if least == number - 1:
            chosen += unit
    return [cell for cell in grid if cell in chosen]


def total_steps(cell: Cell) -> int:
    """The steps of gradient descent between the base and the cell's model."""
    if not cell.row.trained:
        return 0
    if cell.config.sft is not None:
        return int(cell.config.sft_arguments()["max_steps"])
    return sum(stage.max_steps for stage in cell.config.stages)


def _own_steps(cell: Cell) -> int:
    """The steps that a cell trains itself, after those of a first stage that it shares."""
    return cell.config.stages[-1].max_steps if cell.row.begins_with_first_stage else total_steps(cell)


def _check_recipe(recipe: RunConfig) -> None:
    if len(recipe.stages) != 2 or recipe.stages[0].weights.ranking > 0:
        raise ConfigError(
            "stages: the arms of the paper's tables come from a run of two stages, regression alone "
            "(weights.ranking 0) and then everything; change the stages, or compare runs of your own with "
            "rarl train and rarl report"
        )
    second = recipe.stages[1]
    weights = zip(TERMS, second.weights.in_order, strict=True)
    if any(term.weight > 0 and weight == 0 for term, weight in weights):
        raise ConfigError("stages[1].weights: must all be above 0: this is the stage with everything")
    if second.mutation is None or second.mutation.probability == 0:
        raise ConfigError("stages[1].mutation: missing; the arm rarl needs it, and others are made without")
    if set(second.images) == {1}:
        raise ConfigError("stages[1].images: must have lists of 2 images or more, to be ranked")


def _make_cell(recipe: RunConfig, arm: PaperArm, seed: int, model: str) -> Cell:
    """The run of one arm, with the recipe's prompts: arms that see the same groups see them in one order."""
    plain = recipe.to_dict()
    changes: dict[str, Any] = {
        "seed": seed,
        "model": model,
        "output": str(recipe.output / f"seed-{seed}" / arm.name),
        "sft": None if arm.sft is None else {**(plain["sft"] or {}), "reasoning": arm.sft},
        "stages": [_stage_of(recipe, stage) for stage in arm.stages],
    }
    config = config_from(plain | changes, f"the arm {arm.name}")
    shared = recipe.output / f"seed-{seed}" / SHARED_STAGE / SHARED_STAGE
    return Cell(arm.name, seed, config, shared if arm.begins_with_first_stage else model)


def _stage_of(recipe: RunConfig, stage: PaperStage) -> dict[str, Any]:
    """A stage of the recipe, changed as an arm has it."""
    first, second = recipe.to_dict()["stages"]
    made: dict[str, Any] = dict(first if stage.of == "first" else second)
    if not stage.mutation:
        made["mutation"] = None
    if not stage.regression:
        made["weights"] = {**made["weights"], "regression": 0.0}
        made["images"] = [count for count in made["images"] if count > 1]
    if stage.alone:  # as many prompts as the two stages together, so that it is no worse off
        prompts = [own.max_steps * recipe.trainer_for(own)["prompts_per_step"] for own in recipe.stages]
        made["max_steps"] = -(-sum(prompts) // recipe.trainer_for(recipe.stages[1])["prompts_per_step"])
    return made


def prepare_cells(grid: Sequence[Cell]) -> list[Collection]:
    """Checks every cell and begins its run; nothing is begun unless all of them can run.

    Returns:
        The collection of each cell.

    Raises:
        ConfigError, DataError, ModelError: for what can't work, or a cell that was begun differently.
    """
    for cell in grid:
        check_trainer_fields(cell.config)
        _check_evaluated_alike(cell)
    collections = [check_run(cell.config, resume=True) for cell in grid]
    for cell in grid:  # if one was refused, none has begun
        begin_run(cell.config, resume=True)
        if cell.row.trained and not is_finished(cell.folder / cell.arm):
            forget_results(cell.config, cell.arm)  # the results of a model that is gone
    return collections


def train_cell(cell: Cell, collection: Collection, console: Console) -> None:
    """Trains the cell's arm, unless it is finished; from its last complete checkpoint if there is one."""
    config, folder = cell.config, cell.folder / cell.arm
    if not cell.row.trained or is_finished(folder):
        return
    rows, held_out = collection.split("train"), validation_groups(config, collection)
    groups = [stage_groups(config, stage, rows) for stage in config.stages]
    if config.sft is not None:
        train_sft(config, [group for drawn in groups for group in drawn], folder, console, held_out)
    else:
        train_stage(config, config.stages[-1], cell.start, groups[-1], folder, console, held_out)
    gc.collect()  # a trainer and its models refer to each other


def evaluate_cell(cell: Cell, collection: Collection, console: Console) -> None:
    """Evaluates the cell's arm, unless it is evaluated, and removes the checkpoints of its training."""
    shutil.rmtree(cell.folder / "checkpoints", ignore_errors=True)
    evaluate_arm(cell.config, collection, cell.arm, cell.model, console)


def _check_evaluated_alike(cell: Cell) -> None:
    """Refuses another evaluation than before. A run may change it, but a grid compares its cells."""
    saved = cell.folder / "config.yaml"
    if saved.is_file():
        before, now = read_yaml_mapping(saved).get("evaluation"), cell.config.to_dict()["evaluation"]
        if before != now:
            raise ConfigError(
                f"{saved}: evaluation was {before}, and is {now} now: give back the values from before, or "
                "choose another folder with --out"
            )
