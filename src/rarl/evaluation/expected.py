"""The distributions of a model for the images that an evaluation asks about, each in a prompt of its own
(`rarl.scoring`): what of them is a line of `predictions.jsonl`. Their metrics are in `summary`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from rarl.data.collection import Row
from rarl.data.groups import Group
from rarl.data.images import open_image
from rarl.evaluation.prediction import Expected
from rarl.method.tasks import Task
from rarl.scoring.candidates import uses_template
from rarl.scoring.distribution import Distributions
from rarl.scoring.scoring import Scoring
from rarl.scoring.values import LEVEL, Scored, values_of


def images_of(groups: Sequence[Group], refused: frozenset[Path]) -> list[Row]:
    """The rows of some groups, each once, without images that the processor refuses."""
    rows = dict.fromkeys(row for group in groups for row in group.rows)
    return [row for row in rows if row.path not in refused]


def own_scoring(replies: Sequence[str], task: Task) -> Scoring:
    """The distributions that fit a model of which only greedy replies to single images are known: over whole
    replies with the template if most of these have it, or there are none, else after each one's reasoning."""
    return Scoring("mean", "template" if not replies or uses_template(replies, task) else "free")


def scored_rows(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    task: Task,
    scoring: Scoring,
    replies: Mapping[Row, str],
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[tuple[list[Row], Scored]]:
    """Yields some rows at a time with what `scoring` has of their images, all in the end. Images are opened a
    batch at a time.

    Args:
        replies: the greedy replies that are known already.
    """
    for rule in dict.fromkeys(row.rule for row in rows):
        same = [row for row in rows if row.rule == rule]
        for known in (True, False):  # a batch has replies for all of its rows or for none
            some = [row for row in same if (row in replies) == known]
            for start in range(0, len(some), batch_size):
                batch = some[start : start + batch_size]
                yield (
                    batch,
                    values_of(
                        model,
                        processor,
                        [open_image(row.path) for row in batch],
                        task,
                        scoring,
                        batch_size=batch_size,
                        max_new_tokens=max_new_tokens,
                        rule=rule,
                        replies=[replies[row] for row in batch] if known else None,
                    ),
                )


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
    progress: Callable[[int], None] | None = None,
) -> dict[Row, Expected]:
    """What the distribution of each row's image says.

    Args:
        scoring: which distribution; of a model that scores greedily, the one over its whole replies.
        replies: the greedy replies that are known already, for a model that reasons freely.
        progress: called with the number of images so far.
    """
    if scoring.method == "greedy":
        scoring = replace(scoring, method="mean")
    found: dict[Row, Expected] = {}
    for batch, scored in scored_rows(
        model, processor, rows, task, scoring, replies, batch_size, max_new_tokens
    ):
        assert scored.distributions is not None
        found |= zip(batch, summaries(scored.distributions, scoring.temperature), strict=True)
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
