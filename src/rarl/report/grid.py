"""The report of a grid: what was measured beside what was published, and below it the cells of its first seed
as one run."""

import json
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.grid_tables import differences_table, measured_table, published_tables
from rarl.published import TABLES, published
from rarl.report.page import write_page
from rarl.report.record import load_records
from rarl.report.table import Laid
from rarl.tasks import Task

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
