"""What the paper's tables report (section 4.1): MAE, exact accuracy and SRCC for single images, Kendall's
tau for lists; off-by-one accuracy, PLCC and bootstrap intervals beside them. Numbers in, numbers out: which
lists are drawn and what stands in for a missing value is decided in `evaluation`, with `filled` from here.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from rarl.method.equations import kendall_tau, pairs_against_truth
from rarl.method.tasks import Task

Entry = dict[str, float]
"""A metric of `metrics.json`: `value`, its interval from `low` to `high`, and `n`, how many it is of."""


def filled(predicted: Sequence[float | None], task: Task) -> list[float]:
    """The predictions, with the midpoint of the task's range for each that is missing."""
    return [task.midpoint if value is None else value for value in predicted]


def mae(predicted: ArrayLike, truths: ArrayLike) -> float:
    """Mean absolute error, in units of the value.

    Raises:
        ValueError: if there is no prediction, not one for each truth, or one that is not finite. The other
            metrics of single images refuse the same.
    """
    guesses, targets = _pair(predicted, truths)
    # Divided before adding: a few absurd predictions can't overflow to infinity.
    return float(np.sum(np.abs(guesses / len(guesses) - targets / len(guesses))))


def accuracy(predicted: ArrayLike, truths: ArrayLike, task: Task) -> float:
    """The share of predictions that equal the truth once both are rounded to the task's step."""
    return float(np.mean(_steps_apart(predicted, truths, task) == 0))


def within_one(predicted: ArrayLike, truths: ArrayLike, task: Task) -> float:
    """Off-by-one accuracy: the share of predictions that are at most one step from the truth once both are
    rounded to the task's step."""
    return float(np.mean(_steps_apart(predicted, truths, task) <= 1))


def srcc(predicted: ArrayLike, truths: ArrayLike) -> float:
    """Spearman's rank correlation, within [-1, 1]; ties share their mean rank; 0 if either is constant."""
    guesses, targets = _pair(predicted, truths)
    return _correlation(_ranks(guesses), _ranks(targets))


def plcc(predicted: ArrayLike, truths: ArrayLike) -> float:
    """Pearson's linear correlation, within [-1, 1]; 0 if either is constant."""
    return _correlation(*_pair(predicted, truths))


def list_tau(positions: Sequence[int | None] | None, truths: Sequence[float]) -> float:
    """Kendall's tau of one list by listed order, within [-1, 1].

    Pairs tied in truth are left out. A list that is not each picture exactly once counts 0, and so does one
    whose truths are all tied.

    Args:
        positions: `Reply.positions(N)`: the place of each picture in the list; `None` if it is no ranking.
        truths: the true value of picture 1..N.
    """
    if positions is None or None in positions:
        return 0.0
    return kendall_tau(pairs_against_truth(positions, truths))


def tau_values(
    positions: Sequence[int | None] | None, values: Sequence[float | None], truths: Sequence[float]
) -> float:
    """Kendall's tau of one list by the order of the reply's values, within [-1, 1].

    As `list_tau`, but for the ranks; a pair that is tied in the values and differs in truth counts 0.
    """
    if positions is None or None in positions:
        return 0.0
    return kendall_tau(pairs_against_truth(values, truths))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., float] = np.mean,
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic over rows drawn with replacement.

    Args:
        values: one number per row (an error, a hit, the tau of a list), or for a statistic of pairs one
            `(predicted, truth)` per row.
        statistic: takes the numbers, or the columns as `statistic(predicted, truths)`, as `srcc` does.
        seed: of the generator that draws; the same seed gives the same interval.
        resamples: how often the rows are drawn.
        level: the share of resamples that lie within, between 0 and 1.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: if there is no row.
    """
    rows = np.asarray(values, dtype=np.float64)
    if len(rows) == 0:
        raise ValueError("an interval needs at least one row")
    generator = np.random.default_rng(seed)
    columns = rows.reshape(len(rows), -1).T
    drawn = (columns[:, generator.integers(len(rows), size=len(rows))] for _ in range(resamples))
    results = [statistic(*sample) for sample in drawn]
    low, high = np.quantile(results, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pair(predicted: ArrayLike, truths: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    guesses, targets = np.asarray(predicted, dtype=np.float64), np.asarray(truths, dtype=np.float64)
    if guesses.ndim != 1 or len(guesses) == 0 or guesses.shape != targets.shape:
        raise ValueError(f"a metric needs one prediction per truth, not {guesses.shape} for {targets.shape}")
    if not (np.isfinite(guesses).all() and np.isfinite(targets).all()):
        raise ValueError("a metric needs finite numbers; what stands in for a missing value is for `filled`")
    return guesses, targets


def _steps_apart(predicted: ArrayLike, truths: ArrayLike, task: Task) -> np.ndarray:
    """How many steps of the task lie between predictions and truths; halves go up to the next."""
    with np.errstate(over="ignore", invalid="ignore"):  # absurd numbers may be infinitely many steps away
        guesses, targets = (
            np.floor((numbers - task.low) / task.step + 0.5) for numbers in _pair(predicted, truths)
        )
        return np.abs(guesses - targets)


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """The rank of each number, from 1; ties share their mean rank."""
    if not (numbers.min() >= 0 and numbers.max() < 2 * len(numbers) and np.all(numbers == np.floor(numbers))):
        return np.asarray(rankdata(numbers))
    # Counted and not sorted: several times as fast, which thousands of resamples of a large split need.
    whole = numbers.astype(np.int64)
    counts = np.bincount(whole)
    return (np.cumsum(counts) - (counts - 1) / 2)[whole]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if np.all(first == first[0]) or np.all(second == second[0]):
        return 0.0
    # Correlation ignores scale; at scale 1 no square can overflow, nor underflow to 0.
    first, second = (numbers / np.max(np.abs(numbers)) for numbers in (first, second))
    first, second = (numbers - np.mean(numbers) for numbers in (first, second))
    scale = np.sqrt(np.sum(first**2)) * np.sqrt(np.sum(second**2))
    return float(np.clip(np.sum(first * second) / scale, -1.0, 1.0)) if scale > 0 else 0.0
