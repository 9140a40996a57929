"""The 95 % intervals of the metrics: a bootstrap over images or lists, whose percentiles are further out the
fewer there are. What is resampled is decided by the callers."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

RESAMPLES = 1000


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., float] = np.mean,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """The expanded percentile interval of a statistic over rows drawn with replacement.

    Rows must not share images: they are resampled as independent.

    Args:
        values: one number per row (an error, a hit, the tau of a list), or for a statistic of pairs one
            `(predicted, truth)` per row.
        statistic: takes the numbers, or the columns as `statistic(predicted, truths)`, as `srcc` does.
        seed: of the generator that draws; the same seed gives the same interval.
        resamples: how often the rows are drawn.
        level: the share of such intervals that hold the true number, between 0 and 1.

    Returns:
        The lower and the upper end; for one row both are its own number.

    Raises:
        ValueError: if there is no row.
    """
    rows = np.asarray(values, dtype=np.float64)
    resampled = bootstrap_resamples(rows, statistic, seed=seed, resamples=resamples)
    return expanded_interval(resampled, len(rows), level)


def bootstrap_resamples(
    values: ArrayLike, statistic: Callable[..., float] = np.mean, *, seed: int, resamples: int = RESAMPLES
) -> np.ndarray:
    """The statistic of each resample, [resample]; arguments and errors as for `bootstrap_interval`."""
    rows = np.asarray(values, dtype=np.float64)
    if len(rows) == 0:
        raise ValueError("an interval needs at least one row")
    generator = np.random.default_rng(seed)
    columns = rows.reshape(len(rows), -1).T
    if statistic is np.mean and len(columns) == 1:  # several resamples at once, which is many times as fast
        at_once = max(1, 100_000 // len(rows))
        sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
        drawn = (generator.integers(len(rows), size=(size, len(rows))) for size in sizes)
        return np.concatenate([columns[0][places].mean(axis=1) for places in drawn])
    samples = (columns[:, generator.integers(len(rows), size=len(rows))] for _ in range(resamples))
    return np.array([statistic(*sample) for sample in samples])


def expanded_interval(resampled: np.ndarray, rows: int, level: float = 0.95) -> tuple[float, float]:
    """The interval that a bootstrap of `rows` rows gives: the percentiles of its resamples, further out the
    fewer rows there are.

    A plain percentile interval is narrower than Student's t, by quantiles of the normal distribution in place
    of those of t and by a deviation that divides by n in place of n - 1. Its quantiles are Phi(z); these are
    Phi(sqrt(n / (n - 1)) t), with t of n - 1 degrees of freedom (Hesterberg 2015, "What Teachers Should Know
    About the Bootstrap").
    """
    share = (1 - level) / 2
    if rows > 1:
        share = float(ndtr(math.sqrt(rows / (rows - 1)) * stdtrit(rows - 1, share)))
    low, high = np.quantile(resampled, [share, 1 - share])
    return float(low), float(high)
