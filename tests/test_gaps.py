"""data/gaps.py: the gap is kept wherever it can be, images take turns, and a curriculum runs in its
direction. Groups are looked at; how they came about is not."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rarl.data.collection import Row
from rarl.data.gaps import gap_draws
from rarl.data.groups import Group, draw_groups, training_groups
from rarl.errors import DataError

GAPS = st.sampled_from([(0.0, 0.0), (1.0, 1.0), (3.0, 3.0), (9.0, 0.5), (0.5, 9.0)])


def rows_of(values: Sequence[float], rule: str | None = None) -> list[Row]:
    return [Row(f"{rule or ''}{i}", Path(f"/images/{i}.png"), float(v), rule) for i, v in enumerate(values)]


def narrowest(group: Group) -> float:
    """The least difference between two values of the group."""
    return min(b - a for a, b in pairwise(sorted(group.values)))


def turns(rows: Sequence[Row], groups: Sequence[Group]) -> list[int]:
    used = Counter(row.id for group in groups for row in group.rows)
    return [used[row.id] for row in rows]


def drawn(values: Sequence[float], count: int, number: int, gap: tuple[float, float], seed: int = 0):
    return draw_groups(rows_of(values), count, number, seed, gap)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=40),
    st.integers(2, 8),
    st.integers(1, 6),
    st.integers(1, 70),
    st.integers(0, 5),
)
@example([0, 1, 2, 3], 2, 2, 40, 0)
def test_the_gap_is_kept_wherever_it_can_be(
    values: list[int], count: int, gap: int, number: int, seed: int
) -> None:
    assume(len(values) >= count)
    # Of any images next to each other in value, more than there are groups in a pass, two share a group.
    groups, ascending = len(values) // count, sorted(values)
    assume(all(b - a >= gap for a, b in zip(ascending, ascending[groups:], strict=False)))
    assert all(narrowest(group) >= gap for group in drawn(values, count, number, (gap, gap), seed))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 8), GAPS, st.integers(0, 5))
def test_groups_have_their_size_and_no_image_twice(
    values: list[int], count: int, gap: tuple[float, float], seed: int
) -> None:
    assume(len(values) >= count)
    groups = drawn(values, count, 75, gap, seed)
    assert len(groups) == 75
    assert all(len({row.id for row in group.rows}) == len(group.rows) == count for group in groups)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 8), GAPS, st.integers(0, 5))
def test_every_image_is_used_before_any_is_used_again(
    size: int, count: int, gap: tuple[float, float], seed: int
) -> None:
    count = min(count, size)
    values = [(7 * i) % 11 for i in range(size)]
    # Of a value that is more common than that, images wait.
    assume(max(Counter(values).values()) <= size // count)
    rows = rows_of(values)
    used = Counter({row.id: 0 for row in rows})
    for number, group in enumerate(draw_groups(rows, count, 100, seed, gap), 1):
        used.update(row.id for row in group.rows)
        # Two while a pass goes on whose groups don't hold all images.
        level = size % count == 0 or number % (size // count) == 0
        assert max(used.values()) - min(used.values()) <= (1 if level else 2)


def test_one_pass_holds_every_image_once() -> None:
    rows = rows_of(range(120))
    for gap in ((5.0, 5.0), (20.0, 1.0)):
        for number in (15, 30, 45):  # one pass, two and three, in one phase and in two
            assert set(turns(rows, draw_groups(rows, 8, number, 3, gap))) == {number // 15}


def test_the_widest_gap_that_all_groups_of_a_pass_can_keep_is_kept() -> None:
    # 0..15 in four groups of four: 0 4 8 12, 1 5 9 13 and so on is the only way to keep 4.
    for group in drawn(range(16), 4, 40, (4.0, 4.0)):
        low = min(group.values)
        assert sorted(group.values) == [low, low + 4, low + 8, low + 12]
    # In another order each pass.
    lows = [int(min(group.values)) for group in drawn(range(16), 4, 40, (4.0, 4.0))]
    passes = {tuple(lows[i : i + 4]) for i in range(0, 40, 4)}
    assert {tuple(sorted(one)) for one in passes} == {(0, 1, 2, 3)}
    assert len(passes) > 4
    # More than that can't be kept, and then it is still as much.
    assert all(narrowest(group) >= 4 for group in drawn(range(16), 4, 40, (7.0, 7.0)))


def test_equal_values_are_kept_apart_by_a_gap_of_nothing() -> None:
    values = [value for value in range(8) for _ in range(5)]
    groups = drawn(values, 8, 50, (0.0, 0.0))
    assert all(sorted(group.values) == list(range(8)) for group in groups)
    large = [1e9 + value for value in values]
    assert all(len(set(group.values)) == 8 for group in drawn(large, 8, 50, (0.0, 0.0)))


def test_a_gap_leaves_the_rest_to_chance() -> None:
    # 0..9, pairs at least 3 apart: 28 of the 45 pairs may come, and all do.
    pairs = Counter(tuple(sorted(group.values)) for group in drawn(range(10), 2, 2000, (3.0, 3.0)))
    assert len(pairs) == 28
    assert min(pairs.values()) > 15


def test_few_values_leave_to_chance_which_images_meet() -> None:
    groups = drawn([value for value in range(3) for _ in range(8)], 4, 600, (1.0, 1.0))
    pairs = {frozenset((a.id, b.id)) for group in groups for a in group.rows for b in group.rows if a != b}
    # Dealt alike in every pass it would be 36 pairs; 192 have different values.
    assert len(pairs) > 150


def test_the_order_within_a_group_is_shuffled() -> None:
    orders = Counter(tuple(group.values) for group in drawn(range(3), 3, 600, (1.0, 1.0)))
    assert len(orders) == 6
    assert min(orders.values()) > 60


@pytest.mark.parametrize(
    ("sizes", "count", "taken"),
    [
        ([40, 40, 40], 4, [1, 1, 2]),
        ([30, 30, 30], 6, [2, 2, 2]),
        ([40, 40, 40], 8, [2, 3, 3]),
        ([48, 48], 8, [4, 4]),
    ],
)
def test_few_values_are_used_as_evenly_as_can_be(sizes: list[int], count: int, taken: list[int]) -> None:
    values = [value for value, size in enumerate(sizes) for _ in range(size)]
    for gap in ((1.0, 1.0), (5.0, 1.0)):
        for group in drawn(values, count, 60, gap):
            assert sorted(Counter(group.values).values()) == taken


@pytest.mark.parametrize(("gap", "sign"), [((20.0, 1.0), -1), ((1.0, 20.0), 1)])
def test_a_curriculum_runs_from_wide_to_narrow_or_the_other_way(gap: tuple[float, float], sign: int) -> None:
    generator = random.Random(0)
    groups = drawn([generator.uniform(0, 100) for _ in range(1600)], 4, 400, gap)
    fifths = [mean(narrowest(group) for group in groups[i : i + 80]) for i in range(0, 400, 80)]
    assert fifths == sorted(fifths, reverse=sign < 0)
    assert max(fifths) > 18
    assert min(fifths) < 10
    assert all(narrowest(group) >= 1 for group in groups)
    # The gap of a place is kept there: a quarter from the wide end it is 15.
    wide = groups[:80] if sign < 0 else groups[-80:]
    assert min(narrowest(group) for group in wide) >= 15


def test_within_one_phase_the_widest_come_first() -> None:
    groups = drawn([float(i * i % 997) for i in range(60)], 4, 15, (30.0, 2.0))
    gaps = [narrowest(group) for group in groups]
    assert gaps == sorted(gaps, reverse=True)
    assert len(set(gaps)) > 3
    even = [narrowest(g) for g in drawn([float(i * i % 997) for i in range(60)], 4, 15, (2.0, 2.0))]
    assert even != sorted(even, reverse=True)


def test_a_curriculum_goes_over_all_steps_of_a_training() -> None:
    generator = random.Random(0)
    rows = rows_of([generator.uniform(0, 100) for _ in range(400)])
    groups = training_groups(rows, [1, 2, 4], 4, 90, 0, (24.0, 1.0))
    assert len(groups) == 360
    for count in (2, 4):
        gaps = [narrowest(group) for group in groups if len(group.rows) == count]
        assert len(gaps) == 120
        assert min(gaps[:20]) > 20
        assert min(gaps[-20:]) < 12
    assert all(len({len(group.rows) for group in groups[i : i + 4]}) == 1 for i in range(0, 360, 4))


def test_a_seed_gives_the_same_groups_and_another_others() -> None:
    for gap in ((2.0, 2.0), (9.0, 2.0)):
        one = drawn(range(50), 4, 60, gap, 3)
        assert drawn(range(50), 4, 60, gap, 3) == one
        assert drawn(range(50), 4, 60, gap, 4) != one
    assert drawn(range(50), 4, 0, (2.0, 2.0)) == []


# What seed 7 gave before there were gaps, and still does: runs without one are repeated exactly.
BEFORE = [[9, 8, 0], [10, 2, 4], [11, 6, 3], [7, 5, 1], [7, 6, 9]]


def test_without_a_gap_the_groups_are_those_they_were() -> None:
    groups = draw_groups(rows_of([0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]), 3, 5, 7)
    assert [[int(row.id) for row in group.rows] for group in groups] == BEFORE
    assert draw_groups(rows_of([0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]), 3, 5, 7, None) == groups


def test_rules_never_mix_and_get_groups_by_their_share() -> None:
    rows = rows_of(range(40), "dogs") + rows_of(range(20), "cats") + rows_of(range(20))
    random.Random(0).shuffle(rows)
    for gap in ((4.0, 4.0), (5.0, 1.0)):
        groups = draw_groups(rows, 4, 40, 0, gap)
        assert all(len({row.rule for row in group.rows}) == 1 for group in groups)
        assert Counter(group.rule for group in groups) == {"dogs": 20, "cats": 10, None: 10}
        assert set(turns(rows, groups)) == {2}
    assert all(narrowest(group) >= 4 for group in draw_groups(rows, 4, 40, 0, (4.0, 4.0)))


def test_a_rule_that_can_not_make_a_group_is_left_out_and_too_few_images_are_refused() -> None:
    rows = rows_of(range(9), "dogs") + rows_of(range(3), "cats") + rows_of([1] * 20, "cows")
    assert {group.rule for group in draw_groups(rows, 4, 30, 0, (1.0, 1.0))} == {"dogs"}
    with pytest.raises(DataError, match="a group of 4 images can't be drawn from 3 images"):
        draw_groups(rows_of(range(3)), 4, 1, 0, (1.0, 1.0))


def test_groups_of_one_image_take_every_image_in_turn() -> None:
    rows = rows_of(range(30))
    groups = draw_groups(rows, 1, 60, 0, (3.0, 1.0))
    assert set(turns(rows, groups)) == {2}
    assert set(turns(rows, groups[:30])) == {1}


def test_values_need_not_be_whole_nor_positive() -> None:
    values = [-0.5 + i / 100 for i in range(100)]
    assert all(narrowest(g) >= 0.1 - 1e-9 for g in drawn(values, 4, 50, (0.1, 0.1)))


def test_draws_are_numbers_of_places_and_leave_the_values_alone() -> None:
    values = [3.0, 1.0, 2.0]
    draws = gap_draws(values, 3, 4, (1.0, 1.0), random.Random(0))
    assert [sorted(draw) for draw in draws] == [[0, 1, 2]] * 4
    assert all(type(place) is int for draw in draws for place in draw)
    assert values == [3.0, 1.0, 2.0]


def test_a_hundred_thousand_groups_without_a_file_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    rows = rows_of([generator.randrange(117) for _ in range(200_000)])

    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail("a file was opened")

    monkeypatch.setattr("builtins.open", refuse)
    start = time.process_time()
    groups = draw_groups(rows, 8, 100_000, 0, (8.0, 1.0))
    assert time.process_time() - start < 60  # about 4
    assert len(groups) == 100_000
    assert all(narrowest(group) >= 1 for group in groups)
    assert set(Counter(turns(rows, groups))) == {4}


@pytest.mark.parametrize("count", [2, 4, 8])
def test_images_of_a_common_value_wait_where_groups_would_have_it_twice(count):
    """Ninety zeros, and one to ten: no group has two zeros, and every zero has its turn."""
    values = [0.0] * 90 + [float(value) for value in range(1, 11)]
    draws = gap_draws(values, count, 400, (1, 1), random.Random(0))
    assert all(len({values[index] for index in draw}) == count for draw in draws)
    turns = Counter(index for draw in draws for index in draw if index < 90)
    assert len(turns) == 90
    assert max(turns.values()) - min(turns.values()) <= 1
