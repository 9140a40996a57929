"""The intervals of the metrics against what is known of the bootstrap and of Student's t."""

import numpy as np
import pytest

from rarl.evaluation.intervals import bootstrap_interval, bootstrap_resamples, expanded_interval
from rarl.evaluation.metrics import plcc, srcc


def test_an_interval_of_constants_is_a_point() -> None:
    assert bootstrap_interval([2.5] * 20, seed=0) == (2.5, 2.5)
    assert bootstrap_interval([2.5], seed=0) == (2.5, 2.5)


def test_an_interval_depends_on_its_seed_alone() -> None:
    values = list(range(30))
    first = bootstrap_interval(values, seed=1)
    np.random.seed(0)  # the global generator plays no part
    assert bootstrap_interval(values, seed=1) == first
    assert bootstrap_interval(values, seed=2) != first


def test_the_interval_of_a_share_is_that_of_the_normal_approximation() -> None:
    # 50 hits of 100: standard error sqrt(0.25 / 100) = 0.05; 0.5 +- 1.96 * 0.05, and 1.645 * 0.05 at 90 %.
    hits = [0.0, 1.0] * 50
    assert bootstrap_interval(hits, seed=0, resamples=4000) == pytest.approx((0.402, 0.598), abs=0.012)
    narrower = bootstrap_interval(hits, seed=0, resamples=4000, level=0.9)
    assert narrower == pytest.approx((0.418, 0.582), abs=0.012)


def test_more_rows_narrow_the_interval() -> None:
    low, high = bootstrap_interval([0.0, 1.0] * 25, seed=0)
    narrow_low, narrow_high = bootstrap_interval([0.0, 1.0] * 400, seed=0)
    # 16 times the rows, a quarter of the width.
    assert (narrow_high - narrow_low) == pytest.approx((high - low) / 4, rel=0.2)


def test_a_statistic_of_pairs_draws_prediction_and_truth_together() -> None:
    pairs = [(3.0 * n, float(n)) for n in range(40)]
    # Drawn apart, the correlation would be about 0; drawn together it stays perfect.
    assert bootstrap_interval(pairs, srcc, seed=0) == pytest.approx((1, 1))
    assert bootstrap_interval(pairs, plcc, seed=0) == pytest.approx((1, 1))


def test_an_interval_lies_around_the_statistic() -> None:
    generator = np.random.default_rng(3)
    truths = generator.normal(size=60)
    predicted = truths + generator.normal(size=60)
    low, high = bootstrap_interval(np.stack([predicted, truths], axis=1), srcc, seed=0)
    assert -1 <= low < srcc(predicted, truths) < high <= 1


def test_95_of_100_intervals_hold_the_true_mean() -> None:
    generator = np.random.default_rng(5)
    samples = generator.normal(loc=2.0, size=(200, 40))
    intervals = [bootstrap_interval(sample, seed=n, resamples=300) for n, sample in enumerate(samples)]
    held = sum(low <= 2.0 <= high for low, high in intervals)
    assert 178 <= held <= 199  # 190 expected


def test_few_rows_have_their_interval_further_out() -> None:
    """950 of 1,000 intervals over twelve rows should hold the mean, give or take three deviations of 7. Plain
    percentiles are narrower, and hold it in about 905."""
    samples = np.random.default_rng(7).normal(size=(1000, 12))
    resampled = [bootstrap_resamples(sample, seed=n) for n, sample in enumerate(samples)]
    intervals = np.array([expanded_interval(numbers, 12) for numbers in resampled])
    plain = np.array([np.quantile(numbers, [0.025, 0.975]) for numbers in resampled])
    held, held_before = (int(np.sum((of[:, 0] <= 0) & (of[:, 1] >= 0))) for of in (intervals, plain))
    assert 929 <= held <= 971
    assert held_before < 920


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        # Phi(-sqrt(n / (n - 1)) t), with t from its table at 0.975: 12.7062 and 2.77645 for 1 and 4 degrees
        # of freedom. For 2 rows that is Phi(-17.97): the ends of the resamples. With many rows, 1.96.
        (1, 0.025),
        (2, 0.0),
        (5, 0.000954),
        (12, 0.010755),
        (100_000, 0.025),
    ],
)
def test_the_quantiles_of_the_expanded_interval(rows: int, share: float) -> None:
    even = np.linspace(0, 1, 100_001)
    assert expanded_interval(even, rows) == pytest.approx((share, 1 - share), abs=2e-6)


def test_the_expanded_interval_at_another_level() -> None:
    # t at 0.95 for 4 degrees of freedom is 2.13185; Phi(-sqrt(5 / 4) 2.13185) = Phi(-2.38348).
    assert expanded_interval(np.linspace(0, 1, 100_001), 5, 0.9)[0] == pytest.approx(0.008575, abs=2e-6)


def test_means_are_resampled_as_any_other_statistic() -> None:
    for rows in (1, 12, 777, 150_000):
        values = np.random.default_rng(rows).normal(size=rows)
        one_by_one = bootstrap_resamples(values, lambda numbers: np.mean(numbers), seed=4, resamples=20)
        assert np.array_equal(bootstrap_resamples(values, seed=4, resamples=20), one_by_one)


def test_an_interval_needs_a_row() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap_interval([], seed=0)
