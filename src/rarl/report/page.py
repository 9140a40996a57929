"""The report of a run: `report.html`, one page that needs no other file, and `report.md` with the same
tables. The same run always gives the same bytes. Nothing is measured here."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rarl.files import write_text
from rarl.report import plots, strips
from rarl.report.record import Record, load_record
from rarl.report.tables import (
    TextTable,
    arm_names,
    column_tables,
    expected_table,
    headline_table,
    markdown_text,
    metrics_table,
)

HTML, MARKDOWN = "report.html", "report.md"


def write_report(run: Path) -> Path:
    """Writes `report.html` and `report.md` into a run's folder.

    Returns:
        The path of the page.

    Raises:
        DataError: if the folder is no run, or a run that was not evaluated.
    """
    return write_page(run, load_record(run))


def write_page(
    folder: Path, record: Record, before: Sequence[TextTable] = (), title: str | None = None
) -> Path:
    """Writes the two files of a record into `folder`.

    Args:
        before: tables to show before the record's own, such as those of a grid.
        title: of the page; by default the task and the model.
    """
    title = title or f"{record.task.name}: {record.model}"
    tables = record_tables(record)
    write_text(folder / MARKDOWN, _markdown_page(title, [*before, *tables]))
    write_text(folder / HTML, _html_page(title, record, before, tables))
    return folder / HTML


def record_tables(record: Record) -> list[TextTable]:
    """The tables of a record: the headline metrics, expected values, the groups of images by column, and all
    metrics."""
    metrics = record.metrics
    table = headline_table(metrics, record.task, record.model)
    where, _, what = table.title.partition("\n")
    drawn_lists = sorted(metrics["lists"].items())
    lists = ", ".join(f"{drawn['n']} of {count}" for count, drawn in drawn_lists)
    shared = ", ".join(count for count, drawn in drawn_lists if drawn.get("share_images"))
    notes = [f"{what[0].upper()}{what[1:]}."]
    if lists:
        notes.append(f"Lists of images: {lists}; a reply that is no ranking of all its pictures counts 0.")
    if shared:
        notes.append(
            f"Lists of {shared} share images (an earlier version drew them): their intervals are too narrow."
        )
    scorings = {name: arm.scoring for name, arm in record.arms.items() if arm.scoring is not None}
    expected = expected_table(metrics, record.model, scorings)
    subgroups = {name: arm.subgroups for name, arm in record.arms.items()}
    return [
        replace(table, title=where, notes=(*notes, *table.notes)),
        *([expected] if expected else []),
        *column_tables(subgroups, record.task, record.model),
        metrics_table(metrics, record.model),
    ]


def _html_page(title: str, record: Record, before: Sequence[TextTable], tables: Sequence[TextTable]) -> str:
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
        colours={name: plots.arm_colour(name, record.arms) for name in names},
        before=before,
        headline=tables[0],
        further=tables[1:-1],
        complete=tables[-1],
        training=plots.training_curves(record),
        validation=plots.validation_curves(record),
        scatter=plots.predicted_against_true(record),
        reliability=plots.reliability(record),
        lists=[plot for plot in (plots.tau_by_length(record), plots.position_bias(record)) if plot],
        strips=strips.ranked_strips(record, thumbnails),
        groups=strips.response_groups(record, thumbnails),
        made=_training_rows(record, names),
    )


def _training_rows(record: Record, names: dict[str, str]) -> list[dict[str, Any]]:
    """How each arm was trained, where that is known."""
    rows = []
    for name, shown in names.items():
        training = record.arms[name].training
        if training:
            versions = ", ".join(f"{library} {version}" for library, version in training["versions"].items())
            rows.append(
                {**training, "arm": shown, "versions": versions, "time": _duration(training["seconds"])}
            )
    return rows


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known (continued)"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _markdown_page(title: str, tables: Sequence[TextTable]) -> str:
    sections = [f"# {markdown_text(title)}\n"]
    for table in tables:
        notes = "".join(f"\n{markdown_text(note)}\n" for note in table.notes)
        sections.append(f"## {markdown_text(table.title)}\n\n{table.markdown()}{notes}")
    return "\n".join(sections)
