"""Orders in collections, groups and datasets: places instead of values, every bad line named, contradictions
found and nothing else."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rarl.data.collection import OrderedRow, Row, contradictions, inspect_collection, load_collection
from rarl.data.dataset import to_dataset
from rarl.data.groups import Group, draw_groups, load_groups, save_groups, training_groups
from rarl.errors import DataError
from rarl.method.tasks import AGE


def collection(root: Path, orders: list[Any], images: dict[str, dict[str, Any]] | str = "abcdef") -> Path:
    """A train part of empty files `a.png` ... with the ids a ..., and these orders; a text is a line."""
    (root / "train").mkdir(parents=True)
    (root / "task.yaml").write_text(json.dumps(AGE.to_dict()))
    rows = images if isinstance(images, dict) else {name: {} for name in images}
    for name in rows:
        (root / "train" / f"{name}.png").touch()
    lines = [json.dumps({"file_name": f"{name}.png", "id": name} | more) for name, more in rows.items()]
    (root / "train/metadata.jsonl").write_text("\n".join(lines))
    lines = [order if isinstance(order, str) else json.dumps({"ids": list(order)}) for order in orders]
    (root / "train/orders.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def rows_of(*orders: str) -> list[OrderedRow]:
    """Each letter of each text is an image; the texts ascend."""
    return [
        OrderedRow(name, Path(f"/images/{name}.png"), float(place), order=number)
        for number, order in enumerate(orders, 1)
        for place, name in enumerate(order)
    ]


def test_a_row_for_each_place_of_each_order(tmp_path: Path) -> None:
    found = load_collection(collection(tmp_path, [["c", "a"], "", ["a", "b", "f"]]))
    assert [(row.id, row.value, row.order) for row in found.split("train")] == [
        ("c", 0.0, 1),
        ("a", 1.0, 1),
        ("a", 0.0, 3),  # the number is that of the line
        ("b", 1.0, 3),
        ("f", 2.0, 3),
    ]
    assert found.split("train")[0].path == tmp_path / "train" / "c.png"
    assert not found.knows_values("train")


def test_a_rule_of_the_images_is_the_order_s(tmp_path: Path) -> None:
    images = {"a": {"rule": "x"}, "b": {"rule": "x"}}
    rows = load_collection(collection(tmp_path, [["a", "b"]], images)).split("train")
    assert [row.rule for row in rows] == ["x", "x"]


BAD = {
    '{"ids": ["a", "b"]': "not JSON",
    "[" * 50_000: "not JSON",
    '["a", "b"]': 'must be {"ids"',
    '{"id": ["a", "b"]}': 'must be {"ids"',
    '{"ids": "ab"}': 'must be {"ids"',
    '{"ids": ["a"]}': "two ids or more",
    '{"ids": ["a", "z"]}': "id 2, 'z', is that of no image of this split",
    '{"ids": [0, "a"]}': "id 1, 0, is that of no image",
    '{"ids": [["a"], "b"]}': r"id 1, \['a'\], is that of no image",
    '{"ids": ["a", "b", "a"]}': "'a' is listed twice",
    '{"ids": ["a", "r"]}': "different rules",
}


@pytest.mark.parametrize(("line", "message"), BAD.items(), ids=range(len(BAD)))
def test_every_bad_line_is_named_and_the_others_can_be_read(tmp_path: Path, line: str, message: str) -> None:
    images = {name: {} for name in "abc"} | {"r": {"rule": "other"}}
    root = collection(tmp_path, [["a", "b"], line, ["b", "c"]], images)
    with pytest.raises(DataError, match=message.replace("{", r"\{")) as caught:
        load_collection(root)
    assert str(caught.value).startswith(f"{root / 'train/orders.jsonl'} line 2: ")
    found, problems = inspect_collection(root)
    assert problems == [str(caught.value)]
    assert {row.order for row in found.split("train")} == {1, 3}


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    root = collection(tmp_path, [["a", "b"]])
    (root / "train/orders.jsonl").write_bytes(b'{"ids": ["a", "b"]}\n{"ids": ["\xff", "b"]}\n')
    with pytest.raises(DataError, match=r"orders\.jsonl line 2: not JSON"):
        load_collection(root)


def test_a_split_without_any_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"orders\.jsonl: no orders; write a line"):
        load_collection(collection(tmp_path, []))


def test_values_beside_orders_are_refused_and_null_is_none(tmp_path: Path) -> None:
    images = {"a": {"value": None}, "b": {"value": 3}, "c": {}}
    root = collection(tmp_path, [["a", "c"]], images)
    with pytest.raises(
        DataError, match=r"metadata\.jsonl line 2: a value, where orders\.jsonl says the order"
    ):
        load_collection(root)
    found, problems = inspect_collection(root)
    assert len(problems) == 1
    assert [row.id for row in found.split("train")] == ["a", "c"]


def test_a_part_with_values_may_stand_beside_one_with_orders(tmp_path: Path) -> None:
    root = collection(tmp_path, [["a", "b"]])
    (root / "test").mkdir()
    (root / "test/x.png").touch()
    (root / "test/metadata.jsonl").write_text('{"file_name": "x.png", "value": 7}')
    found = load_collection(root)
    assert (found.knows_values("train"), found.knows_values("test")) == (False, True)
    (root / "test/metadata.jsonl").write_text('{"file_name": "x.png"}')
    with pytest.raises(DataError, match="no 'value'"):
        load_collection(root)


@pytest.mark.parametrize(
    ("orders", "cycles"),
    [
        (["ab", "bc", "ac"], []),
        (["abcd", "ad", "bd"], []),
        (["ab", "ba"], ["ab"]),
        (["ab", "bc", "ca"], ["abc"]),
        (["abc", "cd", "de", "eb"], ["bcde"]),  # a is before them all, and in no cycle
        (["ab", "ba", "bc", "cd", "dc"], ["ab", "cd"]),
        (["ab", "cd"], []),
        (["abcdef", "xcy", "yd"], []),
        (["abcdef", "xdy", "yc"], ["cdy"]),
        (["ab", "cb", "cd", "ad"], []),  # a cycle only if directions are passed over
    ],
)
def test_contradictions_and_nothing_else(orders: list[str], cycles: list[str]) -> None:
    assert sorted("".join(sorted(cycle)) for cycle in contradictions(rows_of(*orders))) == cycles


def test_nothing_contradicts_itself_where_there_is_nothing() -> None:
    assert contradictions([]) == []
    assert contradictions([Row("a", Path("/a"), 3.0), Row("b", Path("/b"), 1.0)]) == []


def test_orders_from_one_ranking_never_contradict() -> None:
    generator = random.Random(0)
    names = [chr(200 + i) for i in range(80)]
    picks = [sorted(generator.sample(range(80), 5)) for _ in range(300)]
    rows = rows_of(*("".join(names[i] for i in pick) for pick in picks))
    assert contradictions(rows) == []


def test_a_group_is_of_one_order_and_every_image_of_it_has_its_turn() -> None:
    rows = rows_of("abcdef", "fedcba", "ghij", "xy")
    groups = draw_groups(rows, 2, 160, 0)
    assert all(len({row.order for row in group.rows}) == 1 for group in groups)
    used = {row: 0 for row in rows}
    for group in groups:
        for row in group.rows:
            used[row] += 1
        for order in (1, 2, 3, 4):
            turns = [used[row] for row in rows if row.order == order]
            assert max(turns) - min(turns) <= 1
    # In proportion: 3 : 3 : 2 : 1.
    assert {
        order: sum(group.rows[0].order == order for group in groups) for order in (1, 3)
    } == pytest.approx({1: 160 * 3 / 9, 3: 160 * 2 / 9}, abs=3)


def test_too_few_images_of_any_one_order() -> None:
    with pytest.raises(DataError, match="a group of 4 images can't be drawn from 3 images of any one order"):
        draw_groups(rows_of("abc", "def"), 4, 1, 0)


def test_lists_load_again_where_images_stand_in_several_orders(tmp_path: Path) -> None:
    rows = rows_of("abcd", "cxyd", "ya")
    groups = [
        Group((rows[3], rows[2])),  # d and c stand in the second order too
        Group((rows[7], rows[4])),
        Group((rows[7], rows[5], rows[4])),
        Group((rows[9], rows[8])),
    ]
    save_groups(groups, tmp_path / "lists.json")
    loaded = load_groups(tmp_path / "lists.json", rows)
    assert loaded == groups
    drawn = draw_groups(rows, 2, 60, 1)
    save_groups(drawn, tmp_path / "lists.json")
    assert load_groups(tmp_path / "lists.json", rows) == drawn


@pytest.mark.parametrize(
    "entry",
    [
        '{"order": 1, "ids": ["a", "x"]}',
        '{"order": 9, "ids": ["a", "b"]}',
        '{"order": [1], "ids": ["a", "b"]}',
        '{"order": "1", "ids": ["a", "b"]}',
        '{"order": 1}',
        '["a", "b"]',
    ],
)
def test_lists_of_other_orders_are_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "lists.json").write_text(f'[{{"order": 1, "ids": ["a", "b"]}}, {entry}]')
    with pytest.raises(DataError, match=r"lists\.json: group 2"):
        load_groups(tmp_path / "lists.json", rows_of("abcd", "cxyd", "ya"))


def test_the_dataset_has_places_and_no_values() -> None:
    rows = rows_of("abcdefgh")
    groups = [Group((rows[6], rows[1], rows[4])), Group((rows[0], rows[7]))]
    dataset = to_dataset(groups, AGE)
    assert "values" not in dataset.column_names
    stored = dataset.with_format(None).to_list()
    assert [row["order"] for row in stored] == [[2, 0, 1], [0, 1]]
    assert [row["ids"] for row in stored] == [["g", "b", "e"], ["a", "h"]]
    assert groups[0].truth == {"order": [2, 0, 1]}


def test_training_groups_of_orders() -> None:
    groups = training_groups(rows_of("abcdefgh", "stuvwxyz"), [2, 8], 2, 6, 0)
    assert [len(group.rows) for group in groups].count(8) == 6
    assert all(len({row.order for row in group.rows}) == 1 for group in groups)
