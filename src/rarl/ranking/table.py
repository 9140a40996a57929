"""A ranking as people see it: printed, in a notebook, as a pandas table, or in a CSV, Parquet or JSON file.
The values come from `ranker` and `files`."""

import csv
import html
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rarl.errors import ConfigError
from rarl.files import write_bytes
from rarl.method.tasks import Task
from rarl.ranking.measured import Measured

if TYPE_CHECKING:
    import pandas

Method = Literal["listed", "values", "windows"]
COLUMNS = ("rank", "file", "value", "mean", "low", "high", "problem")
NUMBERS = ("value", "mean", "low", "high")  # of them, in units of the task
SUFFIXES = (".csv", ".parquet", ".json")
SHOWN = 100
"""How many rows a notebook shows."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One image in its place.

    Attributes:
        rank: its place, from 1; images of equal mean share the first of their places, so that 1, 1, 3 is a
            ranking. `None` for an image that got no value.
        image: the path as given; for an image that was given in another way, its place in the input, from 0.
        value: what the model gave it, in units of the task; `None` if it gave none.
        method: `listed` if the model itself put all images in order in one reply; the values may then fail to
            ascend with the ranks. `values` if every image was scored alone and the means were sorted;
            `windows` if they were first joined with the values that the images got in lists.
        problem: why it has no value; `None` if it has one.
        interval: the ends of the interval that the model is sure of, where it gives one.
        mean: what the image was put in order by, of the values that the model thinks possible; `value` where
            it gives one alone.
    """

    rank: int | None
    image: str | int
    value: float | None
    method: Method
    problem: str | None = None
    interval: tuple[float, float] | None = None
    mean: float | None = None

    def __post_init__(self) -> None:
        if self.mean is None:
            object.__setattr__(self, "mean", self.value)

    def to_dict(self) -> dict[str, Any]:
        """The row of a table, by `COLUMNS`."""
        low, high = self.interval or (None, None)
        cells = (self.rank, self.image, self.value, self.mean, low, high, self.problem)
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True)
class Ranking(Sequence[Ranked]):
    """Images in order, those without a value last. It prints as a table.

    Attributes:
        descending: whether the highest value comes first.
    """

    task: Task
    rows: Sequence[Ranked]
    descending: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Ranked: ...

    @overload
    def __getitem__(self, place: slice) -> "Ranking": ...

    def __getitem__(self, place: int | slice) -> "Ranked | Ranking":
        if isinstance(place, slice):
            return Ranking(self.task, self.rows[place], self.descending)
        return self.rows[place]

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.rows)

    def table(self) -> Table:
        """The ranking as a table of rich, which a console prints as wide as it is."""
        table = Table("rank", "file")
        table.add_column(Text(self.task.rule))  # Text, because rich would take [...] for markup
        with_intervals = any(row.interval is not None for row in self.rows)
        if with_intervals:
            table.add_column("mean")
            table.add_column("interval")
        for row in self.rows:
            cells: list[str | Text] = [
                _text(row.rank),
                Text(str(row.image), overflow="fold"),
                Text(_value(row, self.task), overflow="fold"),
            ]
            sure = [shown(row.mean, self.task), _interval(row, self.task)] if with_intervals else []
            table.add_row(*cells, *sure)
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get().rstrip("\n")

    def _repr_html_(self) -> str:
        """The table that a notebook shows, of the first `SHOWN` rows."""
        names = ["rank", "file", self.task.rule, "mean", "interval"]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        rows = [
            [
                _text(row.rank),
                str(row.image),
                _value(row, self.task),
                shown(row.mean, self.task),
                _interval(row, self.task),
            ]
            for row in self.rows[:SHOWN]
        ]
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows
        )
        left = len(self.rows) - SHOWN
        more = f"<p>and {left:,} more; .to_pandas() has all</p>" if left > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"

    def to_pandas(self) -> "pandas.DataFrame":
        """A pandas table of the columns rank, file, value, mean, low, high and problem."""
        import pandas

        frame = pandas.DataFrame([row.to_dict() for row in self.rows], columns=list(COLUMNS))
        return frame.astype({"rank": "Int64"} | dict.fromkeys(NUMBERS, "float64"))

    def save(self, path: str | Path) -> None:
        """Writes the ranking to a `.csv`, `.parquet` or `.json` file, whole or not at all.

        Raises:
            ConfigError: if the file's name ends otherwise.
        """
        file = check_suffix(Path(path))
        write_bytes(
            file, {".csv": self._csv, ".parquet": self._parquet, ".json": self._json}[file.suffix.lower()]()
        )

    def _csv(self) -> bytes:
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for row in self.rows:
            lines.writerow(_text(cell, none="") for cell in row.to_dict().values())
        return text.getvalue().encode()

    def _json(self) -> bytes:
        rows = [row.to_dict() for row in self.rows]
        return (json.dumps({"task": self.task.to_dict(), "ranking": rows}, indent=1) + "\n").encode()

    def _parquet(self) -> bytes:
        import pyarrow
        from pyarrow import parquet

        rows = [{**row.to_dict(), "file": str(row.image)} for row in self.rows]
        types = (pyarrow.int64(), pyarrow.string(), *[pyarrow.float64()] * len(NUMBERS), pyarrow.string())
        schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
        data = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), data)
        return data.getvalue().to_pybytes()


def ranking_of(
    task: Task,
    measured: Iterable[tuple[str | int, Measured]],
    *,
    descending: bool = False,
    method: Method = "values",
) -> Ranking:
    """The ranking of images by their means. Images of equal mean share a rank and stay in the order given.

    Args:
        measured: the path of each image, or its place in the input, and what was measured.
        descending: begin with the highest value.
        method: of all rows.
    """
    images = list(measured)
    scored = [(image, said, said.mean) for image, said in images if said.mean is not None]
    scored.sort(key=lambda entry: -entry[2] if descending else entry[2])
    rows: list[Ranked] = []
    rank, last = 0, None
    for place, (image, said, mean) in enumerate(scored, start=1):
        if mean != last:
            rank, last = place, mean
        rows.append(Ranked(rank, image, said.value, method, None, said.interval, mean))
    rows += [Ranked(None, image, None, method, said.problem) for image, said in images if said.value is None]
    return Ranking(task, rows, descending)


def check_suffix(path: Path) -> Path:
    """`path`, if a ranking can be saved there.

    Raises:
        ConfigError: if its suffix is none of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: a ranking is saved as {', '.join(SUFFIXES)}; give a name that ends so")
    return path


def _text(cell: Any, none: str = "-") -> str:
    if cell is None:
        return none
    return f"{cell:.10g}" if isinstance(cell, float) else str(cell)


def shown(value: float | None, task: Task) -> str:
    """A value as people read it, to a hundredth of the task's step; `-` for none."""
    if value is None:
        return "-"
    places = 2 + max(0, -math.floor(math.log10(task.step)))
    return _text(round(float(value), places) + 0.0)  # no -0


def _value(row: Ranked, task: Task) -> str:
    return shown(row.value, task) + ("" if row.problem is None else f" ({row.problem})")


def _interval(row: Ranked, task: Task) -> str:
    return "" if row.interval is None else " to ".join(shown(end, task) for end in row.interval)
