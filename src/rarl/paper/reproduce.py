"""The paper's tables by one command, `rarl reproduce`: a recipe, a collection and a model make a grid, the
cells that are not finished are run, and what was measured is shown beside what was published. What a cell
trains is decided in `arms` and `grid`."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rarl.data.collection import Collection, load_collection
from rarl.data.sources.digits import prepare_digits
from rarl.disk import written_to
from rarl.errors import ConfigError
from rarl.files import locked, write_text
from rarl.models.machine import use_one_thread
from rarl.models.pretraining import copy_base, make_base
from rarl.paper.arms import PAPER_ARMS
from rarl.paper.grid import (
    Cell,
    cells,
    cells_of_shard,
    check_reply_lengths,
    evaluate_cell,
    parts_of,
    prepare_cells,
    total_steps,
    train_cell,
)
from rarl.paper.mutation_table import MUTATION_TABLE, efforts, reproduced
from rarl.paper.published import PublishedTable
from rarl.paper.results import differences, measured, over_seeds
from rarl.paper.tables import RESULTS, write_grid_report
from rarl.report.tables import TextTable
from rarl.training.checking import check_collection_fits
from rarl.training.config import RunConfig, check_trainer_fields, config_from, reply_length
from rarl.training.keeping.checkpoints import is_finished


@dataclass(frozen=True)
class GridPlan:
    """What is to be run.

    Attributes:
        table: of the paper.
        recipe: a run of two stages. Its `output` is the grid's folder; its `model` is `tiny`, or the one that
            all cells start from.
        arms: those of the table, and further ones.
        shard: which shard of the cells is run, from 1, and how many shards there are.
    """

    table: PublishedTable
    recipe: RunConfig
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    shard: tuple[int, int] = (1, 1)

    @property
    def embedded(self) -> bool:
        """Whether the cells start from the embedded model."""
        return self.recipe.model == "tiny"

    @property
    def folder(self) -> Path:
        """The folder of the table's own files. The cells are shared by all tables of the grid."""
        return self.recipe.output / self.table.name


def plan_grid(
    table: str,
    mapping: dict[str, Any],
    where: str,
    *,
    out: Path | None,
    seeds: Sequence[int],
    further: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
) -> GridPlan:
    """Checks what is asked for, before anything runs.

    Args:
        table: one of `rarl.paper.mutation_table.REPRODUCED_TABLES`.
        mapping: a run's YAML; if it has `data`, the task is that of the collection.
        where: what an error begins with, such as the name of the YAML.
        out: the grid's folder; None names it after task and model.
        further: arms beside those of the table.

    Raises:
        ConfigError, DataError: for a recipe or a collection that will not do.
    """
    task, data = mapping.get("task"), mapping.get("data")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is a file; a grid is a folder")
    if data is not None:
        collection = load_collection(data)
        if task is not None and task not in (collection.task.name, collection.task.to_dict()):
            raise ConfigError(f"task: {data} is of '{collection.task.name}', not {task!r}: leave --task away")
        mapping = {**mapping, "task": collection.task.to_dict()}
    recipe = config_from({**mapping, "output": str(out or "unnamed"), "seed": 0}, where)
    if out is None:
        name = f"{recipe.task.name}-{Path(recipe.model).name}".replace(" ", "_")
        recipe = recipe.model_copy(update={"output": Path("runs/reproduce") / name})
    printed = reproduced(table)
    arms = tuple(arm for arm in PAPER_ARMS if arm in {*printed.arms, *further})
    cells(recipe, [*printed.arms, *further], [0], {0: recipe.model})  # an error if it can't make them
    return GridPlan(printed, recipe, arms, tuple(seeds), shard)


def run_grid(planned: GridPlan, console: Console) -> dict[str, Any]:
    """Runs what is not finished of a plan, and writes `results.json`, `report.md` and `report.html` into the
    table's folder.

    Returns:
        What `results.json` holds; under `accelerate launch`, nothing in any process but the first.

    Raises:
        ConfigError, DataError, ModelError: for what can't work, before anything is trained. Also for a cell
            on which another command is at work.
    """
    from accelerate import PartialState

    if planned.embedded:
        use_one_thread()
    state = PartialState()
    first = state.is_main_process
    console.quiet = console.quiet or not first
    with ExitStack() as work:
        work.enter_context(written_to(planned.folder))
        with state.main_process_first():  # the others find what the first has made
            grid, mine, collections = _prepare_grid(planned, console)
            for cell in mine if first else []:
                work.enter_context(locked(cell.folder, "training"))
        for number, (cell, collection) in enumerate(zip(mine, collections, strict=True), 1):
            place = f"[{number}/{len(mine)}] seed {cell.seed}, {cell.arm}"
            console.print(place, highlight=False, markup=False)
            train_cell(cell, collection, console)
            # With several processes the others would wait for the first, and give up before it is done.
            if state.num_processes == 1:
                evaluate_cell(cell, collection, console)
        if not first:
            return {}
        for cell, collection in zip(mine, collections, strict=True):
            evaluate_cell(cell, collection, console)
    with locked(planned.folder, "results", wait=True):  # another shard may run on the same disk
        results = gather_results(planned, grid)
        write_text(planned.folder / RESULTS, json.dumps(results, indent=2) + "\n")
        if results["arms"]:
            write_grid_report(planned.folder)
    return results


def _prepare_grid(planned: GridPlan, console: Console) -> tuple[list[Cell], list[Cell], list[Collection]]:
    """The grid, the cells of this shard, and the collection of each; models and data are made and checked."""
    recipe = planned.recipe
    if recipe.data is None:
        with locked(recipe.output, "data", wait=True):  # another shard may write them too
            data = prepare_digits(recipe.output / "data")
        recipe = recipe.model_copy(update={"data": recipe.output / "data"})
    else:
        data = load_collection(recipe.data)
    bases = {seed: recipe.output / "bases" / str(seed) for seed in planned.seeds}
    models = {seed: str(bases[seed]) if planned.embedded else recipe.model for seed in planned.seeds}
    grid = cells(recipe, planned.arms, planned.seeds, models)
    check_reply_lengths(grid)
    built = [seed for seed in planned.seeds if planned.embedded and not _is_shipped(planned, data, seed)]
    mine = cells_of_shard(grid, *planned.shard, seeds_whole=bool(built))
    for cell in mine:  # before bases are built, which takes minutes
        check_trainer_fields(cell.config)
        check_collection_fits(cell.config, data)
    for seed in dict.fromkeys(cell.seed for cell in mine):
        if planned.embedded and not is_finished(bases[seed]):
            _make_base(planned, bases[seed], seed, data if seed in built else None, console)
    return grid, mine, prepare_cells(mine)


def _make_base(planned: GridPlan, out: Path, seed: int, data: Collection | None, console: Console) -> None:
    """The base of a seed: built from the collection's split `pretrain`, or without one the shipped base."""
    # A base that is built belongs to one shard; whoever waited for it would wait for minutes in silence.
    with locked(planned.recipe.output, f"base-{seed}", wait=data is None):
        if data is not None:
            console.print(f"building the embedded base of seed {seed}", highlight=False)
            make_base(out, seed, console, data)
        elif not is_finished(out):  # another shard may have been faster
            copy_base(out)


def gather_results(planned: GridPlan, grid: Sequence[Cell]) -> dict[str, Any]:
    """What the cells have measured over their seeds, as it stands in `results.json`."""
    found, shown, task = measured(grid), planned.arms, planned.recipe.task
    arms: dict[str, dict[str, Any]] = {}
    for arm in shown:
        of_seeds = [found[seed][arm]["arms"][arm] for seed in planned.seeds if arm in found.get(seed, {})]
        if of_seeds:
            names = [name for name in of_seeds[0] if all(name in metrics for metrics in of_seeds)]
            arms[arm] = {name: over_seeds([metrics[name] for metrics in of_seeds]) for name in names}
    of_table = [cell for cell in grid if cell.arm in shown]
    one = {arm: next(cell for cell in of_table if cell.arm == arm) for arm in shown}
    first = next((metrics for seed in found.values() for metrics in seed.values()), None)
    return {
        "table": planned.table.name,
        "task": task.name,
        "split": planned.recipe.evaluation.split,
        "model": "embedded base" if planned.embedded else Path(planned.recipe.model).name,
        "seeds": list(planned.seeds),
        "lists": first["lists"] if first else {},
        "steps": {arm: total_steps(cell) for arm, cell in one.items()},
        # An entry for SFT and for each stage, in order.
        "prompts": {arm: [part.prompts for part in parts_of(cell)] for arm, cell in one.items()},
        "learning_rates": {arm: [part.learning_rate for part in parts_of(cell)] for arm, cell in one.items()},
        **({"effort": efforts(of_table, shown)} if planned.table is MUTATION_TABLE else {}),
        "max_new_tokens": reply_length(next(iter(one.values())).config),
        "arms": arms,
        "differences": {arm: differences(of_table, shown[-1], arm, task) for arm in shown[:-1]},
        "missing": [f"seed {c.seed} {c.arm}" for c in of_table if c.arm not in found.get(c.seed, {})],
    }


def print_table(table: TextTable, console: Console) -> None:
    """Prints a table and its notes on a terminal."""
    console.print(table.terminal())
    for note in table.notes:
        console.print(Text(note), style="dim")


def _is_shipped(planned: GridPlan, collection: Collection, seed: int) -> bool:
    """Whether the seed's base is the one that ships with the package. That was trained on the digits; it is
    the base of every seed if the collection has no split to train one on."""
    return "pretrain" not in collection.splits or (seed == 0 and planned.recipe.data is None)
