"""MAE, accuracy, the correlations and the taus against values worked by hand. How a missing value or an
invalid list is scored is decided in test_semantics.py."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from rarl.evaluation.metrics import (
    METRICS,
    SINGLE_IMAGE_METRICS,
    accuracy,
    filled,
    list_lengths,
    list_tau,
    mae,
    metric_of,
    plcc,
    srcc,
    tau_values,
    within_one,
)
from rarl.method.tasks import AESTHETICS, AGE, COUNT, DIGITS, HEADLINE_METRICS, Task

HALVES = Task("halves", "length", low=0.5, high=9.5, step=1, delta=2)


@pytest.mark.parametrize(
    ("predicted", "truths", "expected"),
    [
        ([3, 5], [4, 9], 2.5),  # (1 + 4) / 2
        ([4, 9], [4, 9], 0),
        ([0.1, 0.7, 3.3], [0.1, 0.7, 3.3], 0),
        ([1, 2, 3], [2, 2, 1], 1),  # (1 + 0 + 2) / 3
        ([-3], [3], 6),
        ([1e308, 1e308, 1e308], [0, 0, 0], 1e308),  # their sum would overflow
    ],
)
def test_mae(predicted: list[float], truths: list[float], expected: float) -> None:
    assert mae(predicted, truths) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predicted", "truths", "task", "expected"),
    [
        ([3, 4, 5, 6], [3, 4, 5, 7], COUNT, 0.75),
        ([3.4, 3.5, 3.6], [3, 4, 4], COUNT, 1),  # halves go up
        ([2.5, 3.4999], [3, 3], COUNT, 1),
        ([2.4999], [3], COUNT, 0),
        ([5.432, 5.438], [5.43, 5.43], AESTHETICS, 0.5),  # the second rounds to 5.44
        ([1 + 443 * 0.01], [5.43], AESTHETICS, 1),
        ([250], [200], COUNT, 0),  # not moved into the range first
        ([-0.4], [0], DIGITS, 1),
        ([1.4], [1.5], HALVES, 1),  # the grid starts at the low end: 0.5, 1.5, 2.5
        ([1.4], [0.5], HALVES, 0),
        ([1e308, -1e308], [3, 3], AESTHETICS, 0),
    ],
)
def test_accuracy(predicted: list[float], truths: list[float], task: Task, expected: float) -> None:
    assert accuracy(predicted, truths, task) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predicted", "truths", "task", "expected"),
    [
        ([3, 4, 5, 9], [3, 5, 3, 7], COUNT, 0.5),  # 0, 1, 2 and 2 steps
        ([2, 4], [3, 3], COUNT, 1),
        ([4.4999, 4.5], [3, 3], COUNT, 0.5),  # 4 and 5: halves go up
        ([1.5, 1.4999], [3, 3], COUNT, 0.5),  # 2 and 1
        ([5.44, 5.45, 5.42], [5.43, 5.43, 5.43], AESTHETICS, 2 / 3),  # a step is 0.01
        ([1 + 444 * 0.01], [5.43], AESTHETICS, 1),
        ([250], [200], COUNT, 0),  # not moved into the range first
        ([2.4], [0.5], HALVES, 0),  # 2.5 and 0.5, on the grid 0.5, 1.5, 2.5
        ([1.9], [0.5], HALVES, 1),  # 1.5 and 0.5
        ([1e308, -1e308], [3, 3], AESTHETICS, 0),
        ([3], [3], COUNT, 1),
    ],
)
def test_within_one(predicted: list[float], truths: list[float], task: Task, expected: float) -> None:
    assert within_one(predicted, truths, task) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predicted", "truths", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1),
        ([1, 2, 3, 4], [1, 8, 27, 1000], 1),  # any rising relation
        ([4, 3, 2, 1], [10, 20, 30, 40], -1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 0.8),  # 1 - 6 (1 + 1) / (4 * 15)
        ([1, 1, 2], [1, 2, 3], 0.866025),  # ranks 1.5 1.5 3 and 1 2 3: 1.5 / sqrt(1.5 * 2)
        ([5, 5, 5], [1, 2, 3], 0),
        ([1, 2, 3], [5, 5, 5], 0),
        ([3], [3], 0),
        ([-1e308, 0, 1e308], [1, 2, 3], 1),
        ([0, 0, 1, 1, 0], [0, 1, 0, 1, 0], 1 / 6),  # ranks 2 2 4.5 4.5 2, and so the truths': 1.25 / 7.5
        ([0.5, 0.5, 1.5, 1.5, 0.5], [-3, 7, -3, 7, -3], 1 / 6),  # the same order, not in small whole numbers
        ([0, 0, 4, 3], [0, 0, 1e6, 3], 1),
    ],
)
def test_srcc(predicted: list[float], truths: list[float], expected: float) -> None:
    assert srcc(predicted, truths) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("predicted", "truths", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([3, 2, 1], [10, 20, 30], -1),
        ([1, 2, 3], [1, 2, 6], 0.944911),  # (-1 0 1) . (-2 -1 3) = 5, over sqrt(2 * 14)
        ([0, 0, 1, 1], [0, 1, 0, 1], 0),
        ([5, 5, 5], [1, 2, 3], 0),
        ([0.1, 0.1, 0.1], [1, 2, 3], 0),
        ([3], [3], 0),
        ([-1e308, 0, 1e308], [1, 2, 3], 1),  # squares would overflow
        ([-1e-200, 0, 1e-200], [1, 2, 3], 1),  # squares would vanish
    ],
)
def test_plcc(predicted: list[float], truths: list[float], expected: float) -> None:
    assert plcc(predicted, truths) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "metric", [mae, srcc, plcc, lambda a, b: accuracy(a, b, AGE), lambda a, b: within_one(a, b, AGE)]
)
@pytest.mark.parametrize(
    ("predicted", "truths"),
    [([], []), ([1, 2], [1]), ([1], [1, 2]), ([[1, 2]], [[1, 2]]), ([math.inf], [1]), ([1], [math.inf])],
)
def test_metrics_refuse_what_they_cannot_measure(metric: Any, predicted: Any, truths: Any) -> None:
    with pytest.raises(ValueError, match="a metric needs"):
        metric(predicted, truths)


@pytest.mark.parametrize("metric", [mae, srcc, plcc])
def test_a_missing_prediction_must_be_filled_where_it_is_no_miss(metric: Any) -> None:
    with pytest.raises(ValueError, match="what stands in for a missing value is for `filled`"):
        metric([math.nan], [1])


def test_a_missing_prediction_is_a_miss_and_a_missing_truth_is_refused() -> None:
    # Of three, one is exact, one is a step away, and one is missing, whose truth is the midpoint of 0 to 116.
    assert accuracy([3, 5, math.nan], [3, 4, 58], AGE) == pytest.approx(1 / 3)
    assert within_one([3, 5, math.nan], [3, 4, 58], AGE) == pytest.approx(2 / 3)
    for metric in (accuracy, within_one):
        with pytest.raises(ValueError, match="a metric needs"):
            metric([math.nan], [math.nan], AGE)


def test_filled() -> None:
    assert filled([3, None, 0], AGE) == [3, 58, 0]
    assert filled([None], AESTHETICS) == [5.5]


@pytest.mark.parametrize(
    ("positions", "truths", "expected"),
    [
        ([0, 1], [3, 7], 1),
        ([1, 0], [3, 7], -1),
        ([0, 1, 2], [3, 7, 5], 1 / 3),
        ([0, 2, 1], [3, 3, 7], 0),  # the tied pair is left out: +1 -1 of 2
        ([1, 0, 2], [3, 3, 7], 1),
        ([2, 0, 1], [1, 3, 2], -1),  # the list [2, 3, 1] where the truth is [1, 3, 2]
        ([7, 6, 5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 5, 6, 7, 8], -1),
        ([0, 1], [3, 3], 0),  # nothing to order
        ([0], [3], 0),
        (None, [3, 7], 0),
        ([0, None], [3, 7], 0),  # a partial list is no permutation, whatever it gets right
        ([0, 1, None], [3, 5, 7], 0),
    ],
)
def test_list_tau(positions: list[int | None] | None, truths: list[float], expected: float) -> None:
    assert list_tau(positions, truths) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("positions", "values", "truths", "expected"),
    [
        ([1, 0], [3, 7], [3, 7], 1),  # the listed order plays no part
        ([0, 1], [7, 3], [3, 7], -1),
        ([0, 1, 2], [4, 4, 9], [3, 5, 7], 2 / 3),  # a pair tied in the values counts 0
        ([0, 1, 2], [4, 4, 4], [3, 5, 7], 0),
        ([0, 1, 2], [4, 4, 9], [3, 3, 7], 1),  # a pair tied in truth is left out
        ([0, 1, 2], [6, 4, 9], [3, 3, 7], 1),
        (None, [3, 7], [3, 7], 0),  # both values are there, but the list names a third picture, say
        ([0, None], [3, None], [3, 7], 0),
    ],
)
def test_tau_values(
    positions: list[int | None] | None, values: list[float | None], truths: list[float], expected: float
) -> None:
    assert tau_values(positions, values, truths) == pytest.approx(expected)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8))
def test_correlations_are_always_within_range(pairs: list[tuple[float, float]]) -> None:
    predicted, truths = zip(*pairs, strict=True)
    assert -1 <= srcc(predicted, truths) <= 1
    assert -1 <= plcc(predicted, truths) <= 1


small = st.integers(0, 9)


@given(st.lists(st.tuples(small, small), min_size=1, max_size=12))
def test_srcc_sees_the_order_alone(pairs: list[tuple[int, int]]) -> None:
    """Small whole numbers are ranked in a way of their own: the same as any others in their order."""
    predicted, truths = zip(*pairs, strict=True)
    others = [number / 3 - 1 for number in truths]
    assert srcc(predicted, truths) == pytest.approx(srcc([number**3 - 0.5 for number in predicted], others))


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_headline_metric_is_one_of_single_images() -> None:
    assert {METRICS[name].of for name in HEADLINE_METRICS} == {"images"}
    assert set(HEADLINE_METRICS) <= {row.name for row in SINGLE_IMAGE_METRICS}


@pytest.mark.parametrize(
    ("key", "name", "count"),
    [
        ("mae", "mae", None),
        ("within_one", "within_one", None),
        ("valid", "valid", None),
        ("tau2", "tauN", 2),
        ("tau16", "tauN", 16),
        ("tau8_values", "tauN_values", 8),
        ("agreement4", "agreementN", 4),
        ("position_bias4", "position_biasN", 4),
    ],
)
def test_a_key_of_the_file_is_read_into_its_row(key: str, name: str, count: int | None) -> None:
    assert metric_of(key) == (METRICS[name], count)


@pytest.mark.parametrize("key", ["score", "mae2", "tau", "tau4_by_hand"])
def test_a_key_that_no_row_has_stands_for_itself(key: str) -> None:
    row, count = metric_of(key)
    assert (row.name, row.label, row.arrow, count) == (key, key, "", None)


def test_the_lengths_of_the_lists_that_were_ranked() -> None:
    keys = ["tau8", "tau2_values", "mae", "tau2", "tau16_values", "agreement4", "tau2"]
    assert list_lengths(keys) == [2, 8]
    assert list_lengths(keys, "agreementN") == [4]
    assert list_lengths(["mae"]) == []


@pytest.mark.parametrize("row", SINGLE_IMAGE_METRICS, ids=lambda row: row.name)
def test_a_row_s_function_takes_predictions_truths_and_the_task(row: Any) -> None:
    assert row.score([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], DIGITS) == pytest.approx(float(row.better == "higher"))


@pytest.mark.parametrize("name", METRICS)
def test_the_document_says_what_a_metric_is(name: str) -> None:
    assert f"\n| `{name}` | " in (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
