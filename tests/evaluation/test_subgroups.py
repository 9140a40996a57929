"""Single images measured for each value of a column."""

import json

import pytest

from helpers.asking import TASK, image, read, right, run
from rarl.data.collection import load_collection
from rarl.data.writing import write_collection
from rarl.errors import ConfigError, DataError


@pytest.fixture
def divided(tmp_path):
    """0, 2, 4, 6 are taken by camera 9 and outdoors, 1, 3, 5 by camera 10, 7 by none; 1, 3, 5, 7 indoors."""
    collection = write_collection(
        tmp_path / "divided", TASK, {"test": [(f"i{value}", value, image(value)) for value in range(8)]}
    )
    file = collection.root / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["indoors"] = row["value"] % 2 == 1
        row["camera"] = None if row["value"] == 7 else 10 if row["indoors"] else 9
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_collection(collection.root)


def two_more_indoors(values):
    """Right outdoors; indoors 1, 3, 5, 7 are taken for 2, 5, 8, and nothing."""
    replies = {1: 2, 3: 5, 5: 8}
    if len(values) > 1 or values[0] % 2 == 0:
        return right(values)
    return right([replies[values[0]]]) if values[0] in replies else "nothing"


def test_single_images_are_measured_for_each_value_of_a_column(divided, tmp_path, script):
    script(two_more_indoors)
    run(divided, tmp_path / "out", by=["camera", "indoors"])
    groups = read(tmp_path / "out")[0]["subgroups"]["base"]
    # Numbers by size, and what has no value last.
    assert {column: list(values) for column, values in groups.items()} == {
        "camera": ["9", "10", "(none)"],
        "indoors": ["false", "true"],
    }
    nine, ten, none = groups["camera"].values()
    assert {key: entry["value"] for key, entry in nine.items()} == pytest.approx(
        {"mae": 0, "accuracy": 1, "within_one": 1, "srcc": 1, "plcc": 1}
    )
    # Errors 1, 2 and 3.
    assert {key: entry["value"] for key, entry in ten.items()} == pytest.approx(
        {"mae": 2, "accuracy": 0, "within_one": 1 / 3, "srcc": 1, "plcc": 1}
    )
    assert {entry["n"] for entry in nine.values()} == {4}
    assert ten["mae"]["n"] == 3
    assert 1 <= ten["mae"]["low"] < 2 < ten["mae"]["high"] <= 3
    # One image, and no value for it: the midpoint 5 where 7 is true. One truth correlates with nothing.
    two, zero = ({"value": value, "low": value, "high": value, "n": 1} for value in (2, 0))
    assert none == {"mae": two, "accuracy": zero, "within_one": zero}
    assert groups["indoors"]["true"]["mae"]["value"] == (1 + 2 + 3 + 2) / 4


def test_columns_with_a_few_values_are_found(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out")
    groups = read(tmp_path / "out")[0]["subgroups"]["base"]
    assert groups.keys() == {"indoors"}  # one of eight has no camera: fewer than nine rows of ten


def test_none_are_divided_where_none_is_named(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out", by=())
    assert "subgroups" not in read(tmp_path / "out")[0]


def test_lists_have_no_subgroups(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out", images=[2])
    assert "subgroups" not in read(tmp_path / "out")[0]


def test_arms_keep_each_others_subgroups(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out")
    before = read(tmp_path / "out")[0]["subgroups"]
    script(two_more_indoors)
    run(divided, tmp_path / "out", arm="rarl", by=["camera"])
    groups = read(tmp_path / "out")[0]["subgroups"]
    assert groups["base"] == before["base"]
    assert groups["rarl"].keys() == {"camera"}
    run(divided, tmp_path / "out", arm="rarl", by=())
    assert read(tmp_path / "out")[0]["subgroups"] == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": ["colour"]}, DataError, "no column 'colour'; there are indoors, camera"),
        ({"by": ["camera"], "images": [2]}, ConfigError, "by: divides single images, and none is asked for"),
        ({"position_lists": -1}, ConfigError, "position_lists must be 0 or more, not -1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_runs(
    divided, tmp_path, script, options, error, message
):
    asked = script(right)
    with pytest.raises(error, match=message):
        run(divided, tmp_path / "out", **options)
    assert not asked
    assert not (tmp_path / "out").exists()
