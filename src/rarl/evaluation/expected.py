"""The distributions of a model for the images that an evaluation asks about, each in a prompt of its own
(`rarl.scoring`): what of them is a line of `predictions.jsonl`. Their metrics are in `summary`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from rarl.data.collection import Row
from rarl.data.groups import Group
from rarl.data.images import open_image
from rarl.evaluation.asking import in_shares
from rarl.evaluation.prediction import Expected
from rarl.method.tasks import Task
from rarl.models.processor import resizing_of
from rarl.scoring.candidates import uses_template
from rarl.scoring.distribution import Distributions
from rarl.scoring.scoring import Scoring
from rarl.scoring.values import LEVEL, values_of


def images_of(groups: Sequence[Group], refused: frozenset[Path]) -> list[Row]:
    """The rows of some groups, each once, without images that the processor refuses."""
    rows = dict.fromkeys(row for group in groups for row in group.rows)
    return [row for row in rows if row.path not in refused]


def own_scoring(replies: Sequence[str], task: Task) -> Scoring:
    """The distributions that fit a model of which only greedy replies to single images are known: over whole
    replies with the template if most of these have it, or there are none, else after each one's reasoning."""
    return Scoring("mean", "template" if not replies or uses_template(replies, task) else "free")


def row_batches(rows: Sequence[Row], replies: Mapping[Row, str], batch_size: int) -> list[list[Row]]:
    """The rows in batches, each of one rule, and with greedy replies that are known for all of its rows or
    for none."""
    batches: list[list[Row]] = []
    for rule in dict.fromkeys(row.rule for row in rows):
        same = [row for row in rows if row.rule == rule]
        for known in (True, False):
            some = [row for row in same if (row in replies) == known]
            batches += [some[start : start + batch_size] for start in range(0, len(some), batch_size)]
    return batches


def distributions_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch: Sequence[Row],
    task: Task,
    scoring: Scoring,
    replies: Mapping[Row, str],
    max_new_tokens: int,
) -> Distributions:
    """The distributions of the images of a batch from `row_batches`.

    Args:
        scoring: by a method that has distributions.
    """
    resizing = resizing_of(processor)
    found = values_of(
        model,
        processor,
        [open_image(row.path, resizing) for row in batch],
        task,
        scoring,
        batch_size=len(batch),
        max_new_tokens=max_new_tokens,
        rule=batch[0].rule,
        replies=[replies[row] for row in batch] if batch[0] in replies else None,
    ).distributions
    assert found is not None
    return found


def expected_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    task: Task,
    scoring: Scoring,
    replies: Mapping[Row, str],
    *,
    batch_size: int,
    max_new_tokens: int,
    kept: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Row, Expected]:
    """What the distribution of each row's image says. All processes ask, each its share (`in_shares`, which
    `kept` is of).

    Args:
        scoring: which distribution; of a model that scores greedily, the one over its whole replies.
        replies: the greedy replies that are known already, for a model that reasons freely.
        progress: called with the number of images so far.
    """
    if scoring.method == "greedy":
        scoring = replace(scoring, method="mean")

    def answer(batch: Sequence[Row]) -> list[list[float]]:
        found = distributions_of(model, processor, batch, task, scoring, replies, max_new_tokens)
        return [list(astuple(said)) for said in summaries(found, scoring.temperature)]

    found: dict[Row, Expected] = {}
    batches = row_batches(rows, replies, batch_size)
    for batch, said in zip(batches, in_shares(batches, answer, kept=kept), strict=True):
        found |= zip(batch, (Expected(*numbers) for numbers in said), strict=True)
        if progress is not None:
            progress(len(found))
    return found


def summaries(found: Distributions, temperature: float) -> list[Expected]:
    """What of each distribution is kept, with six digits. The temperature is for how sure it is: mean and
    median would be drawn to the middle of the range by it."""
    wide = found.tempered(temperature)
    low, high = wide.interval(LEVEL)
    columns = (found.mean, found.median, low, high, wide.mode, wide.probabilities.max(axis=1))
    return [Expected(*(float(f"{number:.6g}") for number in row)) for row in zip(*columns, strict=True)]
