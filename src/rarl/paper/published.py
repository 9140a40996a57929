"""What the paper printed in its Tables 2-6, row by row, and which arms stand for its rows. It is read from
`published.yaml` and is never mixed with what was measured."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rarl.files import read_yaml_mapping
from rarl.method.tasks import Metric

SOURCE = "arXiv 2601.20585"
TABLES = ("table2", "table3", "table4", "table5", "table6")
COUNTS = (1, 2, 4, 8)
"""The numbers of images of the printed columns."""


@dataclass(frozen=True)
class PublishedRow:
    """One printed row.

    Attributes:
        model: the model a row such as "+ SFT" belongs to; None where the row names itself.
        arm: what the row is called here; None for a method that this library has not.
        values: by `COUNTS`; None for a printed dash.
    """

    name: str
    values: tuple[float | None, ...]
    model: str | None = None
    arm: str | None = None


@dataclass(frozen=True)
class PublishedPart:
    """The rows of one dataset; `metric` is that of one image, Kendall's tau that of lists."""

    dataset: str
    metric: Metric
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper; `arms` are those that measure it here."""

    name: str
    caption: str
    arms: tuple[str, ...]
    parts: tuple[PublishedPart, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Such as "Table 6"."""
        return f"Table {self.name.removeprefix('table')}"


@cache
def published(name: str) -> PublishedTable:
    """The table of that name, one of `TABLES`."""
    file = Path(__file__).with_name("published.yaml")
    fields = read_yaml_mapping(file)[name]
    parts = tuple(
        PublishedPart(part["dataset"], part["metric"], tuple(_row(row) for row in part["rows"]))
        for part in fields["parts"]
    )
    return PublishedTable(
        name, fields["caption"], tuple(fields["arms"]), parts, tuple(fields.get("notes", ()))
    )


def _row(fields: dict) -> PublishedRow:
    return PublishedRow(**{**fields, "values": tuple(fields["values"])})
