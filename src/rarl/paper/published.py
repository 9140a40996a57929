"""What the paper printed in its Tables 2-6, row by row, and which arms stand for its rows. It is read from
`published.yaml` and never mixed with what was measured here."""

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rarl.method.tasks import HeadlineMetric
from rarl.yaml_files import read_yaml_mapping

SOURCE = "arXiv 2601.20585"
PUBLISHED_TABLES = ("table2", "table3", "table4", "table5", "table6")
OWN_TABLES = ("mutation",)  # `rarl reproduce` makes them as well; see `mutation_table`
PRINTED_COUNTS = (1, 2, 4, 8)
"""The numbers of images of the printed columns."""

# YAML has lists where the models have tuples; everything else must have the type it should have.
PrintedTexts = Annotated[tuple[str, ...], Field(strict=False)]
PrintedValues = Annotated[tuple[float | None, float | None, float | None, float | None], Field(strict=False)]


class Printed(BaseModel):
    """A part of `published.yaml`: no key more or less, and nothing changes once it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PublishedRow(Printed):
    """One printed row.

    Attributes:
        model: the model that a row such as "+ SFT" belongs to; None if the row names itself.
        arm: what the row is called here; None for a method that this library does not have.
        values: by `PRINTED_COUNTS`; None for a printed dash.
    """

    name: str
    values: PrintedValues
    model: str | None = None
    arm: str | None = None


class PublishedPart(Printed):
    """The rows of one dataset. `metric` is that of one image; for lists it is Kendall's tau."""

    dataset: str
    metric: HeadlineMetric
    rows: Annotated[tuple[PublishedRow, ...], Field(strict=False)]


class PublishedTable(Printed):
    """One table of the paper. `arms` are those that measure it here."""

    name: str
    caption: str
    arms: PrintedTexts
    parts: Annotated[tuple[PublishedPart, ...], Field(strict=False)]
    notes: PrintedTexts = ()

    @property
    def title(self) -> str:
        """Such as "Table 6", or "Mutation" for a table that the paper has not."""
        number = self.name.removeprefix("table")
        return f"Table {number}" if number != self.name else self.name.capitalize()


@cache
def published(name: str) -> PublishedTable:
    """The table of that name, one of `PUBLISHED_TABLES`."""
    fields = read_yaml_mapping(Path(__file__).with_name("published.yaml"))[name]
    return PublishedTable.model_validate({"name": name, **fields})
