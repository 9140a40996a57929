"""From the predictions of one arm to its metrics, as they stand in `metrics.json`: each with its 95 %
bootstrap interval, and those of single images also for each value of a column. No model is asked here, and
no file is read or written."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rarl.data.columns import NONE
from rarl.evaluation.intervals import bootstrap_interval
from rarl.evaluation.metrics import (
    LENIENT,
    METRICS,
    SINGLE_IMAGE_METRICS,
    Metric,
    MetricEntry,
    calibration_error,
    filled,
    metric_of,
    tau_values,
)
from rarl.evaluation.position_bias import order_metrics
from rarl.evaluation.prediction import Prediction
from rarl.method.tasks import Task

Subgroups = dict[str, dict[str, dict[str, MetricEntry]]]
"""COLUMN -> VALUE -> METRIC -> entry."""


def summarize(predictions: Sequence[Prediction], task: Task, seed: int) -> dict[str, MetricEntry]:
    """The metrics of one arm's predictions, each with a 95 % bootstrap interval over images
    or lists.

    A single image without a value counts as the midpoint of the range or as a miss, as the metric's row
    says, and a value outside the range as the nearer end, so that no absurd number decides a mean. Rotated
    lists count in `agreementN` and `position_biasN` alone. `seed` is that of the resampling.
    """
    plain = [line for line in predictions if not line.is_rotated]
    metrics: dict[str, MetricEntry] = {}
    alone = [line for line in plain if line.images == 1]
    if alone:
        metrics |= {
            row.name: _single_image_entry(row, guesses_and_truths(alone, task, row), task, seed)
            for row in SINGLE_IMAGE_METRICS
        }
    for count in sorted({line.images for line in plain} - {1}):
        lists = [line for line in plain if line.images == count]
        metrics[f"tau{count}"] = _mean_entry([line.tau for line in lists], seed)
        metrics[f"tau{count}_values"] = _mean_entry([line.tau_values for line in lists], seed)
    metrics["parsed"] = _mean_entry([line.parsed for line in plain], seed)
    metrics["valid"] = _mean_entry([line.valid for line in plain], seed)
    return metrics | order_metrics(predictions, seed)


def lenient_metrics(
    predictions: Sequence[Prediction], metrics: Mapping[str, MetricEntry], task: Task, seed: int
) -> dict[str, MetricEntry]:
    """The metrics of the same replies read leniently, such as `mae_lenient` and `tau8_lenient`.

    Args:
        metrics: what `summarize` made of the same predictions. Where no reply differs between the readings,
            its entries are the lenient ones, too.
    """
    plain = [line.read_leniently() for line in predictions if not line.is_rotated]
    differs = any(line.lenient is not None and not line.is_rotated for line in predictions)
    found = summarize(plain, task, seed) if differs else metrics
    named = {f"{key}{LENIENT}": dict(entry) for key, entry in found.items()}
    return {key: entry for key, entry in named.items() if metric_of(key)[0].name in METRICS}


def expected_metrics(predictions: Sequence[Prediction], task: Task, seed: int) -> dict[str, MetricEntry]:
    """The metrics of the distributions behind one arm's predictions, such as `mae_mean` and `tau8_mean`;
    none where there are no distributions.

    An image without one counts as the midpoint in `mae_mean`, `mae_median` and `srcc_mean`, and is left out
    of `ece` and `coverage`. What is right there is decided on the task's grid.
    """
    plain = [line for line in predictions if not line.is_rotated and line.expected is not None]
    metrics: dict[str, MetricEntry] = {}
    alone = [(line.truth[0], line.expected[0]) for line in plain if line.images == 1 and line.expected]
    if alone:
        truths = [truth for truth, _ in alone]
        for name, attribute in (("mae_mean", "mean"), ("mae_median", "median"), ("srcc_mean", "mean")):
            given = filled([None if one is None else getattr(one, attribute) for _, one in alone], task)
            row = METRICS[name.partition("_")[0]]
            metrics[name] = _single_image_entry(row, np.column_stack([given, truths]), task, seed)
        known = [(task.nearest(truth), one) for truth, one in alone if one is not None]
        if known:
            claims = [(one.probability, float(one.mode == truth)) for truth, one in known]
            metrics["ece"] = _entry(np.array(claims), calibration_error, seed)
            metrics["coverage"] = _mean_entry([one.low <= truth <= one.high for truth, one in known], seed)
    for count in sorted({line.images for line in plain} - {1}):
        taus = [
            tau_values(
                range(count), [None if one is None else one.mean for one in line.expected or ()], line.truth
            )
            for line in plain
            if line.images == count
        ]
        metrics[f"tau{count}_mean"] = _mean_entry(taus, seed)
    return metrics


def by_column(
    predictions: Sequence[Prediction], columns: Mapping[str, Mapping[str, str]], task: Task, seed: int
) -> Subgroups:
    """The metrics of single images for each value of each column.

    A metric that needs spread, such as `srcc`, is missing where all true values are the same: nothing could
    correlate with them.

    Args:
        columns: COLUMN -> id of an image -> its value, for every image that was asked for alone.
    """
    alone = [line for line in predictions if line.images == 1]
    pairs = {row.name: guesses_and_truths(alone, task, row) for row in SINGLE_IMAGE_METRICS}
    groups: Subgroups = {}
    for column, value_of in columns.items():
        places: dict[str, list[int]] = {}
        for place, line in enumerate(alone):
            places.setdefault(value_of[line.ids[0]], []).append(place)
        groups[column] = {}
        for value in sorted(places, key=_by_size):
            has_spread = len({alone[place].truth[0] for place in places[value]}) > 1
            groups[column][value] = {
                row.name: _single_image_entry(row, pairs[row.name][places[value]], task, seed)
                for row in SINGLE_IMAGE_METRICS
                if has_spread or not row.needs_spread
            }
    return groups


def guesses_and_truths(alone: Sequence[Prediction], task: Task, metric: Metric) -> np.ndarray:
    """For each single image its predicted and its true value, [image, 2], as `metric.score` takes them. A
    missing value is the midpoint of the task's range, or NaN if it is a miss for this metric; a value outside
    the range is its nearer end."""
    given = [line.values[0] for line in alone]
    known = (
        [np.nan if value is None else value for value in given]
        if metric.missing == "miss"
        else filled(given, task)
    )
    return np.column_stack([np.clip(known, task.low, task.high), [line.truth[0] for line in alone]])


def _by_size(value: str) -> tuple[bool, bool, int, str]:
    """Sorts whole numbers by size, then texts, then images without a value."""
    is_number = re.fullmatch(r"-?[0-9]{1,15}", value) is not None
    return value == NONE, not is_number, int(value) if is_number else 0, value


def _single_image_entry(row: Metric, pairs: np.ndarray, task: Task, seed: int) -> MetricEntry:
    score = row.score
    assert score is not None
    if row.ranks_suffice:  # whole numbers are ranked in a fraction of the time
        pairs = np.column_stack([np.unique(column, return_inverse=True)[1] for column in pairs.T])
    return _entry(pairs, lambda given, truths: score(given, truths, task), seed)


def _mean_entry(numbers: Sequence[float | None], seed: int) -> MetricEntry:
    return _entry(np.asarray(numbers, dtype=np.float64), np.mean, seed)


def _entry(rows: np.ndarray, statistic: Callable[..., float], seed: int) -> MetricEntry:
    low, high = bootstrap_interval(rows, statistic, seed=seed)
    columns = rows.reshape(len(rows), -1).T
    return {"value": float(statistic(*columns)), "low": low, "high": high, "n": len(rows)}
