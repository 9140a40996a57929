"""How a model scores and ranks best, chosen on a split that is neither trained on nor reported: by greedy
replies or means of distributions (`rarl.scoring`), with reasoning or without; and lists in the order of the
model's own list or of the values. What is chosen is a `Scoring`. The paper scores greedily (section 4.1)."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from transformers import PreTrainedModel, ProcessorMixin

from rarl.data.collection import Collection, Row
from rarl.data.groups import Group, disjoint_groups
from rarl.errors import DataError
from rarl.evaluation.asking import in_shares
from rarl.evaluation.evaluate import ask, refused_rows
from rarl.evaluation.expected import distributions_of, own_scoring, row_batches
from rarl.evaluation.intervals import bootstrap_interval
from rarl.evaluation.metrics import calibration_error, filled, list_tau, mae, srcc, tau_values
from rarl.evaluation.prediction import predict
from rarl.method.tasks import Task
from rarl.scoring.candidates import has_grid
from rarl.scoring.distribution import Distributions
from rarl.scoring.scoring import Method, Scoring
from rarl.scoring.values import LEVEL

MOST_IMAGES = 200
MOST_LISTS = 50  # of each number of images; no image is in two of them
TEMPERATURES = np.geomspace(0.5, 8.0, 33)


def choose(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    collection: Collection,
    split: str | None,
    *,
    lengths: Sequence[int],
    seed: int,
    batch_size: int,
    max_new_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> Scoring:
    """Chooses how a model scores and ranks, from at most `MOST_IMAGES` images of a split.

    What is expected to be best is kept unless something else is better beyond the 95 % interval of the paired
    difference, so that the noise of a small split decides nothing:

    - The value of an image is the `mean`; see `best_method`.
    - A list has the order of the model's own, or where that is no ranking of all images, of their values. It
      has that of the values always if their mean tau is higher.
    - The temperature is the one with the highest likelihood of the true values.

    Without a split, or one of orders alone, nothing is chosen: values and orders are those of greedy replies.

    Args:
        lengths: the lists that the model was trained on, by their numbers of images.
        seed: draws images and lists.
        progress: called with the number of prompts so far and the number of all.
    """
    known = tuple(sorted(lengths))
    if split is None or not collection.knows_values(split):
        return Scoring("greedy", lengths=known, listed=known)
    task = collection.task
    refused = refused_rows(processor, collection.split(split))
    rows = [row for row in collection.split(split) if row.path not in refused]
    if len(rows) > MOST_IMAGES:
        rows = random.Random(f"{seed}:scoring").sample(rows, MOST_IMAGES)
    lists = {count: drawn for count in known if (drawn := _lists(rows, count, seed))}
    methods: list[Method] = ["mean-fast", "mean"] if has_grid(task) else []
    total = len(rows) * (1 + len(methods)) + sum(map(len, lists.values()))
    done = 0

    def count_on(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(done, total)

    replies: dict[Row, str] = {}
    for group, text in ask(
        model, processor, [Group((row,)) for row in rows], task, batch_size, max_new_tokens, shared=True
    ):
        replies[group.rows[0]] = text
        count_on(1)
    scoring = own_scoring(list(replies.values()), task)
    given = [predict(Group((row,)), replies[row]).read_leniently().values[0] for row in rows]
    values: dict[Method, list[float]] = {"greedy": filled(given, task)}
    found: dict[Method, Distributions] = {}
    for method in methods:
        by_method = replace(scoring, method=method)

        def answer(batch: Sequence[Row], by_method: Scoring = by_method) -> list[Distributions]:
            return distributions_of(model, processor, batch, task, by_method, replies, max_new_tokens).rows()

        parts: dict[Row, Distributions] = {}
        batches = row_batches(rows, replies, batch_size)
        for batch, own in zip(batches, in_shares(batches, answer), strict=True):
            parts |= zip(batch, own, strict=True)
            count_on(len(batch))
        found[method] = Distributions.joined([parts[row] for row in rows])
        values[method] = found[method].mean.tolist()
    positions: dict[int, list[Sequence[int | None] | None]] = {}
    for count, groups in lists.items():
        positions[count] = []
        for group, text in ask(model, processor, groups, task, batch_size, max_new_tokens, shared=True):
            said = predict(group, text).read_leniently()
            positions[count].append(said.positions if said.valid else None)
            count_on(1)

    truths = [row.value for row in rows]
    by_row = {method: dict(zip(rows, some, strict=True)) for method, some in values.items()}
    measured: dict[str, dict[str, float]] = {
        method: _numbers(some, truths, task, lists) for method, some in by_row.items()
    }
    temperatures: dict[str, float] = {m: temperature_for(some, truths) for m, some in found.items()}
    for method, some in found.items():
        measured[method] |= _calibration(some.tempered(temperatures[method]), truths)
    chosen = best_method(values, truths, seed)
    by_values: set[int] = set()
    measured["listed"] = {}
    for count, groups in lists.items():
        taus = _taus(by_row[chosen], groups)
        own = [
            tau if places is None else list_tau(places, group.values)
            for tau, places, group in zip(taus, positions[count], groups, strict=True)
        ]
        measured["listed"][f"tau{count}"] = float(np.mean(own))
        by_values |= {count} if _is_higher(taus, own, seed) else set()
    return Scoring(
        method=chosen,
        reasoning=scoring.reasoning,
        temperatures=temperatures,
        lengths=known,
        listed=tuple(count for count in known if count not in by_values),
        split=split,
        seed=seed,
        images=len(rows),
        measured=measured,
    )


def best_method(values: Mapping[Method, Sequence[float]], truths: Sequence[float], seed: int) -> Method:
    """`mean`, or another method that is better than it beyond the 95 % interval of the paired difference, in
    MAE or SRCC, and in neither worse; of two such methods the one with the higher SRCC. Without `mean` it is
    `greedy`.

    Args:
        values: METHOD -> the value of each image; `greedy` is among them.
        truths: the true value of each image.
    """
    if "mean" not in values:
        return "greedy"
    target, mean = np.array(truths), np.array(values["mean"])
    better: list[Method] = []
    for method in (name for name in values if name != "mean"):
        other = np.array(values[method])
        closer = bootstrap_interval(abs(mean - target) - abs(other - target), seed=seed)
        # Of ranks alone: whole numbers are ranked in a fraction of the time.
        ranks = [np.unique(column, return_inverse=True)[1] for column in (other, mean, target)]
        ordered = bootstrap_interval(np.column_stack(ranks), _gain_in_srcc, seed=seed)
        signs = [(low > 0) - (high < 0) for low, high in (closer, ordered)]
        better += [method] if max(signs) > 0 and min(signs) >= 0 else []
    return max(better, key=lambda method: srcc(values[method], truths), default="mean")


def _gain_in_srcc(some: np.ndarray, others: np.ndarray, truths: np.ndarray) -> float:
    return srcc(some, truths) - srcc(others, truths)


def temperature_for(found: Distributions, truths: Sequence[float]) -> float:
    """The temperature of `TEMPERATURES` at which the true values are likeliest, with three digits."""
    losses = [
        -float(np.mean(np.log(np.maximum(found.tempered(t).probability_of(truths), 1e-12))))
        for t in TEMPERATURES
    ]
    return float(f"{TEMPERATURES[int(np.argmin(losses))]:.3g}")


def _is_higher(some: ArrayLike, others: ArrayLike, seed: int) -> bool:
    """Whether the mean of some numbers is higher, beyond the 95 % interval of the paired difference."""
    low, _ = bootstrap_interval(np.asarray(some) - np.asarray(others), seed=seed)
    return low > 0


def _lists(rows: Sequence[Row], count: int, seed: int) -> list[Group]:
    """Lists of so many of these images; none if there are too few."""
    try:
        return disjoint_groups(rows, count, MOST_LISTS, seed)
    except DataError:
        return []


def _numbers(
    values: Mapping[Row, float], truths: Sequence[float], task: Task, lists: Mapping[int, Sequence[Group]]
) -> dict[str, float]:
    """MAE and SRCC of these values, and tau of lists that are sorted by them."""
    given = np.clip(list(values.values()), task.low, task.high)
    numbers = {"mae": mae(given, truths), "srcc": srcc(given, truths)}
    return numbers | {f"tau{n}": float(np.mean(_taus(values, groups))) for n, groups in lists.items()}


def _taus(values: Mapping[Row, float], groups: Sequence[Group]) -> list[float]:
    """Kendall's tau of each list, sorted by the values of its images."""
    return [tau_values(range(len(g.rows)), [values[row] for row in g.rows], g.values) for g in groups]


def _calibration(found: Distributions, truths: Sequence[float]) -> dict[str, float]:
    """Calibration error and coverage, as evaluation has them."""
    on_grid = found.nearest(truths)
    low, high = found.interval(LEVEL)
    return {
        "ece": calibration_error(found.probabilities.max(axis=1), found.mode == on_grid),
        "coverage": float(np.mean((low <= on_grid) & (on_grid <= high))),
    }
