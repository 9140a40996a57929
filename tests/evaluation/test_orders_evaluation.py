"""Evaluation where only orders are known: lists are of one order, and there are no single images."""

import json

import pytest

from helpers.asking import ROTATED, TASK, as_shown, image, read, right, rotated, run
from rarl.data.collection import load_collection
from rarl.data.writing import write_collection
from rarl.errors import ConfigError


@pytest.fixture
def ordered(tmp_path):
    """Two orders of the brightness that `script` sees, no image in both: 0 < 2 < 4 < 6, 1 < 3 < 5 < 7."""
    collection = write_collection(
        tmp_path / "ordered", TASK, {"test": [(f"i{value}", value, image(value)) for value in range(8)]}
    )
    file = collection.root / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: row[k] for k in ("file_name", "id")}) + "\n" for row in rows))
    orders = [[f"i{value}" for value in values] for values in ((0, 2, 4, 6), (1, 3, 5, 7))]
    (file.parent / "orders.jsonl").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in orders))
    return load_collection(collection.root)


def test_single_images_of_orders_are_refused_with_a_mend(ordered, tmp_path, script):
    asked = script(right)
    with pytest.raises(ConfigError, match=r"test knows orders alone, .* lists, as with --images 2,4"):
        run(ordered, tmp_path / "out")
    assert not asked
    assert not (tmp_path / "out").exists()


def test_lists_are_of_one_order(ordered, tmp_path, script):
    asked = script(right)
    metrics = run(ordered, tmp_path / "out", images=(2, 4))
    assert len(asked) == 6
    assert all(len({value % 2 for value in values}) == 1 for values in asked)
    assert {values[0] % 2 for values in asked} == {0, 1}
    twice = {"tau2", "tau4", "parsed", "valid"}
    assert metrics.keys() == {*twice, "tau2_values", "tau4_values", *(f"{name}_lenient" for name in twice)}
    assert {entry["value"] for entry in metrics.values()} == {1}
    assert read(tmp_path / "out")[0]["lists"] == {"2": {"n": 4, "tie_rate": 0}, "4": {"n": 2, "tie_rate": 0}}


def test_tau_of_lists_of_an_order(ordered, tmp_path, script):
    """The two greatest of four exchanged, with the values following the list: five of six pairs are right, so
    (5 - 1)/6. All listed right with one value for all: by values every pair counts 0."""

    def reply(values):
        ascending = sorted(range(4), key=values.__getitem__)
        if values[0] % 2:
            listed, given = ascending, [4, 4, 4, 4]
        else:
            listed, given = [*ascending[:2], ascending[3], ascending[2]], [1, 2, 3, 4]
        entries = [{"image_id": i + 1, "value": v} for i, v in zip(listed, given, strict=True)]
        return f"<answer>{json.dumps(entries)}</answer>"

    asked = script(reply)
    run(ordered, tmp_path / "out", images=[4])
    lines = read(tmp_path / "out")[1]
    assert len(lines) == 2
    for values, line in zip(asked, lines, strict=True):
        expected = (1, 0) if values[0] % 2 else (2 / 3, 2 / 3)
        assert (line["tau"], line["tau_values"]) == pytest.approx(expected)
        # Places in the order, not values: 0 < 2 < 4 < 6 are 0, 1, 2, 3.
        assert line["truth"] == [value // 2 for value in values]


def test_rotated_lists_of_an_order(ordered, tmp_path, script):
    script(lambda values: right(values) if len(values) == 2 else as_shown(values))
    metrics = run(ordered, tmp_path / "out", images=(2, 4), position_lists=3)
    assert {key: metrics[key]["value"] for key in ROTATED} == pytest.approx(
        {"agreement2": 1, "position_bias2": 0, "agreement4": -1 / 9, "position_bias4": 1}
    )
    for line in rotated(read(tmp_path / "out")[1]):
        if line["images"] == 2:
            assert line["tau"] == 1  # the truths were turned with the pictures


def test_a_second_arm_has_the_same_lists_of_orders(ordered, tmp_path, script):
    asked = script(right)
    run(ordered, tmp_path / "out", images=(2, 4))
    first = list(asked)
    run(load_collection(ordered.root), tmp_path / "out", images=(2, 4), arm="rarl")
    assert asked[len(first) :] == first
    metrics, lines = read(tmp_path / "out")
    assert metrics["arms"]["rarl"] == metrics["arms"]["base"]
    assert [line["truth"] for line in lines[:6]] == [line["truth"] for line in lines[6:]]
