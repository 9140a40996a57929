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
from rarl.evaluation.results import load_metrics
from rarl.method.rewards import TERMS
from rarl.paper.arms import PAPER_ARMS, PaperArm, PaperStage
from rarl.training.arms import train_sft, train_stage
from rarl.training.callbacks import validation_groups
from rarl.training.checking import begin_run, check_run
from rarl.training.config import (
    RunConfig,
    check_trainer_fields,
    completion_length,
    config_from,
    load_config,
    reply_length,
    stage_groups,
)
from rarl.training.keeping.checkpoints import is_finished
from rarl.training.run import evaluate_arm, forget_results
from rarl.training.trainer_keys import steps_for_prompts
from rarl.yaml_files import read_yaml_mapping


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
    """The cells of a grid, each after the one it starts from. Arms that others start from are among them,
    asked for or not.

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
    wanted |= {first for arm in wanted if (first := PAPER_ARMS[arm].begins_with) is not None}
    return [
        _make_cell(recipe, arm, seed, models[seed])
        for seed in seeds
        for arm in PAPER_ARMS.values()
        if arm.name in wanted
    ]


def cells_of_shard(grid: Sequence[Cell], number: int, count: int, *, seeds_whole: bool) -> list[Cell]:
    """The cells of shard `number` (from 1) of `count`.

    Cells that share something which is made on the way stay together: an arm and those that start from its
    model, or, with `seeds_whole`, all cells of a seed, because its base has to be built. Such a unit goes,
    the longest first, to the shard with the fewest steps so far.
    """
    units: dict[tuple[int, str], list[Cell]] = {}
    for cell in grid:
        together = cell.row.begins_with or cell.arm
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
    return sum(part.steps for part in parts_of(cell))


def _own_steps(cell: Cell) -> int:
    """The steps that a cell trains itself, after those of the arm that it begins with."""
    return cell.config.stages[-1].max_steps if cell.row.begins_with else total_steps(cell)


@dataclass(frozen=True)
class TrainingPart:
    """SFT or a stage, on the way from the base to a cell's model."""

    steps: int
    prompts: int
    learning_rate: float


def parts_of(cell: Cell) -> list[TrainingPart]:
    """What a cell's model was trained with since the base, in order; nothing for the base itself."""
    config = cell.config
    if not cell.row.trained:
        return []
    parts: list[TrainingPart] = []
    if config.sft is not None:
        given = config.sft_arguments()
        prompts = given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 1)
        parts.append(TrainingPart(given["max_steps"], given["max_steps"] * prompts, given["learning_rate"]))
    stages = [] if cell.row.sft else config.stages[-1:] if config.sft else config.stages
    for stage in stages:
        rate = config.trainer_for(stage)["learning_rate"]
        parts.append(TrainingPart(stage.max_steps, config.prompts_of(stage), rate))
    return parts


def _check_recipe(recipe: RunConfig) -> None:
    if len(recipe.stages) != 2 or recipe.stages[0].weights.ranking > 0:
        raise ConfigError(
            "stages: the arms of the paper's tables come from a run of two stages, regression alone "
            "(weights.ranking 0) and then everything; change the stages, or compare runs of your own with "
            "rarl train and rarl report"
        )
    for number, stage in enumerate(recipe.stages):
        if stage.start is not None:
            raise ConfigError(
                f"stages[{number}].start: each arm says what its stages start from; remove it, and add the "
                "arm that starts from SFT by --arms sft_rarl"
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
    # An arm that starts from SFT has the section of that arm in its run.
    reasoning = arm.sft or (PAPER_ARMS[arm.begins_with].sft if arm.begins_with else None)
    changes: dict[str, Any] = {
        "seed": seed,
        "model": model,
        "output": str(recipe.output / f"seed-{seed}" / arm.name),
        "sft": None if reasoning is None else {**(plain["sft"] or {}), "reasoning": reasoning},
        "stages": [_stage_of(recipe, stage) for stage in arm.stages],
        # A cell may lack the stage with the longest responses, and is not to be cut shorter than the others.
        "evaluation": plain["evaluation"] | {"max_new_tokens": reply_length(recipe)},
    }
    config = config_from(plain | changes, f"the arm {arm.name}")
    first = arm.begins_with
    return Cell(arm.name, seed, config, recipe.output / f"seed-{seed}" / first / first if first else model)


def _stage_of(recipe: RunConfig, stage: PaperStage) -> dict[str, Any]:
    """A stage of the recipe, changed as an arm has it."""
    first, second = recipe.to_dict()["stages"]
    made: dict[str, Any] = dict(first if stage.of == "first" else second)
    made["start"] = "sft" if stage.from_sft else None
    if stage.again:
        made["name"] = f"{made['name'][:58]}_again"
    # A recipe's own `stagnant: mutate` would contradict an arm without mutation.
    made["stagnant"] = "resample" if stage.resample else made["stagnant"] if stage.mutation else None
    if not stage.mutation:
        made["mutation"] = None
    elif stage.options:
        made["mutation"] = {**made["mutation"], **dict(stage.options)}
    if not stage.regression:
        made["weights"] = {**made["weights"], "regression": 0.0}
        made["images"] = [count for count in made["images"] if count > 1]
    if stage.alone:  # as many prompts as the two stages together, so that it is no worse off
        keys = recipe.trainer_for(recipe.stages[0 if stage.of == "first" else 1])
        made["max_steps"] = steps_for_prompts(keys, sum(map(recipe.prompts_of, recipe.stages)))
    return made


def prepare_cells(grid: Sequence[Cell]) -> list[Collection]:
    """Checks every cell and begins its run; nothing is begun unless all of them can run.

    Returns:
        The collection of each cell.

    Raises:
        ConfigError, DataError, ModelError: for what can't work, or a cell that was begun differently.
    """
    check_reply_lengths(grid)
    for cell in grid:
        check_trainer_fields(cell.config)
        _check_evaluated_alike(cell)
    collections = [check_run(cell.config, resume=True) for cell in grid]
    for cell, collection in zip(grid, collections, strict=True):  # if one was refused, none has begun
        begin_run(cell.config, resume=True, collection=collection)
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
    if cell.row.sft is not None:
        train_sft(config, [group for drawn in groups for group in drawn], folder, console, held_out)
    else:
        train_stage(config, config.stages[-1], cell.start, groups[-1], folder, console, held_out)
    gc.collect()  # a trainer and its models refer to each other


def evaluate_cell(cell: Cell, collection: Collection, console: Console) -> None:
    """Evaluates the cell's arm, unless it is evaluated, and removes the checkpoints of its training."""
    shutil.rmtree(cell.folder / "checkpoints", ignore_errors=True)
    evaluate_arm(cell.config, collection, cell.arm, cell.model, console)


def check_reply_lengths(grid: Sequence[Cell]) -> None:
    """Refuses to compare cells whose replies were cut at different lengths: a reply that is cut is no list,
    and its tau is 0.

    Raises:
        ConfigError: with the cells that were evaluated at another length than the grid's, and their lengths.
    """
    other: list[str] = []
    for cell in grid:
        length = _evaluated_length(cell)
        if length is not None and length != (wanted := reply_length(cell.config)):
            other.append(f"\n  {cell.folder}: {length} tokens, not {wanted}")
    if other:
        raise ConfigError(
            "replies were cut at different lengths, so these cells can't be compared with the others of the "
            "grid: remove metrics.json and predictions.jsonl there, and they are evaluated again without "
            "training (or give back the length from before with --set evaluation.max_new_tokens=N):"
            + "".join(other)
        )


def _evaluated_length(cell: Cell) -> int | None:
    """Where the replies of an evaluated cell were cut; None for one that was not evaluated."""
    saved, numbers = cell.folder / "config.yaml", cell.folder / "metrics.json"
    if not saved.is_file() or not numbers.is_file() or cell.arm not in load_metrics(numbers)["arms"]:
        return None
    config = load_config(saved)
    # Earlier versions left the key out, and cut at the length of a cell's own last stage.
    return config.evaluation.max_new_tokens or completion_length(config, config.stages[-1])


def _check_evaluated_alike(cell: Cell) -> None:
    """Refuses another evaluation than before. A run may change it, but a grid compares its cells. The length
    of replies is not asked for here: `check_reply_lengths` does, of what was evaluated."""
    saved = cell.folder / "config.yaml"
    if saved.is_file():
        length = {"max_new_tokens": None}
        before = (read_yaml_mapping(saved).get("evaluation") or {}) | length
        now = cell.config.to_dict()["evaluation"] | length
        if before != now:
            raise ConfigError(
                f"{saved}: evaluation was {before}, and is {now} now: give back the values from before, or "
                "choose another folder with --out"
            )
