"""A grid beside the paper: the measured arms as one table, how far its last arm is from the others, and what
was printed as tables of their own, which are never mixed with the first."""

from dataclasses import dataclass
from typing import Any

from rarl.published import COUNTS, SOURCE, PublishedTable
from rarl.report import ARM_NAMES, ARROWS, MISSING, STYLES
from rarl.tasks import Metric, Task

NAMES: dict[Metric, str] = {"mae": "MAE", "accuracy": "accuracy in %", "srcc": "SRCC"}


@dataclass(frozen=True)
class GridTable:
    """A table as texts: the first column names the row, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def measured_table(results: dict[str, Any], task: Task, table: PublishedTable) -> GridTable:
    """The arms of a grid over its seeds.

    Args:
        results: what `rarl.reproduce` writes as `results.json`.
    """
    counts = sorted({int(count) for count in results["lists"]})
    columns = {f"1-img{ARROWS[task.metric]}": task.metric} | {f"{n}-imgs↑": f"tau{n}" for n in counts}
    columns |= {"parsed": "parsed", "valid": "valid"}
    names = {"base": results["model"], **ARM_NAMES}
    rows = [
        (
            names[arm],
            *(_cell(results["arms"].get(arm, {}).get(metric), metric) for metric in columns.values()),
        )
        for arm in results["steps"]
    ]
    seeds = results["seeds"]
    steps = [f"{names[arm]} {steps}" for arm, steps in results["steps"].items() if arm != "base"]
    over = (
        f"seed {seeds[0]}, below each number its 95 % bootstrap interval over replies"
        if len(seeds) == 1
        else f"means over the seeds {', '.join(map(str, seeds))}, below each its 95 % interval (Student's t)"
    )
    notes = [
        f"{NAMES[task.metric]} for one image, Kendall's tau for lists; {over}; parsed and valid in %.",
        f"Steps of training since the base: {', '.join(steps)}; SFT sees each prompt once.",
    ]
    if results["missing"]:
        notes.append(f"Not finished yet: {', '.join(results['missing'])}.")
    title = (
        f"Measured: {results['task']}, {results['split']} split, {results['model']} ({table.title}'s arms)"
    )
    return GridTable(title, ("Methods", *columns), tuple(rows), tuple(notes))


def differences_table(results: dict[str, Any], task: Task) -> GridTable | None:
    """The last arm minus each of the others, on the same images and lists; None where there is nothing."""
    found = {arm: entries for arm, entries in results["differences"].items() if entries}
    if not found:
        return None
    counts = sorted({int(count) for count in results["lists"]})
    columns = {f"1-img{ARROWS[task.metric]}": task.metric} | {f"{n}-imgs↑": f"tau{n}" for n in counts}
    names = {"base": results["model"], **ARM_NAMES}
    rows = tuple(
        (
            f"vs. {names[arm].removeprefix('+ ')}",
            *(_cell(entries.get(metric), metric, signed=True) for metric in columns.values()),
        )
        for arm, entries in found.items()
    )
    last = names[list(results["steps"])[-1]]
    what = "over seeds (Student's t)" if len(results["seeds"]) > 1 else "of a paired bootstrap over replies"
    note = f"95 % intervals {what}. An interval that has 0 in it is no difference that was shown."
    return GridTable(f"Measured: {last} minus each of the others", ("Arms", *columns), rows, (note,))


def published_tables(table: PublishedTable) -> list[GridTable]:
    """What the paper printed, a table for each dataset."""
    tables = []
    for place, part in enumerate(table.parts, 1):
        header = ("Methods", f"1-img{ARROWS[part.metric]}", *(f"{count}-imgs↑" for count in COUNTS[1:]))
        rows = tuple(
            (
                row.name,
                *(_printed(value, part.metric, n) for n, value in zip(COUNTS, row.values, strict=True)),
            )
            for row in part.rows
        )
        notes = (
            f"Printed in {table.title} of {SOURCE}; not measured here.",
            *(table.notes if place == len(table.parts) else ()),
        )
        tables.append(GridTable(f"Published: {part.dataset}, {table.title} of {SOURCE}", header, rows, notes))
    return tables


def markdown(table: GridTable) -> str:
    """The table in Markdown, with its title above and its notes below."""
    rule = ("---", *("---:" for _ in table.header[1:]))
    cells = (table.header, rule, *table.rows)
    lines = "".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in row) + " |\n" for row in cells)
    return f"### {table.title}\n\n{lines}\n" + "".join(f"{note}\n" for note in table.notes)


def _cell(entry: dict[str, Any] | None, metric: str, *, signed: bool = False) -> str:
    if entry is None:
        return MISSING
    factor, decimals, finer = STYLES["tau" if metric.startswith("tau") else metric]
    sign = "+" if signed else ""
    value = f"{entry['value'] * factor:{sign}.{decimals}f}"
    if finer is None:
        return value
    low, high = (f"{entry[end] * factor:{sign}.{decimals if signed else finer}f}" for end in ("low", "high"))
    between = " – " if low.startswith(("-", "+")) else "–"
    return f"{value}\n{low}{between}{high}"


def _printed(value: float | None, metric: Metric, count: int) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f}" if count == 1 and metric != "srcc" else f"{value:.3f}"
