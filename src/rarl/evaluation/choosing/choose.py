"""How a model scores and ranks best, chosen on a split that is neither trained on nor reported: by greedy
replies or means of distributions (`rarl.scoring`), without reasoning, after one, or after several; and in
which order it puts lists (`orders`). What is chosen is a `Scoring`. The paper scores greedily
(section 4.1)."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from rarl.data.collection import Collection, Row
from rarl.data.groups import Group
from rarl.evaluation.asking import in_shares
from rarl.evaluation.choosing.orders import LEAST, lists_of, taus_by, windows_in, with_orders
from rarl.evaluation.evaluate import ask, refused_rows
from rarl.evaluation.expected import distributions_of, own_scoring, row_batches
from rarl.evaluation.intervals import bootstrap_interval
from rarl.evaluation.metrics import calibration_error, filled, mae, srcc
from rarl.evaluation.prediction import predict
from rarl.method.tasks import Task
from rarl.scoring.candidates import has_grid
from rarl.scoring.distribution import Distributions
from rarl.scoring.scoring import METHODS, Method, Scoring
from rarl.scoring.values import LEVEL

MOST_IMAGES = 200
SAMPLED = 4
"""Reasonings that are sampled of a model that reasons freely: what they add to the error by chance is half of
that of one, for four times its cost; to halve it again would cost sixteen times as much."""
AFTER_SAMPLED = "mean-sampled"
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

    - The value of an image is the median, and its place that of the `mean`; see `best_method`. Of a model
      that reasons freely they are those after its greedy reasoning, or after `SAMPLED` that are sampled, by
      the same rule.
    - The order of a list is that of the means; see `with_orders`.
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
    lists, windows = lists_of(rows, known, seed), windows_in(rows, known, seed)
    groups = [*(group for some in lists.values() for group in some), *windows]
    methods: list[Method] = ["mean-fast", "mean"] if has_grid(task) else []
    total = len(rows) * (1 + len(methods)) + len(groups)
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
    written = filled(given, task)
    answers_of: dict[str, Answers] = {"greedy": Answers(written, written)}
    ways: dict[str, Scoring] = {method: replace(scoring, method=method) for method in methods}
    if methods and scoring.reasoning == "free":
        ways[AFTER_SAMPLED] = replace(scoring, method="mean", sampled=SAMPLED)
        total += len(rows)
    found: dict[str, Distributions] = {}
    for name, way in ways.items():

        def answer(batch: Sequence[Row], way: Scoring = way) -> list[Distributions]:
            return distributions_of(model, processor, batch, task, way, replies, max_new_tokens).rows()

        parts: dict[Row, Distributions] = {}
        batches = row_batches(rows, replies, batch_size)
        for batch, each in zip(batches, in_shares(batches, answer), strict=True):
            parts |= zip(batch, each, strict=True)
            count_on(len(batch))
        found[name] = Distributions.joined([parts[row] for row in rows])
        answers_of[name] = Answers(found[name].median.tolist(), found[name].mean.tolist())
    answers: dict[Group, str] = {}
    for asked in (*lists.values(), windows):
        for group, text in ask(model, processor, asked, task, batch_size, max_new_tokens, shared=True):
            answers[group] = text
            count_on(1)

    truths = [row.value for row in rows]
    measured = {name: _numbers(some, rows, task, lists) for name, some in answers_of.items()}
    temperatures: dict[str, float] = {name: temperature_for(some, truths) for name, some in found.items()}
    for name, own in found.items():
        measured[name] |= _calibration(own.tempered(temperatures[name]), truths)
    if AFTER_SAMPLED in found and is_better(answers_of[AFTER_SAMPLED], answers_of["mean"], truths, seed):
        scoring = ways[AFTER_SAMPLED]
        answers_of["mean"], temperatures["mean"] = answers_of[AFTER_SAMPLED], temperatures[AFTER_SAMPLED]
    of_methods = {method: answers_of[method] for method in METHODS if method in answers_of}
    scoring = replace(
        scoring,
        method=best_method(of_methods, truths, seed),
        temperatures={method: number for method, number in temperatures.items() if method in METHODS},
        lengths=known,
        split=split,
        seed=seed,
        images=len(rows),
        measured=measured,
    )
    chosen = dict(zip(rows, answers_of[scoring.method].means, strict=True))
    return with_orders(scoring, chosen, lists, windows, answers, task, seed)


@dataclass(frozen=True)
class Answers:
    """What a method says of N images, in units of the task.

    Attributes:
        values: whose error counts: greedy replies, or medians.
        means: whose order counts; of greedy replies the same.
    """

    values: Sequence[float]
    means: Sequence[float]


def best_method(answers: Mapping[Method, Answers], truths: Sequence[float], seed: int) -> Method:
    """`mean`, or another method that is better than it beyond the 95 % interval of the paired difference, in
    MAE or SRCC, and in neither worse; of two such methods the one with the higher SRCC. Without `mean` it is
    `greedy`.

    Args:
        answers: METHOD -> of each image; `greedy` is among them.
        truths: the true value of each image.
    """
    if "mean" not in answers:
        return "greedy"
    better = [
        name for name in answers if name != "mean" and is_better(answers[name], answers["mean"], truths, seed)
    ]
    return max(better, key=lambda method: srcc(answers[method].means, truths), default="mean")


def is_better(some: Answers, others: Answers, truths: Sequence[float], seed: int) -> bool:
    """Whether some answers are better than others of the same images beyond the 95 % interval of the paired
    difference, in the MAE of their values or the SRCC of their means, and in neither worse."""
    if len(truths) < LEAST:
        return False
    errors = [abs(np.array(each.values) - np.array(truths)) for each in (others, some)]
    closer = bootstrap_interval(errors[0] - errors[1], seed=seed)
    # Of ranks alone: whole numbers are ranked in a fraction of the time.
    ranks = [np.unique(column, return_inverse=True)[1] for column in (some.means, others.means, truths)]
    ordered = bootstrap_interval(np.column_stack(ranks), _gain_in_srcc, seed=seed)
    signs = [(low > 0) - (high < 0) for low, high in (closer, ordered)]
    return max(signs) > 0 and min(signs) >= 0


def _gain_in_srcc(some: np.ndarray, others: np.ndarray, truths: np.ndarray) -> float:
    return srcc(some, truths) - srcc(others, truths)


def temperature_for(found: Distributions, truths: Sequence[float]) -> float:
    """The temperature of `TEMPERATURES` at which the true values are likeliest, with three digits."""
    losses = [
        -float(np.mean(np.log(np.maximum(found.tempered(t).probability_of(truths), 1e-12))))
        for t in TEMPERATURES
    ]
    return float(f"{TEMPERATURES[int(np.argmin(losses))]:.3g}")


def _numbers(
    answers: Answers, rows: Sequence[Row], task: Task, lists: Mapping[int, Sequence[Group]]
) -> dict[str, float]:
    """MAE of the values, and SRCC and tau of lists by the means."""
    truths = [row.value for row in rows]
    values, means = (np.clip(each, task.low, task.high) for each in (answers.values, answers.means))
    numbers = {"mae": mae(values, truths), "srcc": srcc(means, truths)}
    by_row = dict(zip(rows, answers.means, strict=True))
    return numbers | {f"tau{n}": float(np.mean(taus_by(by_row, groups))) for n, groups in lists.items()}


def _calibration(found: Distributions, truths: Sequence[float]) -> dict[str, float]:
    """Calibration error and coverage, as evaluation has them."""
    on_grid = found.nearest(truths)
    low, high = found.interval(LEVEL)
    return {
        "ece": calibration_error(found.probabilities.max(axis=1), found.mode == on_grid),
        "coverage": float(np.mean((low <= on_grid) & (on_grid <= high))),
    }
