"""The report of a run: one `report.html` that needs nothing else, and `report.md` with the same tables. The
same run gives the same bytes. What stands in it is measured elsewhere."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rarl.files import write_text
from rarl.method.tasks import Task
from rarl.report import plots, strips
from rarl.report.record import Record, load_record
from rarl.report.tables import ARROWS, NAMES, Laid, all_metrics, arm_names, cell, results

HTML, MARKDOWN = "report.html", "report.md"


def write_report(run: Path) -> Path:
    """Writes `report.html` and `report.md` into a run's folder.

    Returns:
        The page.

    Raises:
        DataError: if the folder is no run that was evaluated.
    """
    return write_page(run, load_record(run))


def write_page(folder: Path, record: Record, before: Sequence[Laid] = (), title: str | None = None) -> Path:
    """Writes the two files of a record into `folder`.

    Args:
        before: tables that stand before the record's own, such as those of a grid.
        title: of the page; by default it says the task.
    """
    title = title or f"{record.task.name}: {record.model}"
    tables = tables_of(record)
    write_text(folder / MARKDOWN, _markdown(title, [*before, *tables]))
    write_text(folder / HTML, _html(title, record, before, tables))
    return folder / HTML


def tables_of(record: Record) -> list[Laid]:
    """The tables of a record: the headline metrics, all metrics, and the groups that columns make."""
    metrics = record.metrics
    first = results(metrics, record.task, record.model)
    where, _, what = first.title.partition("\n")
    lists = ", ".join(f"{drawn['n']} of {count}" for count, drawn in sorted(metrics["lists"].items()))
    notes = [f"{what[0].upper()}{what[1:]}."]
    if lists:
        notes.append(f"Lists of images: {lists}; a reply that is no ranking of all its pictures counts 0.")
    headline = Laid(where, first.header, first.rows, tuple(notes))
    return [headline, *_subgroups(record), all_metrics(metrics, record.model)]


def _subgroups(record: Record) -> list[Laid]:
    """A table for each column of the metadata: its values, and the task's metric of each arm there."""
    task: Task = record.task
    names = arm_names(record.arms, record.model)
    columns = dict.fromkeys(column for arm in record.arms.values() for column in arm.subgroups)
    tables = []
    for column in columns:
        found = {name: record.arms[name].subgroups.get(column, {}) for name in names}
        values = dict.fromkeys(value for groups in found.values() for value in groups)
        rows = []
        for value in values:
            numbers = [groups.get(value, {}) for groups in found.values()]
            images = next(entries["mae"]["n"] for entries in numbers if "mae" in entries)
            cells = [cell(entries.get(task.metric), task.metric) for entries in numbers]
            rows.append((value, str(images), *cells))
        header = (column, "images", *names.values())
        note = f"{NAMES[task.metric]} {ARROWS[task.metric]} of single images, with 95 % intervals."
        tables.append(Laid(f"By {column}", header, tuple(rows), (note,)))
    return tables


def _html(title: str, record: Record, before: Sequence[Laid], tables: Sequence[Laid]) -> str:
    environment = Environment(
        loader=PackageLoader("rarl", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["slug"] = lambda text: re.sub(r"\W+", "-", text).strip("-").lower()
    thumbnails = strips.Thumbnails(record.images)
    names = arm_names(record.arms, record.model)
    style, _, _ = environment.loader.get_source(environment, "page.css")  # type: ignore[union-attr]
    return environment.get_template("page.html.jinja").render(
        title=title,
        style=style,
        record=record,
        names=names,
        colours={name: plots.colour(name, record.arms) for name in names},
        before=before,
        headline=tables[0],
        further=tables[1:-1],
        complete=tables[-1],
        training=plots.training_curves(record),
        validation=plots.validation_curves(record),
        scatter=plots.predicted_against_true(record),
        lists=[plot for plot in (plots.tau_by_length(record), plots.position_bias(record)) if plot],
        strips=strips.ranked(record, thumbnails),
        groups=strips.groups(record, thumbnails),
        made=_made(record, names),
    )


def _made(record: Record, names: dict[str, str]) -> list[dict[str, Any]]:
    """How each arm was trained, for those of which it is known."""
    rows = []
    for name, shown in names.items():
        training = record.arms[name].training
        if training:
            versions = ", ".join(f"{library} {version}" for library, version in training["versions"].items())
            rows.append({**training, "arm": shown, "versions": versions, "time": _time(training["seconds"])})
    return rows


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known (continued)"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _markdown(title: str, tables: Sequence[Laid]) -> str:
    parts = [f"# {title}\n"]
    for table in tables:
        notes = "".join(f"\n{note}\n" for note in table.notes)
        parts.append(f"## {table.title}\n\n{table.markdown()}{notes}")
    return "\n".join(parts)
