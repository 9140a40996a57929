"""A grid beside the paper: the measured arms as one table, how far the last of them is from the others, and
what was printed as tables of their own, never mixed with what was measured."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.evaluation.metrics import METRICS
from rarl.method.tasks import HeadlineMetric, Task
from rarl.paper.mutation_table import REPRODUCED_TABLES, effort_table, reproduced
from rarl.paper.published import PRINTED_COUNTS, SOURCE, PublishedTable
from rarl.paper.results import holm
from rarl.report.page import write_page
from rarl.report.record import load_records
from rarl.report.tables import (
    MISSING,
    TextTable,
    arm_names,
    arm_rows,
    format_notes,
    headline_columns,
    twice_read_rows,
)


def measured_table(results: dict[str, Any], task: Task, table: PublishedTable) -> TextTable:
    """The arms of a grid, over its seeds.

    Args:
        results: what `rarl.paper.reproduce` writes as `results.json`.
    """
    columns = _measured_columns(results, task) | {"parsed": "parsed", "valid": "valid"}
    known = arm_names(results["steps"], results["model"])
    names = {arm: known[arm] for arm in results["steps"]}
    seeds = results["seeds"]
    steps = [f"{names[arm]} {steps}" for arm, steps in results["steps"].items() if arm != "base"]
    once = " SFT sees each prompt once." if {"sft", "sft_long"} & results["steps"].keys() else ""
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"means over the seeds {', '.join(map(str, seeds))}"
    over += f", below each number its 95 % interval ({_kind_of_intervals(results['arms'])})"
    metric = METRICS[task.metric].title
    notes = [
        f"{metric} for one image, Kendall's tau for lists; {over}; parsed and valid in %.",
        f"Steps of training since the base: {', '.join(steps)}.{once}",
    ]
    notes += _effort_notes(results, names)
    notes += format_notes(results["arms"], names, columns)
    if results["missing"]:
        notes.append(f"Not finished yet: {', '.join(results['missing'])}.")
    title = (
        f"Measured: {results['task']}, {results['split']} split, {results['model']} ({table.title}'s arms)"
    )
    rows = twice_read_rows(results["arms"], names, columns.values())
    return TextTable(title, ("Methods", *columns), rows, tuple(notes))


def _effort_notes(results: dict[str, Any], names: Mapping[str, str]) -> list[str]:
    """On how many prompts and at which learning rates the arms were trained, where these differ; earlier
    versions did not say it in `results.json`."""
    prompts, rates = results.get("prompts", {}), results.get("learning_rates", {})
    said: dict[str, str] = {}
    for arm in names:
        parts: list[tuple[int, float]] = []
        for number, rate in zip(prompts.get(arm, ()), rates.get(arm, ()), strict=True):
            if parts and parts[-1][1] == rate:
                number += parts.pop()[0]
            parts.append((number, rate))
        if parts:
            said[arm] = ", then ".join(f"{number:,} at {rate:g}" for number, rate in parts)
    if len(set(said.values())) < 2:
        return []
    each = "; ".join(f"{names[arm]} {text}" for arm, text in said.items())
    return [f"The arms differ in prompts and learning rates since the base: {each}."]


def differences_table(results: dict[str, Any], task: Task) -> TextTable | None:
    """The last arm minus each of the others, on the same images and lists; None if nothing is comparable."""
    found = {arm: entries for arm, entries in results["differences"].items() if entries}
    if not found:
        return None
    columns = _measured_columns(results, task)
    names = arm_names(results["steps"], results["model"])
    against = {arm: f"vs. {names[arm].removeprefix('+ ')}" for arm in found}
    rows = arm_rows(found, against, columns.values(), signed=True)
    p_values = {
        (row, place): found[arm][key]["p"]
        for row, arm in enumerate(found)
        for place, key in enumerate(columns.values(), 1)
        if "p" in found[arm].get(key, {})
    }
    shown = sum(key in found[arm] for arm in found for key in columns.values())
    surviving = holm(p_values)
    rows = tuple(
        tuple(
            text.replace("\n", "*\n", 1) if (row, place) in surviving else text
            for place, text in enumerate(cells)
        )
        for row, cells in enumerate(rows)
    )
    last = names[list(results["steps"])[-1]]
    what = _kind_of_intervals(found, "paired bootstrap")
    notes = [f"95 % intervals ({what}). An interval that has 0 in it is no difference that was shown."]
    if p_values:
        notes.append(
            f"* marks what survives Holm's correction at 5 % over the {len(p_values)} differences of this "
            "table: chance alone marks any of them in at most 5 % of such tables. Without a correction, one "
            "in twenty intervals leaves 0 out by chance."
        )
    if len(p_values) < shown:
        notes.append(
            f"{shown - len(p_values)} of the {shown} differences have no p-value and no mark: an earlier "
            "version has computed them, or has drawn lists that share images, and their intervals are too "
            "narrow."
        )
    return TextTable(f"Measured: {last} minus each of the others", ("Arms", *columns), rows, tuple(notes))


def published_tables(table: PublishedTable) -> list[TextTable]:
    """What the paper printed, as a table for each dataset."""
    tables = []
    for place, part in enumerate(table.parts, 1):
        header = ("Methods", *headline_columns(part.metric, PRINTED_COUNTS[1:]))
        rows = tuple(
            (
                row.name,
                *(
                    _printed_cell(value, part.metric, count)
                    for count, value in zip(PRINTED_COUNTS, row.values, strict=True)
                ),
            )
            for row in part.rows
        )
        notes = (
            f"Printed in {table.title} of {SOURCE}; not measured here.",
            *(table.notes if place == len(table.parts) else ()),
        )
        tables.append(TextTable(f"Published: {part.dataset}, {table.title} of {SOURCE}", header, rows, notes))
    return tables


def _measured_columns(results: dict[str, Any], task: Task) -> dict[str, str]:
    return headline_columns(task.metric, sorted({int(count) for count in results["lists"]}))


def _kind_of_intervals(found: dict[str, dict[str, Any]], bootstrap: str = "bootstrap") -> str:
    """What kind of intervals they are. In an unfinished grid some arms have one seed and others several."""
    numbers = {len(entry["seeds"]) for entries in found.values() for entry in entries.values()}
    alone, over_seeds = f"{bootstrap} over replies", "Student's t over seeds"
    if numbers == {1}:
        return alone
    return f"{over_seeds}; {alone} where one seed alone is finished" if 1 in numbers else over_seeds


def _printed_cell(value: float | None, metric: HeadlineMetric, count: int) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f}" if count == 1 and metric != "srcc" else f"{value:.3f}"


RESULTS = "results.json"


def grid_tables_in(folder: Path) -> list[Path]:
    """The folders of the tables in a grid's folder, or the folder itself if it is one of them."""
    candidates = [folder, *(folder / name for name in REPRODUCED_TABLES)]
    return [candidate for candidate in candidates if (candidate / RESULTS).is_file()]


def grid_tables(results: dict[str, Any], task: Task) -> list[TextTable]:
    """The tables of a grid: what was measured, what was published, and how far measured arms are apart."""
    table = reproduced(results["table"])
    further = [
        effort_table(results, arm_names(results["steps"], results["model"])),
        differences_table(results, task),
    ]
    shown = [each for each in further if each is not None]
    return [measured_table(results, task, table), *published_tables(table), *shown]


def write_grid_report(folder: Path) -> Path:
    """Writes `report.html` and `report.md` into the folder of a grid's table, beside its `results.json`.

    Returns:
        The page.

    Raises:
        DataError: if the results can't be read, or none of their cells was evaluated.
    """
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        seeds, arms, table = list(results["seeds"]), list(results["steps"]), reproduced(results["table"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the results of a grid ({error}); rarl reproduce writes them") from error
    cells = {seed: [folder.parent / f"seed-{seed}" / arm for arm in arms] for seed in seeds}
    done = {seed: [cell for cell in of if (cell / "metrics.json").is_file()] for seed, of in cells.items()}
    first = next((of for of in done.values() if of), None)
    if first is None:
        raise DataError(f"{path}: no cell of this table was evaluated yet; rarl reproduce runs them")
    # A cell's own YAML names its base by the folder, which for the embedded one is its seed.
    record = replace(load_records(first), model=results["model"])
    title = f"{table.title} on {record.task.name}: {record.model}"
    return write_page(folder, record, grid_tables(results, record.task), title)
