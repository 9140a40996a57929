"""Tables about files: CSV, TSV, JSONL, JSON, Parquet and the exports of annotation tools, read as rows of
named columns, each with the place to name in an error. What the columns mean is left to the sources."""

import codecs
import csv
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rarl.data.names import same_word, spelling, words_like
from rarl.data.sources.exports import cvat_rows, is_label_studio, label_studio_rows
from rarl.errors import DataError
from rarl.files import read_jsonl

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xml")

TableRow = tuple[str, dict[str, Any]]
"""The place of a row, such as "labels.csv line 3", and its columns."""


def read_table(path: str | os.PathLike[str]) -> list[TableRow]:
    """The rows of a table with a header, in order. The values of a CSV are all texts. Of CSV and Parquet,
    rows with nothing in them are passed over, and of CSV columns with neither a name nor a field. A text
    file (.txt) is read as a CSV.

    Raises:
        DataError: if the file is missing, has another suffix, is malformed or has no rows.
    """
    file = Path(path)
    readers = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl, ".xml": cvat_rows}
    if file.suffix.lower() not in (*TABLE_SUFFIXES, ".txt"):
        raise DataError(f"{file}: a table is one of {', '.join(TABLE_SUFFIXES)}; save it as one of them")
    if not file.is_file():
        raise DataError(f"{file}: no such file; check the path")
    try:
        found = readers.get(file.suffix.lower(), _csv)(file)
        rows = list(found)
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error
    if not rows:
        raise DataError(f"{file}: no rows; it needs a header and a row for each image")
    return rows


def columns(
    rows: Sequence[TableRow],
    names: Sequence[str],
    what: str,
    file: str | os.PathLike[str],
    option: str | None = None,
) -> list[str]:
    """Those of `names` that are columns of any row: written exactly so, or else as the same word.

    Args:
        option: of the command line, which names another column.

    Raises:
        DataError: if none is, or the first may be two; it names the columns there are.
    """
    there = list(dict.fromkeys(key for _, row in rows for key in row))
    found = []
    for name in names:
        fits = words_like(name, map(str, there))
        if len(fits) == 1:
            found += [key for key in there if str(key) == fits[0]]
        elif fits and not found:
            raise DataError(f"{file}: {what} may be in {' or '.join(map(repr, fits))}; rename one of them")
    if not found:
        raise DataError(
            f"{file}: no column for {what}; it may be called {', '.join(names)}"
            f"{f', or named by {option}' if option else ''}; there are {', '.join(map(str, there)) or 'none'}"
        )
    return found


def column(rows: Sequence[TableRow], names: Sequence[str], what: str, file: str | os.PathLike[str]) -> str:
    """The first of `columns`."""
    return columns(rows, names, what, file)[0]


_MINUS = re.compile(r"^\s*[\u2012\u2013\u2212\ufe63\uff0d]")
"""What text processors put in place of the minus of a number."""


def number(value: Any) -> float | None:
    """A finite number, also if it is written as a text, with any minus and invisible marks; None for anything
    else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # 26_0 is a piece of a name, to Python it is 260
        return None
    try:
        parsed = float(_MINUS.sub("-", spelling(value)) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


_GAPS = {
    *("", "na", "n/a", "n.a.", "<na>", "#n/a", "nan", "null"),
    *("-", "--", "---", "\N{EN DASH}", "\N{EM DASH}", ".", "?"),
}


def is_gap(value: Any) -> bool:
    """Whether a field says that there is no value: nothing, or what people and programs write instead. "None"
    is Python's; any other "none" may be a count of 0, or a grade."""
    if not isinstance(value, str):
        return _is_empty(value)
    return value.strip() == "None" or same_word(value) in _GAPS


_WITH_COMMA = re.compile(r"\s*[+\N{MINUS SIGN}-]?\d+(,\d+)?\s*")
_THOUSANDS = re.compile(r".*\d,\d{3}\s*")
_SPACED = re.compile(r"([+\N{MINUS SIGN}-]?\d{1,3})(( \d{3})+)([.,]\d+)?")


def numbers_as_written(values: Sequence[Any]) -> tuple[list[Any], dict[str, str]]:
    """A column of numbers as `number` reads them: without spaces between thousands, with points for decimal
    commas, and without percent signs; with a note of what was there. Any other column stays as it is.

    Gaps aside, every value must be a number with a percent sign, or none has one; every text must be a number
    with a comma or none, and one of them show that its comma is no mark of thousands: "1,234" is.
    """
    texts = {
        value: spelling(value).strip() for value in values if isinstance(value, str) and not is_gap(value)
    }
    notes: list[str] = []
    plain_numbers = any(number(value) is not None for value in values if not isinstance(value, str))
    if texts and not plain_numbers and all(text.endswith("%") for text in texts.values()):
        texts = {value: text[:-1].rstrip() for value, text in texts.items()}
        notes.append("in percent")
    if any(map(_SPACED.fullmatch, texts.values())):
        texts = {
            value: text.replace(" ", "") if _SPACED.fullmatch(text) else text for value, text in texts.items()
        }
        notes.append("with spaces between thousands")
    commas = [text for text in texts.values() if "," in text]
    if all(map(_WITH_COMMA.fullmatch, texts.values())) and not all(map(_THOUSANDS.fullmatch, commas)):
        texts = {value: text.replace(",", ".") for value, text in texts.items()}
        notes.append("with a decimal comma")
    if not notes or any(number(text) is None for text in texts.values()):
        return list(values), {}
    plain = [texts.get(value, value) if isinstance(value, str) else value for value in values]
    return plain, {"values": f"written {' and '.join(notes)}"}


_SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t]*\r?\n?', re.IGNORECASE)  # Excel's first line, no header
_ENTRY = 'an object such as {"file": ..., "value": ...}'


def encoding_of(file: Path) -> str:
    """UTF-16 if the file begins with its mark, as Excel's "Unicode text" does, and UTF-8 otherwise."""
    with open(file, "rb") as stream:
        mark = stream.read(2)
    return "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _csv(file: Path) -> Iterator[TableRow]:
    with open(file, encoding=encoding_of(file), newline="") as lines:
        said = _SEPARATOR.fullmatch(lines.readline())
        lines.seek(0)
        header = next((line for line in lines if line.strip()), "")
        lines.seek(0)
        if said:
            lines.readline()
        delimiter = said[1] if said else max(",;\t|", key=header.count)
        # Strict, because a quote that is never closed would swallow all the lines after it.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            # Empty rows are nothing, before the header and after it.
            fields = ((reader.line_num + bool(said), row) for row in reader if not all(map(_is_empty, row)))
            _, names = next(fields, (0, []))
            found = list(fields)
        except csv.Error as error:
            raise DataError(f"{file} line {reader.line_num + bool(said)}: {error}") from error
    # Columns without a name and without a field are what a spreadsheet once had something in.
    wanted = {place for place, name in enumerate(names) if not _is_empty(name)}
    wanted |= {place for _, row in found for place, given in enumerate(row) if not _is_empty(given)}
    kept = sorted(place for place in wanted if place < len(names))
    known = [names[place] for place in kept]
    if twice := [name for name in known if known.count(name) > 1]:
        raise DataError(f"{file}: two columns are called {twice[0]!r}; rename one")
    # Excel leaves out the last fields of lines where 16 lines in a row have nothing in them.
    gaps = {place for _, row in found for place, given in enumerate(row) if _is_empty(given)}
    needed = max(set(kept) - gaps, default=0)
    for line, row in found:
        where = f"{file} line {line}"
        if len(row) <= needed or not all(map(_is_empty, row[len(names) :])):
            raise DataError(f"{where}: not as many fields as the header has; mend the line")
        yield where, {names[place]: row[place] if place < len(row) else "" for place in kept}


def _is_empty(value: Any) -> bool:
    """Whether a field has nothing in it: missing, blank, or no number."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _jsonl(file: Path) -> Iterator[TableRow]:
    file.read_text(encoding="utf-8")  # as with the other formats, the whole file is UTF-8 or refused
    yield from read_jsonl(file, like=_ENTRY)


def _json(file: Path) -> Iterator[TableRow]:
    try:
        entries = json.loads(file.read_text(encoding=encoding_of(file)))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error})") from error
    if not isinstance(entries, list):
        raise DataError(f"{file}: must be a list of objects, one for each image")
    if is_label_studio(entries):
        yield from label_studio_rows(file, entries)
        return
    for entry_number, entry in enumerate(entries, 1):
        where = f"{file} entry {entry_number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: must be {_ENTRY}")
        yield where, entry


def _parquet(file: Path) -> Iterator[TableRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
        for place, field in enumerate(table.schema):
            if pyarrow.types.is_float32(field.type):  # 0.3 in it is 0.30000001192092896 in 64 bits
                texts = table.column(place).cast(pyarrow.string())
                table = table.set_column(place, field.name, texts.cast(pyarrow.float64()))
        rows = table.to_pylist()
    # The other two come from dates and texts of a damaged file.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    for row_number, row in enumerate(rows, 1):
        if not all(map(_is_empty, row.values())):
            yield f"{file} row {row_number}", row
