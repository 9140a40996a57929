"""Columns of `metadata.jsonl` to divide a split by: what counts as a value, which are chosen unasked,
and the message about one that can't be used."""

import json

import pytest
from PIL import Image

from rarl.data.collection import Collection, Row
from rarl.data.columns import NONE, read_columns
from rarl.data.prepare import prepare_collection
from rarl.data.sources.utkface import read_utkface
from rarl.errors import DataError
from rarl.method.tasks import Task

TASK = Task("toy", "brightness", low=0, high=10, step=1, delta=2)


@pytest.fixture
def split(tmp_path):
    """`split([{...}, ...])`: a collection whose part `test` has these rows, with ids i0, i1, ... where they
    have none."""

    def make(rows, lines=()):
        (tmp_path / "test").mkdir()
        named = [{"file_name": f"{n}.png", "value": 1, "id": f"i{n}", **row} for n, row in enumerate(rows)]
        text = "".join(json.dumps(row) + "\n" for row in named) + "".join(lines)
        (tmp_path / "test/metadata.jsonl").write_text(text, encoding="utf-8")
        path = tmp_path / "test/0.png"
        return Collection(tmp_path, TASK, {"test": tuple(Row(f"i{n}", path, 1.0) for n in range(len(rows)))})

    return make


def each(key, values):
    return [{} if value is ... else {key: value} for value in values]


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("female", "female"),
        (" dark \n skin ", "dark skin"),
        ("\x1b[31mred\x00", "[31mred"),  # would steer a terminal
        ("half \ud800", "half"),  # no file can hold it
        (3, "3"),
        (-1, "-1"),
        (3.0, "3"),  # a column of whole numbers, as tables with gaps have it
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (None, NONE),
        ("", NONE),
        ("  ", NONE),
        (float("nan"), NONE),
        (..., NONE),  # the row has no such column
    ],
)
def test_a_value_is_a_text_on_one_line(split, given, expected):
    collection = split(each("of", ["other", given]))
    assert read_columns(collection, "test", ["of"]) == {"of": {"i0": "other", "i1": expected}}


@pytest.mark.parametrize("given", [0.5, [1], {"a": 1}, 10**400, float("inf")])
def test_what_is_no_value_is_refused_with_its_line(split, given):
    collection = split(each("of", ["other", given]))
    with pytest.raises(DataError, match=r"metadata\.jsonl line 2: 'of' is .*: no text, no whole number"):
        read_columns(collection, "test", ["of"])
    assert read_columns(collection, "test") == {}


def test_a_row_without_id_is_known_by_its_file(split):
    collection = split([{"of": "a", "id": None}, {"of": "b"}])
    assert read_columns(collection, "test", ["of"]) == {"of": {"test/0.png": "a", "i1": "b"}}


# ── which are chosen ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        (["a", "b"] * 10, True),
        (["a"] * 19 + ["b"], True),
        (["a"] * 20, False),  # one value divides nothing
        (list(range(12)) * 2, True),
        (list(range(13)) * 2, False),
        (list(range(10)) * 2, True),
        (list(range(10)) + [0] * 9, False),  # fewer than two rows a value
        (["a", "b"] * 9 + [..., ...], True),  # nine rows of ten
        (["a", "b"] * 9 + [None, ""], True),
        (["a", "b"] * 8 + [..., ..., ...], False),
        ([...] * 2 + ["a", "b"] * 9, True),  # a column that begins late
        (["a"] * 19 + [...], False),  # a gap is no second value
        ([True, False] * 10, True),
        ([1, "1"] * 10, False),  # one value, written in two ways
        ([0.5, "a"] * 10, False),
    ],
)
def test_columns_with_a_few_values_on_nearly_all_rows_are_chosen(split, values, chosen):
    assert read_columns(split(each("of", values)), "test").keys() == ({"of"} if chosen else set())


def test_what_every_row_has_is_never_chosen(split):
    own = {"file_name": "0.png", "value": 0, "rule": "horses"}
    others = {"file_name": "1.png", "value": 1, "rule": "boats"}
    collection = split([own, others] * 4)
    assert read_columns(collection, "test") == {}
    assert set(read_columns(collection, "test", ["rule"])["rule"].values()) == {"horses", "boats"}


def test_chosen_columns_stand_as_in_the_file(split):
    collection = split([{"skin": "dark", "camera": 1}, {"skin": "light", "camera": 2}] * 3)
    assert list(read_columns(collection, "test")) == ["skin", "camera"]


def test_images_without_a_value_are_a_group(split):
    columns = read_columns(split(each("of", ["a", "b"] * 9 + [..., ""])), "test")
    assert list(columns["of"].values()) == ["a", "b"] * 9 + [NONE, NONE]
    assert list(columns["of"]) == [f"i{n}" for n in range(20)]


# ── which are named ──────────────────────────────────────────────────────────────────────────────────────


def test_named_columns_are_read_whatever_they_are(split):
    rows = [{"photographer": f"p{n}", "same": 1, "rare": "x" if n == 0 else None} for n in range(100)]
    collection = split(rows)
    columns = read_columns(collection, "test", ["rare", "photographer", "same", "rare"])
    assert list(columns) == ["rare", "photographer", "same"]
    assert [len(set(column.values())) for column in columns.values()] == [2, 100, 1]
    assert read_columns(collection, "test", []) == {}


def test_a_column_that_names_images_is_refused(split):
    collection = split([{"photographer": f"p{n}"} for n in range(101)])
    with pytest.raises(DataError, match=r"line 101: 'photographer': more than 100 .* another column"):
        read_columns(collection, "test", ["photographer"])


@pytest.mark.parametrize("name", ["gendre", "value", "id", "file_name"])
def test_an_unknown_column_names_those_there_are(split, name):
    collection = split([{"gender": "f"}, {"rule": "horses"}])
    with pytest.raises(DataError, match=rf"no column '{name}'; there are gender, rule$"):
        read_columns(collection, "test", ["gender", name])


def test_no_columns_at_all(split):
    with pytest.raises(DataError, match=r"no column 'gender'; its rows have file_name, id, value alone$"):
        read_columns(split([{}]), "test", ["gender"])


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("line", ["{\n", "[1]\n", "[" * 100_000 + "\n", '{"value": 1}\n'])
def test_a_line_that_is_no_row_is_named(split, line):
    with pytest.raises(DataError, match=r"metadata\.jsonl line 3: "):
        read_columns(split([{}, {}], [line]), "test", ["of"])


def test_a_file_that_is_gone(split):
    collection = split([{}])
    (collection.root / "test/metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"metadata\.jsonl: can't be read"):
        read_columns(collection, "test")


def test_no_such_split(split):
    with pytest.raises(DataError, match="no split 'tset'"):
        read_columns(split([{}]), "tset")


def test_an_empty_line_is_passed_over(split):
    assert read_columns(split(each("of", ["a", "b"]), ["\n", "  \n"]), "test", ["of"]) == {
        "of": {"i0": "a", "i1": "b"}
    }


def test_faces_are_divided_by_gender_and_race(tmp_path):
    """From the raw names (age_gender_race_date) on; the date, in which all differ, is not chosen."""
    raw, tests = tmp_path / "raw", []
    raw.mkdir()
    for number in range(20):
        name = f"{20 + number % 3}_{number % 2}_{number % 4}_201701161745{number:05}.jpg.chip.jpg"
        Image.new("RGB", (28, 28), (number * 10,) * 3).save(raw / name)
        tests += [name] if number < 12 else []
    (tmp_path / "test.txt").write_text("\n".join(tests))
    collection = prepare_collection(
        read_utkface(raw, [f"test={tmp_path / 'test.txt'}"]), tmp_path / "out"
    ).collection
    columns = read_columns(collection, "test")
    assert {name: sorted(column.values()) for name, column in columns.items()} == {
        "gender": ["0"] * 6 + ["1"] * 6,
        "race": ["0"] * 3 + ["1"] * 3 + ["2"] * 3 + ["3"] * 3,
    }
    assert {row.id for row in collection.split("test")} == columns["race"].keys()
