"""Tables: the rows of each kind of table, and the message for each kind of damage."""

import datetime
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rarl.data.sources.tables import column, columns, is_gap, number, numbers_as_written, read_table
from rarl.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def rows(folder: Path, name: str, content: str | bytes) -> list[tuple[str, dict[str, Any]]]:
    """The rows with only the name of the file in their place."""
    read = read_table(write(folder, name, content))
    return [(where.removeprefix(f"{folder}/"), row) for where, row in read]


A, B = {"file": "a.png", "age": "1"}, {"file": "b.png", "age": "2"}


@pytest.mark.parametrize(
    "text",
    [
        "file,age\na.png,1\nb.png,2\n",
        "file,age\na.png,1\nb.png,2",
        "\ufefffile,age\r\na.png,1\r\nb.png,2\r\n",
        "file,age\ra.png,1\rb.png,2\r",
        "file;age\na.png;1\nb.png;2\n",
        "file\tage\na.png\t1\nb.png\t2\n",
        "file|age\na.png|1\nb.png|2\n",
        '"file","age"\n"a.png",1\n"b.png","2"\n',
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.tsv"])
def test_tables_with_fields_between_marks(tmp_path: Path, name: str, text: str) -> None:
    assert rows(tmp_path, name, text) == [(f"{name} line 2", A), (f"{name} line 3", B)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (",file\n0,a\n", [("t.csv line 2", {"": "0", "file": "a"})]),
        ("file\na\n\n\nb\n", [("t.csv line 2", {"file": "a"}), ("t.csv line 5", {"file": "b"})]),
        ('file;age\n"a;b";1,5\n', [("t.csv line 2", {"file": "a;b", "age": "1,5"})]),
        ('file,note\na,"say ""x"", y"\n', [("t.csv line 2", {"file": "a", "note": 'say "x", y'})]),
        ('file,note\na,"two\nlines"\nb,\n', [
            ("t.csv line 3", {"file": "a", "note": "two\nlines"}),
            ("t.csv line 4", {"file": "b", "note": ""}),
        ]),
        ("file,age\nä.png, 1 \n", [("t.csv line 2", {"file": "ä.png", "age": " 1 "})]),
        ("\n,,\nfile,age,,\na,1,,\n , ,,\nb,2\n,,,\n", [
            ("t.csv line 4", {"file": "a", "age": "1"}),
            ("t.csv line 6", {"file": "b", "age": "2"}),
        ]),
        ("file;;age\na;;1;;\n", [("t.csv line 2", {"file": "a", "age": "1"})]),
        ("file,,age\na,,1\nb,x,2\n", [
            ("t.csv line 2", {"file": "a", "": "", "age": "1"}),
            ("t.csv line 3", {"file": "b", "": "x", "age": "2"}),
        ]),
        ("file,age,note\na,1\nb,2,\nc,3,x\n", [
            ("t.csv line 2", {"file": "a", "age": "1", "note": ""}),
            ("t.csv line 3", {"file": "b", "age": "2", "note": ""}),
            ("t.csv line 4", {"file": "c", "age": "3", "note": "x"}),
        ]),
        ("sep=;\r\nfile;age, years\r\na;1\r\n", [("t.csv line 3", {"file": "a", "age, years": "1"})]),
        ('"sep=|"\nfile|age\na|1\n', [("t.csv line 3", {"file": "a", "age": "1"})]),
    ],
)  # fmt: skip
def test_quirks_of_csv(tmp_path: Path, text: str, expected: Any) -> None:
    assert rows(tmp_path, "t.csv", text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv: no rows; it needs a header"),
        ("\ufeff", r"t\.csv: no rows"),
        ("\n\n", r"t\.csv: no rows"),
        ("file,age\n", r"t\.csv: no rows"),
        ("file,age\na,\nb\n,1\nc,1,2\n", r"line 5: not as many fields"),
        ("file,age,note\na,1\nb,2\n", r"line 2: not as many fields"),
        ("file,age\na,1\nb\n", r"line 3: not as many fields as the header has; mend the line"),
        ("file,age\na,1,2\n", r"line 2: not as many fields"),
        ("file,age\na;1\n", r"line 2: not as many fields"),
        ('file,age\na,"1\nb,2\n', r"t\.csv line 3: unexpected end of data"),
        ('file,age\n"a"b,2\n', r"t\.csv line 2: ',' expected after"),
        ("file,age\na," + "x" * 200_000 + "\n", r"t\.csv line 2: field larger than field limit"),
        ('"x,y,z";b\n1;2\n', r"t\.csv line 1: ',' expected after"),
        ("file,age,file\na,1,b\n", r"t\.csv: two columns are called 'file'; rename one"),
    ],
)
def test_damaged_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, "t.csv", text))


@pytest.mark.parametrize(
    "content",
    ["file,age\nä,1\n".encode("latin-1"), b"file\n" + bytes(range(256))],
)
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.json", "t.jsonl"])
def test_what_is_not_utf_8_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=r"t\.\w+: not UTF-8 .*; save it as UTF-8"):
        read_table(write(tmp_path, name, content))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("name", ["t.csv", "t.TXT"])
def test_excel_s_unicode_text(tmp_path: Path, name: str, encoding: str) -> None:
    text = "file\tage\r\nä.png\t1\r\n".encode(encoding)
    assert rows(tmp_path, name, text) == [(f"{name} line 2", {"file": "ä.png", "age": "1"})]
    big = "\N{BOM}file;age\nä.png;1\n".encode("utf-16-be")
    assert [row for _, row in rows(tmp_path, name, big)] == [{"file": "ä.png", "age": "1"}]


def test_numbers_of_32_bits_in_parquet_are_those_that_were_written(tmp_path: Path) -> None:
    ages = pa.array([0.3, None, 26.0, math.nan], pa.float32())
    parquet.write_table(pa.table({"file": ["a", "b", "c", "d"], "age": ages}), tmp_path / "t.parquet")
    found = [row["age"] for _, row in read_table(tmp_path / "t.parquet")]
    assert (found[:3], math.isnan(found[3])) == ([0.3, None, 26.0], True)


def test_a_row_with_nothing_in_it_is_none_in_parquet_too(tmp_path: Path) -> None:
    table = pa.table({"file": ["a", None], "age": [1.0, math.nan]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert [row for _, row in read_table(tmp_path / "t.parquet")] == [{"file": "a", "age": 1.0}]


def test_json_lines(tmp_path: Path) -> None:
    text = '\ufeff{"file": "a.png", "age": 1}\r\n\n  \n{"file": "b\\u2028.png", "age": [2], "x": "\u2028"}'
    assert rows(tmp_path, "t.jsonl", text) == [
        ("t.jsonl line 1", {"file": "a.png", "age": 1}),
        ("t.jsonl line 4", {"file": "b\u2028.png", "age": [2], "x": "\u2028"}),
    ]


def test_json(tmp_path: Path) -> None:
    assert rows(tmp_path, "t.json", '\ufeff[{"file": "a"},\n\n{}]') == [
        ("t.json entry 1", {"file": "a"}),
        ("t.json entry 2", {}),
    ]


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", "", "no rows"),
        ("t.jsonl", '{"a": 1}\n{"a": ', r"t\.jsonl line 2: not JSON"),
        ("t.jsonl", '{"a": 1}{"a": 2}', r"line 1: not JSON"),
        ("t.jsonl", '{"a": 1}\n[1]', r'line 2: must be an object such as \{"file"'),
        ("t.jsonl", "null", "line 1: must be an object"),
        ("t.jsonl", DEEP, "line 1: not JSON"),
        ("t.jsonl", '{"a": ' + "9" * 5000 + "}", "line 1: not JSON"),
        ("t.json", "", r"t\.json: not JSON"),
        ("t.json", '[{"a": 1}', r"t\.json: not JSON"),
        ("t.json", "[]", r"t\.json: no rows"),
        ("t.json", '{"a": [1]}', r"t\.json: must be a list of objects"),
        ("t.json", '[{"a": 1}, 2]', r"t\.json entry 2: must be an object"),
        ("t.json", DEEP, "not JSON"),
        ("t.json", '[{"a": ' + "9" * 5000 + "}]", "not JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, name, text))


def test_parquet(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"file": ["a", "b"], "age": [1, None]}), tmp_path / "t.parquet")
    file = tmp_path / "t.parquet"
    assert read_table(file) == [
        (f"{file} row 1", {"file": "a", "age": 1}),
        (f"{file} row 2", {"file": "b", "age": None}),
    ]


def test_folders_add_no_columns_to_parquet(tmp_path: Path) -> None:
    (tmp_path / "split=test").mkdir()
    parquet.write_table(pa.table({"file": ["a"]}), tmp_path / "split=test" / "t.parquet")
    assert read_table(tmp_path / "split=test" / "t.parquet")[0][1] == {"file": "a"}


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    day = datetime.datetime(2020, 1, 1)
    parquet.write_table(pa.table({"file": ["a.png"], "day": [day]}), tmp_path / "t.parquet")
    good = (tmp_path / "t.parquet").read_bytes()
    for content in (b"", b"PAR1", good[:-1], good[: len(good) // 2], b"x" * 100, good[:4] + b"\xff" * 400):
        with pytest.raises(DataError, match=r"t\.parquet: (not a readable Parquet file|can't be read)"):
            read_table(write(tmp_path, "t.parquet", content))
    far = pa.array([2**52], pa.timestamp("ms"))  # a date that Python has not got
    parquet.write_table(pa.table({"day": far}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        read_table(tmp_path / "t.parquet")
    parquet.write_table(pa.table({"file": pa.array([], pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.xlsx", "t", ".csv"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"a table is one of \.csv, \.tsv, \.jsonl, \.json, \.parquet"):
        read_table(write(tmp_path, name, "file\na"))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("none.csv", "folder.csv", "none/t.jsonl"):
        with pytest.raises(DataError, match=f"{name}: no such file; check the path"):
            read_table(tmp_path / name)


def test_a_column_is_found_by_its_first_name_in_any_case() -> None:
    there = [("t.csv line 2", {"": "0", " File ": "a", "image": "b", 3: "c"})]
    assert column(there, ["file", "image"], "the file", "t.csv") == " File "
    assert column(there, ["image", "file"], "the file", "t.csv") == "image"
    with pytest.raises(DataError) as caught:
        column(there, ["age", "value"], "the value", "t.csv")
    assert str(caught.value) == (
        "t.csv: no column for the value; it may be called age, value; there are ,  File , image, 3"
    )
    with pytest.raises(DataError, match="there are none"):
        column([("t.json entry 1", {})], ["age"], "the value", "t.json")


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        *[("\N{MINUS SIGN}3", -3.0), (" \N{EN DASH}2.5", -2.5), ("2\N{MINUS SIGN}3", None), ("\u200f3", 3.0)],
        *[(3, 3.0), (3.5, 3.5), ("3.5", 3.5), (" -2 ", -2.0), ("1e3", 1000.0), (0, 0.0), ("0", 0.0)],
        *[
            (None, None),
            (True, None),
            ([1], None),
            ("", None),
            ("adult", None),
            ("1,5", None),
            ("0x10", None),
        ],
        *[("26_0", None), ("nan", None), (math.nan, None), ("inf", None), (-math.inf, None), ("1e999", None)],
        *[(10**400, None), ("9" * 400, None), ("1\0", None)],
    ],
)
def test_numbers(value: Any, parsed: float | None) -> None:
    assert number(value) == parsed
    assert parsed is None or type(number(value)) is float


def test_a_column_written_just_so_goes_before_one_in_another_case():
    rows = [("t.csv line 2", {"Value": "1", "value": "2", "File": "a"})]
    assert column(rows, ["value"], "the value", "t.csv") == "value"
    assert column(rows, ["Value"], "the value", "t.csv") == "Value"
    assert column(rows, ["file"], "the file", "t.csv") == "File"
    with pytest.raises(DataError, match=r"t\.csv: the value may be in 'Value' or 'value'; rename one"):
        column(rows, ["VALUE"], "the value", "t.csv")


def test_all_columns_that_it_may_be_of_any_row_in_any_spelling() -> None:
    rows = [
        ("t.json entry 1", {"id": 1, "Gro\u0308\u00dfe": 3}),
        ("t.json entry 2", {"id": 2, "\ufeffImage\u00a0": "a", "NAME": 1, "name ": 2}),
    ]
    assert columns(rows, ["image", "id", "name"], "the file", "t.json") == ["\ufeffImage\u00a0", "id"]
    assert column(rows, ["gr\u00f6\u00dfe"], "the value", "t.json") == "Gro\u0308\u00dfe"
    with pytest.raises(DataError, match=r"it may be called age, or named by --value-column; there are id, "):
        columns(rows, ["age"], "the value", "t.json", "--value-column")


@pytest.mark.parametrize(
    ("values", "expected", "how"),
    [
        (["1,5", "2"], ["1.5", "2"], "with a decimal comma"),
        (["\N{MINUS SIGN}1,25", "1,125"], ["\N{MINUS SIGN}1.25", "1.125"], "with a decimal comma"),
        (["10%", "7.5 %", ""], ["10", "7.5", ""], "in percent"),
        (["10%", "7,5\u202f%", None], ["10", "7.5", None], "in percent and with a decimal comma"),
        (["1\u00a0234", "999"], ["1234", "999"], "with spaces between thousands"),
        (
            ["1\u202f234,5", "n/a"],
            ["1234.5", "n/a"],
            "with spaces between thousands and with a decimal comma",
        ),
        (["1,234", "2"], None, ""),  # thousands, perhaps
        (["1.5", "2,5"], None, ""),
        (["1", "2"], None, ""),
        (["1,5", "low"], None, ""),
        (["10%", "10"], None, ""),
        (["10%", 0.5], None, ""),
        (["1 2", "3"], None, ""),
        ([1, 2.5, None], None, ""),
    ],
)
def test_numbers_as_people_and_spreadsheets_write_them(
    values: list[Any], expected: list[Any] | None, how: str
) -> None:
    notes = {"values": f"written {how}"} if how else {}
    assert numbers_as_written(values) == (values if expected is None else expected, notes)


@pytest.mark.parametrize(
    "value", ["", " ", None, math.nan, "n/a", "#N/A", "NaN", "-", "\N{EN DASH}", "\u00a0", "."]
)
def test_gaps(value: Any) -> None:
    assert is_gap(value)


@pytest.mark.parametrize("value", [0, "0", "no", "-1", "a", False])
def test_no_gaps(value: Any) -> None:
    assert not is_gap(value)
