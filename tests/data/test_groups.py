"""Groups: distinct values, every image before any is used again, one rule to a group, the same groups for the
same seed; and the Dataset that TRL reads."""

import json
import pickle
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rarl.data.collection import OrderedRow, Row
from rarl.data.dataset import to_dataset
from rarl.data.groups import (
    Group,
    disjoint_groups,
    draw_groups,
    load_groups,
    save_groups,
    share_images,
    tie_rate,
    training_groups,
)
from rarl.errors import DataError
from rarl.method.prompts import messages
from rarl.method.tasks import AESTHETICS, DIGITS


def rows_of(values: Sequence[float], rule: str | None = None) -> list[Row]:
    return [Row(f"{rule or ''}{i}", Path(f"/images/{i}.png"), float(v), rule) for i, v in enumerate(values)]


def rows_sized(sizes: Sequence[int]) -> list[Row]:
    """`sizes[v]` images of value v."""
    return rows_of([value for value, size in enumerate(sizes) for _ in range(size)])


def uses(groups: Sequence[Group]) -> Counter[str]:
    return Counter(row.id for group in groups for row in group.rows)


sizes_and_count = st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 8)).filter(
    lambda case: sum(case[0]) >= case[1]
)


@settings(deadline=None, max_examples=150)
@given(sizes_and_count, st.integers(0, 9))
def test_groups_have_their_size_no_image_twice_and_values_as_even_as_can_be(
    case: tuple[list[int], int], seed: int
) -> None:
    sizes, count = case
    for group in draw_groups(rows_sized(sizes), count, 30, seed):
        assert len({row.id for row in group.rows}) == len(group.rows) == count
        taken = Counter(group.values)
        # Nothing could be moved to a value that is used less by two or more, and still has an image.
        could_take_more = [taken[v] for v, size in enumerate(sizes) if taken[v] < size]
        assert not could_take_more or max(taken.values()) <= min(could_take_more) + 1
        if count > 1 and len(sizes) > 1:
            assert len(taken) >= 2


@settings(deadline=None, max_examples=150)
@given(sizes_and_count, st.integers(0, 9))
def test_images_of_one_value_take_turns(case: tuple[list[int], int], seed: int) -> None:
    sizes, count = case
    rows = rows_sized(sizes)
    used: Counter[str] = Counter()
    for group in draw_groups(rows, count, 40, seed):
        used.update(row.id for row in group.rows)
        for value in range(len(sizes)):
            turns = [used[row.id] for row in rows if row.value == value]
            assert max(turns) - min(turns) <= 1


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 9))
def test_with_distinct_values_no_image_is_used_again_before_all_are(
    number: int, count: int, seed: int
) -> None:
    count = min(count, number)
    rows = rows_of(range(number))
    used = Counter({row.id: 0 for row in rows})
    for group in draw_groups(rows, count, 3 * number, seed):
        used.update(row.id for row in group.rows)
        assert max(used.values()) - min(used.values()) <= 1


@settings(deadline=None, max_examples=150)
@given(sizes_and_count, st.integers(0, 9))
def test_no_image_is_used_again_before_all_are_where_distinct_values_allow_it(
    case: tuple[list[int], int], seed: int
) -> None:
    sizes, count = case
    total = sum(sizes)
    whole = total // count
    # Exactly then `whole` groups of distinct values and one begun group hold every image once.
    most = sorted(sizes, reverse=True)
    if any(sum(most[:j]) > whole * min(j, count) + min(j, total % count) for j in range(1, len(most) + 1)):
        return
    groups = draw_groups(rows_sized(sizes), count, -(-total // count), seed)
    assert max(uses(groups[:whole]).values()) == 1
    assert len(uses(groups)) == total


def test_balanced_values_are_used_evenly_in_the_long_run() -> None:
    rows = rows_sized([90] * 10)
    for count in (1, 2, 4, 8, 10):
        used = uses(draw_groups(rows, count, 5 * 900 // count, seed=0))
        assert len(used) == 900
        assert set(used.values()) <= {4, 5, 6}


def test_a_common_value_stands_in_every_group_and_not_first_of_all() -> None:
    # 60 of 120 images have value 0: pairs without reuse must all hold it.
    groups = draw_groups(rows_sized([60, 20, 20, 20]), 2, 60, seed=1)
    assert all(0.0 in group.values for group in groups)
    assert set(uses(groups).values()) == {1}
    # 30 of 120: it need not, and a part of the pass looks like the whole.
    part = draw_groups(rows_sized([30] + [10] * 9), 2, 20, seed=1)
    assert 4 <= sum(0.0 in group.values for group in part) <= 16


def test_pairs_of_values_are_mixed() -> None:
    groups = draw_groups(rows_sized([90] * 10), 2, 450, seed=0)
    assert len({frozenset(group.values) for group in groups}) == 45


def test_the_order_within_a_group_is_shuffled() -> None:
    groups = draw_groups(rows_sized([1] * 3), 3, 600, seed=0)
    orders = Counter(tuple(group.values) for group in groups)
    assert len(orders) == 6
    assert min(orders.values()) > 60


def test_a_seed_gives_the_same_groups_and_more_of_them_go_on_alike() -> None:
    rows = rows_sized([5, 9, 2, 7, 7, 1, 3])
    assert draw_groups(rows, 4, 50, 3) == draw_groups(rows, 4, 100, 3)[:50]
    assert draw_groups(rows, 4, 50, 3) != draw_groups(rows, 4, 50, 4)
    assert draw_groups(rows, 4, 0, 3) == []


def test_a_seed_gives_the_same_groups_in_another_process(tmp_path: Path) -> None:
    # Hashes of texts differ from process to process; no draw may depend on them.
    code = (
        "import sys; from pathlib import Path; from rarl.data.collection import Row; "
        "from rarl.data.groups import draw_groups; "
        "rows = [Row(f'{r}{i}', Path('/x'), i % 7, r) for r in ('dogs', 'cats', None) for i in range(30)]; "
        "print([[row.id for row in g.rows] for g in draw_groups(rows, 4, 20, 5)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_the_global_generator_and_the_rows_are_left_alone() -> None:
    rows = rows_sized([4, 4, 4])
    before, state = list(rows), random.getstate()
    draw_groups(rows, 2, 20, seed=0)
    training_groups(rows, [1, 2], 2, 5, seed=0)
    assert rows == before
    assert random.getstate() == state


def test_rules_never_mix_and_get_groups_by_their_share() -> None:
    rows = rows_of(range(40), "dogs") + rows_of(range(20), "cats") + rows_of(range(20))
    random.Random(0).shuffle(rows)
    groups = draw_groups(rows, 4, 40, seed=0)
    assert all(len({row.rule for row in group.rows}) == 1 for group in groups)
    assert Counter(group.rule for group in groups) == {"dogs": 20, "cats": 10, None: 10}
    assert set(uses(groups).values()) == {2}


def test_rules_that_can_not_make_a_group_or_a_ranking_are_left_out() -> None:
    rows = rows_of(range(8), "dogs") + rows_of(range(3), "cats") + rows_of([1] * 20, "cows")
    assert {group.rule for group in draw_groups(rows, 4, 30, seed=0)} == {"dogs"}
    assert {group.rule for group in draw_groups(rows, 1, 90, seed=0)} == {"dogs", "cats", "cows"}
    assert {group.rule for group in draw_groups(rows[8:], 4, 30, seed=0)} == {"cows"}


@pytest.mark.parametrize(
    ("rows", "count", "message"),
    [
        (rows_of(range(7)), 8, "a group of 8 images can't be drawn from 7 images; add images"),
        ([], 1, "a group of 1 images can't be drawn from 0 images"),
        (rows_of(range(7)), 0, "a group of 0 images"),
        (rows_of(range(5), "a") + rows_of(range(6), "b"), 8, "from 6 images of any one rule"),
    ],
)
def test_too_few_images_are_refused(rows: list[Row], count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_groups(rows, count, 1, seed=0)


HEAVY = {
    "all distinct": list(range(50_000)),
    "two levels, one image": [0] * 49_999 + [1],
    "nearly one value": [0] * 49_900 + list(range(1, 101)),
    "half one value": [0] * 25_000 + list(range(1, 25_001)),
    "as many values as images": [i % 8 for i in range(50_000)],
    "one value more": [i % 9 for i in range(50_000)],
    "long tail": [int(1.0002**i) for i in range(50_000)],
}


@pytest.mark.parametrize("values", HEAVY.values(), ids=HEAVY)
def test_many_groups_of_many_images_take_seconds(values: list[int]) -> None:
    rows = rows_of(values)
    start = time.process_time()
    assert len(draw_groups(rows, 8, 10_000, seed=0)) == 10_000
    assert time.process_time() - start < 4  # about 0.3 on a desktop; anything quadratic takes minutes


def test_steps_have_one_number_of_images_in_shuffled_rounds() -> None:
    rows = rows_sized([30] * 10)
    groups = training_groups(rows, [1, 2, 4, 8], prompts_per_step=3, steps=42, seed=0)
    assert len(groups) == 126
    counts = [[len(group.rows) for group in groups[step * 3 : step * 3 + 3]] for step in range(42)]
    assert all(len(set(step)) == 1 for step in counts)
    numbers = [step[0] for step in counts]
    rounds = [tuple(numbers[i : i + 4]) for i in range(0, 40, 4)]
    assert all(sorted(one) == [1, 2, 4, 8] for one in rounds)
    assert len(set(rounds)) > 3
    assert len(set(numbers[40:])) == 2


def test_each_number_of_images_uses_all_before_any_again() -> None:
    rows = rows_of(range(24))
    groups = training_groups(rows, (1, 4), prompts_per_step=6, steps=2 * 4, seed=0)
    for count in (1, 4):
        assert set(uses([group for group in groups if len(group.rows) == count]).values()) == {count}


def test_more_steps_begin_with_the_same_groups() -> None:
    rows = rows_sized([30] * 10)
    short, long = (training_groups(rows, [2, 8], 4, steps, seed=1) for steps in (5, 30))
    assert long[: len(short)] == short
    assert training_groups(rows, [2, 8], 4, 30, seed=2) != long
    assert training_groups(rows, [2, 8], 4, 0, seed=2) == []


def test_tie_rate_is_the_share_of_lists_with_a_tie() -> None:
    groups = [Group(tuple(rows_of(values))) for values in ([1, 2], [1, 1], [1, 2, 1, 3], [4])]
    assert tie_rate(groups) == 0.5
    assert tie_rate([]) == 0


def test_saved_groups_load_again(tmp_path: Path) -> None:
    rows = rows_of(range(9), 'a "rule", ä')
    groups = draw_groups(rows, 4, 5, seed=0) + draw_groups(rows, 1, 2, seed=0)
    save_groups(groups, tmp_path / "groups.json")
    assert load_groups(tmp_path / "groups.json", rows) == groups
    assert [path.name for path in tmp_path.iterdir()] == ["groups.json"]
    assert json.loads((tmp_path / "groups.json").read_text())[0] == [row.id for row in groups[0].rows]
    save_groups([], tmp_path / "none.json")
    assert load_groups(tmp_path / "none.json", rows) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["0", "1"], ["2", "ghost"]]', r"groups\.json: group 2: the split has no image with id 'ghost'"),
        ('[["0", 1]]', "no image with id 1"),
        ("[[]]", "group 1 must be a list of ids"),
        ('{"a": 1}', "group 1 must be a list of ids"),
        ("[[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (None, "can't be read"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "groups.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_groups(tmp_path / "groups.json", rows_of(range(3)))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Row]:
    """Four images; the red part of each pixel is its number."""
    rows = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
        rows.append(Row(f"id{number}", path, number / 2, "a rule of its own" if number == 3 else None))
    return rows


def test_columns_are_plain_and_those_of_the_contract(pictures: list[Row]) -> None:
    groups = [Group((pictures[2], pictures[0])), Group((pictures[3],))]
    dataset = to_dataset(groups, DIGITS, {"note": ["x", "y"]})
    names = ["values", "delta", "range", "step", "rule", "ids", "paths", "note"]
    assert dataset.column_names == names
    stored = dataset.with_format(None).to_list()
    assert stored == json.loads(json.dumps(stored))
    assert stored[0] == {
        "values": [1.0, 0.0],
        "delta": 2.0,
        "range": [0.0, 9.0],
        "step": 1.0,
        "rule": "handwritten digit",
        "ids": ["id2", "id0"],
        "paths": [str(pictures[2].path), str(pictures[0].path)],
        "note": "x",
    }
    assert stored[1]["rule"] == "a rule of its own"
    assert list(dataset["values"]) == [[1.0, 0.0], [1.5]]


def test_reading_a_row_adds_prompt_and_images_in_order(pictures: list[Row]) -> None:
    dataset = to_dataset([Group((pictures[2], pictures[0])), Group((pictures[3],))], AESTHETICS)
    first, second = dataset[0], dataset[1]
    assert first["prompt"] == messages(2, "aesthetic quality", "1-10")
    assert second["prompt"] == messages(1, "a rule of its own", "1-10")
    assert [image.getpixel((0, 0)) for image in first["images"]] == [(2, 0, 0), (0, 0, 0)]
    assert first["values"] == [1.0, 0.0]
    assert first["images"][0].mode == "RGB"


def test_a_file_is_opened_once_for_rows_read_together_and_never_at_once(
    pictures: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def counting(path: Any, resizing: None) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("rarl.data.dataset.open_image", counting)
    dataset = to_dataset([Group(tuple(pictures[:2])), Group(tuple(pictures[1:3]))], DIGITS)
    assert opened == []
    read = dataset.__getitems__([0, 0, 1, 0])  # as a DataLoader reads a batch
    assert sorted(opened) == [str(row.path) for row in pictures[:3]]
    assert read[0]["images"][1] is read[2]["images"][0]
    # The same batch again, as TRL reads it for each micro-batch: nothing is opened, and what it does not
    # hold is forgotten.
    again = dataset.__getitems__([0, 0])
    assert len(opened) == 3
    assert again[0]["images"][0] is read[0]["images"][0]
    dataset.__getitems__([1])
    assert sorted(opened[3:]) == [str(pictures[2].path)]
    assert len(pickle.dumps(dataset.format["format_kwargs"]["transform"])) < 1000
    assert [row["values"] for row in read] == [[0.0, 0.5], [0.0, 0.5], [0.5, 1.0], [0.0, 0.5]]


def test_a_missing_image_is_named_when_its_row_is_read(pictures: list[Row]) -> None:
    dataset = to_dataset([Group((pictures[0],)), Group((pictures[1],))], DIGITS)
    pictures[1].path.unlink()
    assert dataset[0]["values"] == [0.0]
    with pytest.raises(DataError, match=r"1\.png: no such image file"):
        dataset[1]


def test_large_datasets_are_made_quickly_without_files_and_output(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    groups = [Group(tuple(rows_of(range(4))))] * 50_000
    start = time.process_time()
    dataset = to_dataset(groups, DIGITS)
    assert len(dataset) == 50_000
    assert time.process_time() - start < 10
    assert dataset.cache_files == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_trl_reads_its_batches_from_it(pictures: list[Row]) -> None:
    from torch.utils.data import DataLoader
    from trl.trainer.utils import RepeatSampler

    dataset = to_dataset([Group((pictures[i], pictures[i - 1])) for i in range(3)], DIGITS)
    sampler = RepeatSampler(dataset, mini_repeat_count=2, batch_size=3, repeat_count=1, shuffle=False)
    batches = list(DataLoader(dataset, batch_size=6, sampler=sampler, collate_fn=list))
    assert [row["ids"][0] for row in batches[0]] == ["id0", "id0", "id1", "id1", "id2", "id2"]
    assert all(len(row["images"]) == 2 and row["prompt"][1]["role"] == "user" for row in batches[0])


# ── groups without a common image ────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=150)
@given(sizes_and_count, st.integers(0, 9))
def test_disjoint_groups_are_the_drawn_ones_up_to_the_first_image_that_would_come_again(
    case: tuple[list[int], int], seed: int
) -> None:
    sizes, count = case
    rows = rows_sized(sizes)
    groups = disjoint_groups(rows, count, 200, seed)
    assert groups
    assert not share_images(groups)
    drawn = draw_groups(rows, count, len(groups) + 1, seed)
    assert groups == drawn[:-1]
    assert share_images(drawn)
    assert disjoint_groups(rows, count, 2, seed) == groups[:2]


def test_even_values_are_divided_without_a_rest() -> None:
    rows = rows_sized([40] * 10)
    assert [len(disjoint_groups(rows, count, 1000, 0)) for count in (1, 2, 4, 8)] == [400, 200, 100, 50]
    assert len(disjoint_groups(rows, 8, 12, 0)) == 12
    assert disjoint_groups(rows, 8, 0, 0) == []


def test_a_value_that_is_too_common_leaves_images_over() -> None:
    """Of 30 images of one value and 6 others, six pairs differ in value; no pair of equals is drawn."""
    groups = disjoint_groups(rows_sized([30, 3, 3]), 2, 100, 0)
    assert len(groups) == 6
    assert tie_rate(groups) == 0


def test_each_rule_has_the_lists_that_its_images_allow() -> None:
    """Also where another rule has no images left. An image that two rules show is in one list."""
    cats, dogs = (
        rows_of(range(40), "cats"),
        [Row(f"dogs{i}", Path(f"/other/{i}.png"), float(i), "dogs") for i in range(12)],
    )
    groups = disjoint_groups(cats + dogs, 4, 100, 0)
    assert Counter(group.rule for group in groups) == {"cats": 10, "dogs": 3}
    assert not share_images(groups)
    same = disjoint_groups(rows_of(range(40), "cats") + rows_of(range(40), "dogs"), 4, 100, 0)
    assert not share_images(same)
    assert {group.rule for group in same} == {"cats", "dogs"}


def test_an_image_in_several_orders_is_in_one_list() -> None:
    orders = ["abcd", "cdef", "efgh", "ijkl"]
    rows: list[Row] = [
        OrderedRow(name, Path(f"/images/{name}.png"), float(place), order=number)
        for number, names in enumerate(orders, 1)
        for place, name in enumerate(names)
    ]
    for seed in range(10):
        groups = disjoint_groups(rows, 2, 100, seed)
        assert not share_images(groups)
        assert all(len({row.pool for row in group.rows}) == 1 for group in groups)
        assert sum(group.rows[0].pool.order == 4 for group in groups) == 2
        assert share_images(draw_groups(rows, 2, 8, seed))
