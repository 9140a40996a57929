"""What the predictions of one arm come to: the metrics of `metrics.json`, each with its 95 % bootstrap
interval, and those of single images for each value of a column. Nothing is asked, read or written here."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rarl.data.columns import NONE
from rarl.evaluation.metrics import Entry, accuracy, bootstrap_interval, filled, mae, plcc, srcc, within_one
from rarl.evaluation.position_bias import order_metrics
from rarl.method.tasks import Task

Groups = dict[str, dict[str, dict[str, Entry]]]
"""COLUMN -> VALUE -> METRIC -> entry."""


def summarize(predictions: Sequence[Mapping[str, Any]], task: Task, seed: int) -> dict[str, Entry]:
    """The metrics of one arm's predictions, each with a 95 % bootstrap interval over replies.

    A single image without a value is scored as the midpoint of the range, and a value outside the range as
    the nearer end: one absurd number must not decide a mean. Rotated lists count in `agreementN` and
    `position_biasN` alone. `seed` is that of the resampling.
    """
    plain = [line for line in predictions if "rotation" not in line]
    metrics: dict[str, Entry] = {}
    alone = [line for line in plain if line["images"] == 1]
    if alone:
        metrics |= _of_single_images(_pairs(alone, task), task, seed)
    for count in sorted({line["images"] for line in plain} - {1}):
        some = [line for line in plain if line["images"] == count]
        metrics[f"tau{count}"] = _mean([line["tau"] for line in some], seed)
        metrics[f"tau{count}_values"] = _mean([line["tau_values"] for line in some], seed)
    for key in ("parsed", "valid"):
        metrics[key] = _mean([float(line[key]) for line in plain], seed)
    return metrics | order_metrics(predictions, seed)


def by_column(
    predictions: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, str]], task: Task, seed: int
) -> Groups:
    """The metrics of single images for each value of each column.

    `srcc` and `plcc` are missing where all true values are the same: nothing could correlate with them.

    Args:
        columns: COLUMN -> id of an image -> its value, for every image that was asked for alone.
    """
    alone = [line for line in predictions if line["images"] == 1]
    pairs = _pairs(alone, task)
    groups: Groups = {}
    for column, value_of in columns.items():
        places: dict[str, list[int]] = {}
        for place, line in enumerate(alone):
            places.setdefault(value_of[line["ids"][0]], []).append(place)
        groups[column] = {}
        for value in sorted(places, key=_by_size):
            metrics = _of_single_images(pairs[places[value]], task, seed)
            if len(np.unique(pairs[places[value], 1])) == 1:
                del metrics["srcc"], metrics["plcc"]
            groups[column][value] = metrics
    return groups


def _by_size(value: str) -> tuple[bool, bool, int, str]:
    """Sorts whole numbers by size, then texts, then what has no value."""
    is_number = re.fullmatch(r"-?[0-9]{1,15}", value) is not None
    return value == NONE, not is_number, int(value) if is_number else 0, value


def _pairs(alone: Sequence[Mapping[str, Any]], task: Task) -> np.ndarray:
    """A row of predicted and true value for each single image."""
    given = np.clip(filled([line["values"][0] for line in alone], task), task.low, task.high)
    return np.column_stack([given, [line["truth"][0] for line in alone]])


def _of_single_images(pairs: np.ndarray, task: Task, seed: int) -> dict[str, Entry]:
    # SRCC sees the order alone, and ranks whole numbers in a fraction of the time.
    order = np.column_stack([np.unique(column, return_inverse=True)[1] for column in pairs.T])
    return {
        "mae": _entry(pairs, mae, seed),
        "accuracy": _entry(pairs, lambda given, truths: accuracy(given, truths, task), seed),
        "within_one": _entry(pairs, lambda given, truths: within_one(given, truths, task), seed),
        "srcc": _entry(order, srcc, seed),
        "plcc": _entry(pairs, plcc, seed),
    }


def _mean(numbers: Sequence[float], seed: int) -> Entry:
    return _entry(np.asarray(numbers, dtype=np.float64), np.mean, seed)


def _entry(rows: np.ndarray, statistic: Callable[..., float], seed: int) -> Entry:
    low, high = bootstrap_interval(rows, statistic, seed=seed)
    columns = rows.reshape(len(rows), -1).T
    return {"value": float(statistic(*columns)), "low": low, "high": high, "n": len(rows)}
