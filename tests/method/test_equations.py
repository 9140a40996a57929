"""Eqs. 2-9 against values worked by hand, and one property over all of them: nothing returned is ever NaN,
infinite or out of its range."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarl.method.equations import (
    advantages,
    final_reward,
    is_rankable,
    kendall_tau,
    length_compliance,
    mean_regression,
    mutated_advantages,
    ranking,
    ranking_accuracy,
    ranking_consistency,
    regression,
)

NAN, INF = math.nan, math.inf


# ── Eq. 2 ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 2, 3], [-0.99990, 0, 0.99990]),  # mean 2, std sqrt(2/2) = 1: -1/1.0001, 0, 1/1.0001
        ([0, 0, 0, 4], [-0.499975, -0.499975, -0.499975, 1.499925]),  # mean 1, std sqrt(12/3) = 2
        ([0, 1], [-0.70701, 0.70701]),  # mean 1/2, std sqrt(1/2) = 0.70711: 0.5/0.70721
        ([3, 1], [0.70706, -0.70706]),  # mean 2, std sqrt(2) = 1.41421: 1/1.41431
        ([5, 5, 5, 5], [0, 0, 0, 0]),  # no variance: exactly 0
        ([0.1, 0.1, 0.1], [0, 0, 0]),  # 0.1 has no exact mean in binary, and yet exactly 0
        ([7], [0]),
        ([], []),
    ],
)
def test_eq_2(rewards: list[float], expected: list[float]) -> None:
    assert advantages(rewards) == pytest.approx(expected, abs=1e-5)


def test_eq_2_of_equal_rewards_is_exactly_zero() -> None:
    assert advantages([0.1] * 7) == [0.0] * 7


@pytest.mark.parametrize("absent", [NAN, INF, -INF])
def test_eq_2_ignores_a_reward_that_is_not_finite(absent: float) -> None:
    # The rest is [1, 3]: mean 2, std sqrt(2) = 1.41421, 1/1.41431 = 0.70706.
    assert advantages([1, absent, 3]) == pytest.approx([-0.70706, 0, 0.70706], abs=1e-5)


def test_eq_2_is_bessel_corrected() -> None:
    # Over G rather than G - 1 the std of [0, 1] would be 0.5 and the advantages -0.9998 and 0.9998.
    assert advantages([0, 1])[1] == pytest.approx(0.70701, abs=1e-5)


# ── Eq. 3 ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("predicted", "truth", "delta", "expected"),
    [
        (5, 5, 2, 1),
        (6, 5, 2, 0.5625),  # (1 - 1/4)^2
        (4, 5, 2, 0.5625),
        (7, 5, 2, 0.25),  # (1 - 2/4)^2: the tolerance itself is within
        (3, 5, 2, 0.25),
        (7.0001, 5, 2, 0),
        (2.9999, 5, 2, 0),
        (34, 30, 10, 0.64),  # (1 - 4/20)^2
        (25, 30, 10, 0.5625),  # (1 - 5/20)^2
        (40, 30, 10, 0.25),
        (41, 30, 10, 0),
        (-3, -4, 2, 0.5625),
        (5.5, 5.0, 1.0, 0.5625),  # (1 - 0.5/2)^2
        (0.8, 0.7, 0.1, 0.25),  # 0.8 - 0.7 is 0.1000...03 in binary, and is within all the same
        (0.81, 0.7, 0.1, 0),
        (None, 5, 2, 0),
    ],
)
def test_eq_3(predicted: float | None, truth: float, delta: float, expected: float) -> None:
    assert regression(predicted, truth, delta) == pytest.approx(expected)


@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_eq_3_of_a_number_that_is_not_finite_is_zero(number: float) -> None:
    assert regression(number, 5, 2) == 0
    assert regression(5, number, 2) == 0
    assert regression(5, 5, number) == 0
    assert regression(number, number, 2) == 0


@pytest.mark.parametrize("delta", [0.0, -0.0, -2.0])
def test_eq_3_without_tolerance_is_zero(delta: float) -> None:
    assert regression(5, 5, delta) == 0


@pytest.mark.parametrize(
    ("predicted", "truth", "delta", "expected"),
    [
        (1e308, -1e308, 10, 0),
        (1e308, 1e308, 10, 1),
        (1e308, 0, 1e308, 0.25),  # 2 delta would overflow
        (5e307, 0, 1e308, 0.5625),
        (5e-324, 0, 5e-324, 0.25),
        (1, 0, 5e-324, 0),
    ],
)
def test_eq_3_of_huge_and_tiny_numbers(predicted: float, truth: float, delta: float, expected: float) -> None:
    assert regression(predicted, truth, delta) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predicted", "truths", "expected"),
    [
        ([3, 7], [3, 7], 1),
        ([3, None], [3, 7], 0.5),  # (1 + 0) / 2: the mean is over the true images, not the listed ones
        ([None, None], [3, 7], 0),
        ([4, 9, 0, None], [3, 7, 3, 8], 0.203125),  # (0.5625 + 0.25 + 0 + 0) / 4
        ([], [], 0),
    ],
)
def test_r_reg_is_the_mean_over_all_images(
    predicted: list[float | None], truths: list[float], expected: float
) -> None:
    assert mean_regression(predicted, truths, delta=2) == pytest.approx(expected)


# ── Eq. 4 ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("listed", "count", "expected"),
    [
        (4, 4, 1),
        (3, 4, 0.75),
        (1, 4, 0.25),
        (1, 8, 0.125),
        (0, 4, 0),
        (5, 4, 0),
        (9, 8, 0),
        (-1, 4, 0),
        (0, 0, 0),
    ],
)
def test_eq_4(listed: int, count: int, expected: float) -> None:
    assert length_compliance(listed, count) == pytest.approx(expected)


# ── Eqs. 5 and 6 ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([1], 1),
        ([-1], -1),
        ([1, 1, -1], 1 / 3),
        ([1, -1], 0),
        ([1, 0], 0.5),
        ([-1, 0, 0, 0], -0.25),
        ([0], 0),
        ([], 0),
    ],
)
def test_kendall_tau(pairs: list[int], expected: float) -> None:
    assert kendall_tau(pairs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("positions", "values", "truths", "expected"),
    [
        ([0], [5], [5], 0.5),  # no pair: tau 0
        ([0, 1], [3, 7], [1, 2], 1),
        ([1, 0], [3, 7], [1, 2], 0),  # listed against its own values, whatever the truth
        ([1, 0], [7, 3], [1, 2], 1),  # consistent, though wrong
        ([0, 1, 2], [4, 5, 6], [1, 2, 3], 1),
        ([0, 1, 2], [5, 4, 6], [1, 2, 3], 2 / 3),  # +2 -1 of 3: tau 1/3
        ([0, 1, 2], [6, 4, 5], [1, 2, 3], 1 / 3),  # +1 -2 of 3: tau -1/3
        ([2, 1, 0], [4, 5, 6], [1, 2, 3], 0),
        # ties in the reply's values
        ([0, 1, 2], [5, 5, 9], [1, 2, 3], 5 / 6),  # the tied pair counts 0: tau 2/3
        ([0, 1, 2], [5, 5, 5], [1, 2, 3], 0.5),  # all 0: tau 0
        ([0, 1, 2], [5, 5, 9], [1, 1, 3], 1),  # tied in truth too: left out, +2 of 2
        ([1, 0, 2], [5, 5, 9], [1, 1, 3], 1),
        ([0, 1, 2], [5, 4, 9], [1, 1, 3], 2 / 3),  # tied in truth alone: compared, +2 -1 of 3
        # missing images
        ([0, None], [5, None], [1, 2], 0.5),  # its one pair counts 0
        ([0, 1, None], [5, 6, None], [1, 2, 3], 2 / 3),  # +1 of 3
        ([1, 0, None], [5, 6, None], [1, 2, 3], 1 / 3),  # -1 of 3
        ([None, 0, 1], [None, 5, 6], [1, 1, 2], 2 / 3),  # a truth tie doesn't excuse a missing image: +1 of 3
        (None, [None, None], [1, 2], 0),  # no ranking
    ],
)
def test_eq_5(
    positions: list[int | None] | None, values: list[float | None], truths: list[float], expected: float
) -> None:
    assert ranking_consistency(positions, values, truths) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("positions", "truths", "expected"),
    [
        ([0, 1], [3, 7], 1),
        ([1, 0], [3, 7], 0),
        ([0, 1, 2], [3, 7, 5], 2 / 3),  # one of three pairs is discordant: tau 1/3
        ([2, 1, 0], [3, 5, 7], 0),
        ([0, 3, 1, 2], [1, 2, 3, 4], 2 / 3),  # pictures 2-3 and 2-4 discordant: (4 - 2)/6 = 1/3
        # The list [2, 3, 1] where the truth is [1, 3, 2], its exact reverse: tau -1. On the id lists as they
        # stand, slot by slot, two of three pairs agree in direction: +1/3.
        ([2, 0, 1], [1, 3, 2], 0),
        # ties in truth are left out
        ([0, 1, 2], [3, 3, 7], 1),
        ([1, 0, 2], [3, 3, 7], 1),
        ([2, 0, 1], [3, 3, 7], 0.5),  # +1 -1 of 2
        # missing images count 0
        ([0, None], [3, 7], 0.5),
        ([0, 1, None], [3, 5, 7], 2 / 3),  # +1 of 3
        ([1, 0, None], [3, 5, 7], 1 / 3),  # -1 of 3
        ([None, 0, 1], [3, 3, 7], 0.75),  # the tied pair is left out all the same: +1 of 2
        (None, [3, 7], 0),
    ],
)
def test_eq_6(positions: list[int | None] | None, truths: list[float], expected: float) -> None:
    assert ranking_accuracy(positions, truths) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truths", "expected"),
    [([], False), ([3], False), ([3, 3], False), ([3, 3.0, 3], False), ([3, 4], True), ([3, 3, 4], True)],
)
def test_is_rankable(truths: list[float], expected: bool) -> None:
    assert is_rankable(truths) is expected


# ── Eqs. 7, 8 and 9 ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("terms", "expected"),
    [((1, 1, 1), 3), ((0, 0, 0), 0), ((0.125, 0.5, 0.5), 1.125), ((1, 2 / 3, 1 / 3), 2)],
)
def test_eq_7(terms: tuple[float, float, float], expected: float) -> None:
    assert ranking(*terms) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rewards", "weights", "expected"),
    [
        ((1, 3, 1), (1, 1, 1), 5),
        ((0.5, 3, 1), (1, 0, 1), 1.5),  # stage 1 of the paper
        ((0.5, 2, 1), (2, 0.5, 0.1), 2.1),  # 1 + 1 + 0.1
        ((0.5, None, 1), (1, 1, 1), 1.5),  # R_rank is not defined: left out
        ((0, 0, 0), (1, 1, 1), 0),
    ],
)
def test_eq_8(
    rewards: tuple[float, float | None, float], weights: tuple[float, float, float], expected: float
) -> None:
    assert final_reward(*rewards, weights=weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rewards", "mutated", "expected"),
    [
        # Stagnant: all 0. After replacement [0, 4, 0, 0]: mean 1, std 2, -1/2.0001 and 3/2.0001.
        ([0, 0, 0, 0], {1: 4}, [-0.499975, 1.499925, -0.499975, -0.499975]),
        # After replacement [3, 1, 3, 3]: mean 5/2, std sqrt((3/4 + 9/4)/3) = 1, 0.5/1.0001 and -1.5/1.0001.
        ([1, 1, 3, 3], {0: 3}, [0.49995, -1.49985, 0.49995, 0.49995]),
        # Two of four. After replacement [5, 5, 1, 1]: mean 3, std sqrt(16/3) = 2.30940, 2/2.30950 = 0.86599.
        ([1, 1, 1, 1], {0: 5, 1: 5}, [0.86599, 0.86599, -0.86599, -0.86599]),
        ([1, 2, 3], {}, [-0.99990, 0, 0.99990]),  # no mutation: Eq. 2
    ],
)
def test_eq_9(rewards: list[float], mutated: dict[int, float], expected: list[float]) -> None:
    assert mutated_advantages(rewards, mutated) == pytest.approx(expected, abs=1e-5)


def test_eq_9_refuses_a_place_outside_the_group() -> None:
    with pytest.raises(IndexError):
        mutated_advantages([0, 0], {2: 1.0})


# ── everywhere ───────────────────────────────────────────────────────────────────────────────────────────

floats = st.floats()  # NaN, both infinities, the largest and the smallest included
wide = floats | st.integers(-3, 3).map(float) | st.sampled_from([1.7e308, -1.7e308, 5e-324])


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[int | None] | None, list[float | None], list[float]]:
    """Positions, values and truths of one list, complete or partial, with all sorts of numbers."""
    count = draw(st.integers(0, 6))
    present = [draw(st.booleans()) for _ in range(count)]
    places = iter(draw(st.permutations(range(sum(present)))))
    positions = [next(places) if there else None for there in present]
    values = [draw(wide) if there else None for there in present]
    truths = [draw(wide) for _ in range(count)]
    return draw(st.sampled_from([positions, positions, positions, None])), values, truths


@given(predicted=wide | st.none(), truth=wide, delta=wide)
def test_eq_3_is_always_within_0_and_1(predicted: float | None, truth: float, delta: float) -> None:
    assert 0 <= regression(predicted, truth, delta) <= 1


@given(lists(), wide)
def test_rewards_of_a_list_are_always_in_range(
    drawn: tuple[list[int | None] | None, list[float | None], list[float]], delta: float
) -> None:
    positions, values, truths = drawn
    listed = sum(place is not None for place in positions or [])
    terms = (
        length_compliance(listed, len(truths)),
        ranking_consistency(positions, values, truths),
        ranking_accuracy(positions, truths),
    )
    assert all(0 <= term <= 1 for term in terms)
    assert 0 <= ranking(*terms) <= 3
    assert 0 <= mean_regression(values, truths, delta) <= 1


@given(st.lists(wide, max_size=8), st.data())
def test_advantages_are_always_finite(rewards: list[float], data: st.DataObject) -> None:
    places = st.integers(0, max(len(rewards) - 1, 0))
    mutated = data.draw(st.dictionaries(places, wide, max_size=3)) if rewards else {}
    for group in (advantages(rewards), mutated_advantages(rewards, mutated)):
        assert len(group) == len(rewards)
        assert all(math.isfinite(advantage) for advantage in group)


@given(wide, wide | st.none(), wide, st.tuples(wide, wide, wide))
def test_eq_8_is_always_finite(
    first: float, second: float | None, third: float, weights: tuple[float, float, float]
) -> None:
    assert math.isfinite(final_reward(first, second, third, weights=weights))


@given(st.lists(st.integers(0, 5).map(float), min_size=2, max_size=8))
def test_advantages_sum_to_zero(rewards: list[float]) -> None:
    assert sum(advantages(rewards)) == pytest.approx(0, abs=1e-9)


# ── numpy ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "float32", "float64"])
def test_numpy_numbers_are_taken_as_python_s(kind: str) -> None:
    """As arrays, and one by one; the result is a number of Python's."""
    rewards, truths, values, places = [3, 120, 0, 5], [30, 70, 90], [90, 70, 30], [0, 2, 1]
    for of in (lambda numbers: np.array(numbers, kind), lambda numbers: list(np.array(numbers, kind))):
        pairs = [
            (advantages(of(rewards)), advantages(rewards)),
            (mutated_advantages(of(rewards), {np.int64(0): of([9])[0]}), mutated_advantages(rewards, {0: 9})),
            (regression(*of([3, 5]), of([2])[0]), regression(3, 5, 2)),
            (mean_regression(of(values), of(truths), of([100])[0]), mean_regression(values, truths, 100)),
            (length_compliance(*of([3, 7])), length_compliance(3, 7)),
            (kendall_tau(of([1] * 100)), 1.0),
            (
                ranking_consistency(of(places), of(values), of(truths)),
                ranking_consistency(places, values, truths),
            ),
            (ranking_accuracy(of(places), of(truths)), ranking_accuracy(places, truths)),
            (ranking(*of([1, 1, 1])), 3),
            (final_reward(*of([1, 3, 1]), of([100, 100, 100])), 500),
        ]
        for found, expected in pairs:
            assert found == expected
            assert all(
                type(number) in (float, int) for number in (found if isinstance(found, list) else [found])
            )
        assert is_rankable(of(truths)) is True
        assert is_rankable(of([3, 3])) is False
