"""A grid beside the paper: the measured arms as one table, how far its last arm is from the others, and what
was printed as tables of their own, which are never mixed with the first."""

import json
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.method.tasks import Metric, Task
from rarl.paper.published import COUNTS, SOURCE, TABLES, PublishedTable, published
from rarl.report.page import write_page
from rarl.report.record import load_records
from rarl.report.tables import ARROWS, MISSING, NAMES, Laid, arm_names, cell


def measured_table(results: dict[str, Any], task: Task, table: PublishedTable) -> Laid:
    """The arms of a grid over its seeds.

    Args:
        results: what `rarl.paper.reproduce` writes as `results.json`.
    """
    counts = sorted({int(count) for count in results["lists"]})
    columns = {f"1-img{ARROWS[task.metric]}": task.metric} | {f"{n}-imgs↑": f"tau{n}" for n in counts}
    columns |= {"parsed": "parsed", "valid": "valid"}
    names = arm_names(results["steps"], results["model"])
    rows = [
        (
            names[arm],
            *(cell(results["arms"].get(arm, {}).get(metric), metric) for metric in columns.values()),
        )
        for arm in results["steps"]
    ]
    seeds = results["seeds"]
    steps = [f"{names[arm]} {steps}" for arm, steps in results["steps"].items() if arm != "base"]
    once = " SFT sees each prompt once." if "sft" in results["steps"] else ""
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"means over the seeds {', '.join(map(str, seeds))}"
    over += f", below each number its 95 % interval ({_intervals(results['arms'])})"
    notes = [
        f"{NAMES[task.metric]} for one image, Kendall's tau for lists; {over}; parsed and valid in %.",
        f"Steps of training since the base: {', '.join(steps)}.{once}",
    ]
    if results["missing"]:
        notes.append(f"Not finished yet: {', '.join(results['missing'])}.")
    title = (
        f"Measured: {results['task']}, {results['split']} split, {results['model']} ({table.title}'s arms)"
    )
    return Laid(title, ("Methods", *columns), tuple(rows), tuple(notes))


def differences_table(results: dict[str, Any], task: Task) -> Laid | None:
    """The last arm minus each of the others, on the same images and lists; None where there is nothing."""
    found = {arm: entries for arm, entries in results["differences"].items() if entries}
    if not found:
        return None
    counts = sorted({int(count) for count in results["lists"]})
    columns = {f"1-img{ARROWS[task.metric]}": task.metric} | {f"{n}-imgs↑": f"tau{n}" for n in counts}
    names = arm_names(results["steps"], results["model"])
    rows = tuple(
        (
            f"vs. {names[arm].removeprefix('+ ')}",
            *(cell(entries.get(metric), metric, signed=True) for metric in columns.values()),
        )
        for arm, entries in found.items()
    )
    last = names[list(results["steps"])[-1]]
    what = _intervals(found, "paired bootstrap")
    note = f"95 % intervals ({what}). An interval that has 0 in it is no difference that was shown."
    return Laid(f"Measured: {last} minus each of the others", ("Arms", *columns), rows, (note,))


def published_tables(table: PublishedTable) -> list[Laid]:
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
        tables.append(Laid(f"Published: {part.dataset}, {table.title} of {SOURCE}", header, rows, notes))
    return tables


def _intervals(found: dict[str, dict[str, Any]], bootstrap: str = "bootstrap") -> str:
    """Of what kind the intervals are: of a grid that is not finished some arms have one seed, others more."""
    numbers = {len(entry["seeds"]) for entries in found.values() for entry in entries.values()}
    alone, over_seeds = f"{bootstrap} over replies", "Student's t over seeds"
    if numbers == {1}:
        return alone
    return f"{over_seeds}; {alone} where one seed alone is finished" if 1 in numbers else over_seeds


def _printed(value: float | None, metric: Metric, count: int) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f}" if count == 1 and metric != "srcc" else f"{value:.3f}"


RESULTS = "results.json"


def grid_tables_in(folder: Path) -> list[Path]:
    """The folders of the tables in a grid's folder, or the folder itself where it is one of them."""
    candidates = [folder, *(folder / name for name in TABLES)]
    return [candidate for candidate in candidates if (candidate / RESULTS).is_file()]


def tables_of(results: dict[str, Any], task: Task) -> list[Laid]:
    """What is shown of a grid: measured, published, differences between measured arms."""
    table = published(results["table"])
    between = differences_table(results, task)
    return [measured_table(results, task, table), *published_tables(table), *([between] if between else [])]


def write_grid_report(folder: Path) -> Path:
    """Writes `report.html` and `report.md` into the folder of a grid's table, beside its `results.json`.

    Returns:
        The page.

    Raises:
        DataError: if the results can't be read, or no cell of theirs was evaluated.
    """
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        seeds, arms, table = list(results["seeds"]), list(results["steps"]), published(results["table"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the results of a grid ({error}); rarl reproduce writes them") from error
    cells = {seed: [folder.parent / f"seed-{seed}" / arm for arm in arms] for seed in seeds}
    done = {seed: [cell for cell in of if (cell / "metrics.json").is_file()] for seed, of in cells.items()}
    first = next((of for of in done.values() if of), None)
    if first is None:
        raise DataError(f"{path}: no cell of this table was evaluated yet; rarl reproduce runs them")
    record = load_records(first)
    title = f"{table.title} on {record.task.name}: {record.model}"
    return write_page(folder, record, tables_of(results, record.task), title)
