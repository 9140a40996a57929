"""The table `mutation`, which the paper has not: ways to deal with groups that teach nothing, side by side.
GRPO as it is, the paper's RMO, two options of it, and its rival dynamic sampling (DAPO), each with what it
took. No number of it was published. The arms themselves are rows of `arms`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.paper.grid import Cell, total_steps
from rarl.paper.published import OWN_TABLES, PUBLISHED_TABLES, PublishedTable, published
from rarl.report.tables import MISSING, TextTable
from rarl.training.mutation.effort import EFFORT_KEYS

MUTATION_TABLE = PublishedTable(
    name="mutation",
    caption="What to do about groups of responses that teach nothing",
    arms=(
        *("base", "regression", "rarl_no_mutation", "dynamic_sampling", "rarl_shaped"),
        *("rarl_own_statistics", "rarl"),
    ),
    parts=(),
)
REPRODUCED_TABLES = (*PUBLISHED_TABLES, *OWN_TABLES)
"""What `rarl reproduce` makes: the paper's tables, and this one."""


def reproduced(name: str) -> PublishedTable:
    """The table of that name, one of `REPRODUCED_TABLES`."""
    return MUTATION_TABLE if name == MUTATION_TABLE.name else published(name)


def effort_of(cell: Cell) -> dict[str, float] | None:
    """What the training of a cell's arm took since the base: `updates`, `prompts`, `responses` and `seconds`,
    with those of the arm that it begins with. None where a log does not say it: of SFT, of an arm that is not
    finished, and of one that an earlier version has trained.

    Raises:
        DataError: if a log can't be read.
    """
    if not cell.row.trained or cell.row.sft is not None or cell.config.sft is not None:
        return None
    folders = [cell.folder / cell.arm]
    if cell.row.begins_with:
        folders.append(Path(cell.start))
    found = [_last_counts(folder / "log.jsonl") for folder in folders]
    if any(counts is None for counts in found):
        return None
    names = [key.removeprefix("effort/") for key in EFFORT_KEYS]
    sums = {
        name: sum(counts[key] for counts in found if counts is not None)
        for name, key in zip(names, EFFORT_KEYS, strict=True)
    }
    return {"updates": total_steps(cell), **sums}


def _last_counts(path: Path) -> dict[str, float] | None:
    """The last line of a log that counts what was spent."""
    if not path.is_file():
        return None
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: not a log of training ({error})") from error
    counted = [line for line in lines if EFFORT_KEYS[0] in line]
    return counted[-1] if counted else None


def efforts(grid: Sequence[Cell], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """ARM -> the means of `effort_of` over the seeds that have one, and how many these are."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        of_seeds = [effort for cell in grid if cell.arm == arm and (effort := effort_of(cell)) is not None]
        if of_seeds:
            means = {key: sum(effort[key] for effort in of_seeds) / len(of_seeds) for key in of_seeds[0]}
            found[arm] = {**means, "seeds": len(of_seeds)}
    return found


def effort_table(results: Mapping[str, Any], names: Mapping[str, str]) -> TextTable | None:
    """What each arm took, as a table; None where nothing was counted.

    Args:
        results: what `rarl.paper.reproduce` writes as `results.json`.
        names: ARM -> what it is called.
    """
    found = results.get("effort", {})
    if not found:
        return None
    keys = ("updates", "prompts", "responses", "seconds")
    rows = tuple(
        (name, *(f"{found[arm][key]:,.0f}" if arm in found else MISSING for key in keys))
        for arm, name in names.items()
        if arm != "base"
    )
    notes = (
        "Since the base, the first stage included; means over the seeds. Prompts and responses are all that "
        "were generated, those that dynamic sampling dropped among them. Seconds are of training steps, "
        "generation included, on the machine that ran them.",
    )
    return TextTable("Measured: what the arms took", ("Methods", *map(str.capitalize, keys)), rows, notes)
