"""The metrics of section 4.1, one row each, and the functions behind those of single images and of one list:
MAE, exact accuracy and SRCC for single images, Kendall's tau for lists, and beside them off-by-one accuracy,
PLCC and calibration. Their intervals are in intervals.py; which lists are drawn, and what a whole arm comes
to, is decided elsewhere."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from rarl.method.equations import kendall_tau, pairs_against_truth
from rarl.method.tasks import HEADLINE_METRICS, Task, steps_above

MetricEntry = dict[str, float]
"""A metric in `metrics.json`: its `value`, the interval from `low` to `high`, and `n`, how many replies or
lists it is of."""

SingleImageScore = Callable[[ArrayLike, ArrayLike, Task], float]
"""Takes the predicted values, the true values and the task. A missing prediction is the midpoint or NaN, as
the metric's row says."""


# ── of single images ─────────────────────────────────────────────────────────────────────────────────────


def filled(predicted: Sequence[float | None], task: Task) -> list[float]:
    """The predictions, with the midpoint of the task's range for each that is missing."""
    return [task.midpoint if value is None else value for value in predicted]


def mae(predicted: ArrayLike, truths: ArrayLike) -> float:
    """Mean absolute error, in units of the value.

    Raises:
        ValueError: if there is no prediction, not one for each truth, or one that is not finite. The other
            metrics of single images refuse the same.
    """
    guesses, targets = _checked_pair(predicted, truths)
    # Divided before adding: a few absurd predictions can't overflow to infinity.
    return float(np.sum(np.abs(guesses / len(guesses) - targets / len(guesses))))


def accuracy(predicted: ArrayLike, truths: ArrayLike, task: Task) -> float:
    """The share of predictions that equal the truth once both are rounded to the task's step. A prediction
    that is NaN is missing, and a miss."""
    return float(np.mean(_steps_apart(predicted, truths, task) == 0))


def within_one(predicted: ArrayLike, truths: ArrayLike, task: Task) -> float:
    """Off-by-one accuracy: the share of predictions that are at most one step from the truth once both are
    rounded to the task's step. A prediction that is NaN is missing, and a miss."""
    return float(np.mean(_steps_apart(predicted, truths, task) <= 1))


def srcc(predicted: ArrayLike, truths: ArrayLike) -> float:
    """Spearman's rank correlation, within [-1, 1]; ties share their mean rank; 0 if either is constant."""
    guesses, targets = _checked_pair(predicted, truths)
    return _correlation(_ranks(guesses), _ranks(targets))


def plcc(predicted: ArrayLike, truths: ArrayLike) -> float:
    """Pearson's linear correlation, within [-1, 1]; 0 if either is constant."""
    return _correlation(*_checked_pair(predicted, truths))


# ── of a list ────────────────────────────────────────────────────────────────────────────────────────────


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


# ── of distributions ─────────────────────────────────────────────────────────────────────────────────────


BINS = 10  # of equal width, from 0 to 1


def calibration_bins(claimed: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Claims and outcomes by the size of the claim, in `BINS` bins.

    Args:
        claimed: the probability that each answer was given, within [0, 1].
        right: 1 for an answer that is right, otherwise 0.

    Returns:
        For each bin the number of answers, and the sums of their claims and of their outcomes, [`BINS`] each.
    """
    claims, hits = _checked_pair(claimed, right)
    places = np.minimum((claims * BINS).astype(int), BINS - 1)
    counts, *sums = (np.bincount(places, weights=each, minlength=BINS) for each in (None, claims, hits))
    return counts, sums[0], sums[1]


def calibration_error(claimed: ArrayLike, right: ArrayLike) -> float:
    """Expected calibration error (Guo et al. 2017): how far the claimed probability is from the share that is
    right, as a mean over the bins of `calibration_bins`, weighted by their answers. Within [0, 1]."""
    counts, claims, hits = calibration_bins(claimed, right)
    return float(np.abs(claims - hits).sum() / counts.sum())


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Metric:
    """One metric: how it is named, read, written, and, for single images, computed.

    Attributes:
        name: its key in `metrics.json`; an N in it stands for the number of images of the lists, as in
            `tauN_values`.
        label: what tables and plots call it.
        of: what it is a mean over or a statistic of: single images, lists as they were drawn, lists in all
            their rotations, or replies to images and lists alike.
        better: whether lower or higher numbers are better; None if that is not known.
        percent: whether it is a share, shown in per cent; the file has it between 0 and 1.
        decimals: of the value as it is shown.
        interval_decimals: of the interval as it is shown; None for no interval (the file has it).
        score: computes a metric of single images; None for the others.
        missing: what a missing prediction counts as for `score`: the midpoint of the task's range, or a miss,
            for which `score` gets NaN.
        ranks_suffice: whether `score` depends on the order of the values alone.
        needs_spread: whether it says nothing where all true values are the same.
        in_progress_line: whether the line that training prints after a validation has it.
    """

    name: str
    label: str
    of: Literal["images", "lists", "rotations", "replies"]
    better: Literal["lower", "higher"] | None = "higher"
    percent: bool = False
    decimals: int = 3
    interval_decimals: int | None = 2
    score: SingleImageScore | None = None
    missing: Literal["midpoint", "miss"] = "midpoint"
    ranks_suffice: bool = False
    needs_spread: bool = False
    in_progress_line: bool = True

    @property
    def arrow(self) -> str:
        """Down if lower is better, up if higher is; empty if neither is known to be."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.better]

    @property
    def title(self) -> str:
        """The label with its unit, such as "accuracy in %"."""
        return f"{self.label} in %" if self.percent else self.label

    @property
    def factor(self) -> int:
        """What a number of the file is multiplied by when it is shown."""
        return 100 if self.percent else 1


# To add a metric of single images: write its function above, and give it a row here; its name has no digit.
# The evaluation, the tables and the line of a validation take it from the row, and `docs/evaluation.md` says
# what it is. To make it the headline of a task, name it in `rarl.method.tasks.HEADLINE_METRICS` too.
STRICT_METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            "mae",
            "MAE",
            of="images",
            better="lower",
            decimals=2,
            score=lambda predicted, truths, task: mae(predicted, truths),
        ),
        Metric(
            "accuracy",
            "accuracy",
            "images",
            percent=True,
            decimals=2,
            interval_decimals=1,
            score=accuracy,
            missing="miss",
            in_progress_line=False,
        ),
        Metric(
            "within_one",
            "off-by-one accuracy",
            "images",
            percent=True,
            decimals=1,
            interval_decimals=1,
            score=within_one,
            missing="miss",
            in_progress_line=False,
        ),
        Metric(
            "srcc",
            "SRCC",
            "images",
            score=lambda predicted, truths, task: srcc(predicted, truths),
            ranks_suffice=True,
            needs_spread=True,
            in_progress_line=False,
        ),
        Metric(
            "plcc",
            "PLCC",
            "images",
            score=lambda predicted, truths, task: plcc(predicted, truths),
            needs_spread=True,
            in_progress_line=False,
        ),
        Metric("tauN", "Kendall's τ", "lists"),
        Metric("tauN_values", "Kendall's τ of the values", "lists", in_progress_line=False),
        Metric("agreementN", "agreement", "rotations"),
        Metric("position_biasN", "position bias", "rotations", better="lower"),
        Metric("mae_mean", "MAE of the mean", "images", better="lower", decimals=2, in_progress_line=False),
        Metric(
            "mae_median", "MAE of the median", "images", better="lower", decimals=2, in_progress_line=False
        ),
        Metric("srcc_mean", "SRCC of the mean", "images", in_progress_line=False),
        Metric("tauN_mean", "Kendall's τ of the means", "lists", in_progress_line=False),
        Metric("ece", "calibration error", "images", better="lower", in_progress_line=False),
        Metric(
            "coverage",
            "coverage of 80 % intervals",
            "images",
            better=None,
            percent=True,
            decimals=1,
            interval_decimals=1,
            in_progress_line=False,
        ),
        Metric("parsed", "parsed", "replies", percent=True, decimals=1, interval_decimals=None),
        Metric("valid", "valid", "replies", percent=True, decimals=1, interval_decimals=None),
    )
}

LENIENT = "_lenient"
"""How the name of a metric ends that is of replies read leniently (`rarl.method.replies.parse_leniently`)."""

READ_TWICE = (*HEADLINE_METRICS, "tauN", "parsed", "valid")
"""The metrics that there are of both readings."""

METRICS: dict[str, Metric] = STRICT_METRICS | {
    f"{name}{LENIENT}": replace(
        STRICT_METRICS[name],
        name=f"{name}{LENIENT}",
        label=f"{STRICT_METRICS[name].label}, read leniently",
        in_progress_line=False,
    )
    for name in READ_TWICE
}
"""NAME -> row, in the order of `metrics.json`."""

SINGLE_IMAGE_METRICS = tuple(row for row in STRICT_METRICS.values() if row.score is not None)


def metric_of(key: str) -> tuple[Metric, int | None]:
    """The row behind a key of `metrics.json`, and the number of images in the lists where it names one.

    A key that no row has, such as one of a later version, gets a plain row under its own name.

    Examples:
        `tau8_values` is the row `tauN_values` and 8; `mae` is the row `mae` and None.
    """
    count = re.search(r"\d+", key)
    name = key if count is None else f"{key[: count.start()]}N{key[count.end() :]}"
    if name not in METRICS:
        return Metric(key, key, "replies", better=None, interval_decimals=3), None
    return METRICS[name], None if count is None else int(count[0])


def list_lengths(keys: Iterable[str], name: str = "tauN") -> list[int]:
    """The numbers of images for which some of these keys have the metric, ascending."""
    found = (metric_of(key) for key in set(keys))
    return sorted({count for row, count in found if row.name == name and count is not None})


def _checked_pair(predicted: ArrayLike, truths: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    guesses, targets = np.asarray(predicted, dtype=np.float64), np.asarray(truths, dtype=np.float64)
    if guesses.ndim != 1 or len(guesses) == 0 or guesses.shape != targets.shape:
        raise ValueError(f"a metric needs one prediction per truth, not {guesses.shape} for {targets.shape}")
    if not (np.isfinite(guesses).all() and np.isfinite(targets).all()):
        raise ValueError("a metric needs finite numbers; what stands in for a missing value is for `filled`")
    return guesses, targets


def _steps_apart(predicted: ArrayLike, truths: ArrayLike, task: Task) -> np.ndarray:
    """How many steps of the task lie between predictions and truths; halves go up to the next. From a
    prediction that is NaN, and so missing, it is NaN too, which no comparison holds for."""
    guesses = np.asarray(predicted, dtype=np.float64)
    missing = np.isnan(guesses)
    pair = _checked_pair(np.where(missing, task.midpoint, guesses), truths)
    with np.errstate(over="ignore", invalid="ignore"):  # absurd numbers may be infinitely many steps away
        given, targets = (steps_above(numbers, task.low, task.step) for numbers in pair)
        return np.where(missing, np.nan, np.abs(given - targets))


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
