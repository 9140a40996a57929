"""The values of single images as a `Scoring` says: of greedy replies, or medians of distributions with their
intervals. The median has the least expected absolute error, and lies on the task's grid; the order of images
is by the means, of which hardly any are equal. Images come opened; which can be shown to the model, and
what is made of a value, is decided by who asks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from rarl.method.prompts import messages
from rarl.method.replies import parse_leniently
from rarl.method.tasks import Task
from rarl.models.generation.replies import Message, greedy_replies, sampled_replies
from rarl.scoring.distribution import Distributions
from rarl.scoring.expected import distributions
from rarl.scoring.scoring import Scoring

LEVEL = 0.8
"""The probability that an interval has."""


@dataclass(frozen=True)
class Scored:
    """The values of N images.

    Attributes:
        values: in units of the task; None for an image whose greedy reply gives none.
        intervals: the lower and the upper end of the central interval of `LEVEL`, at the temperature of the
            scoring; None where no distribution was asked for.
        distributions: of N rows, as the model has them, without a temperature; None likewise.
    """

    values: list[float | None]
    intervals: list[tuple[float, float]] | None = None
    distributions: Distributions | None = None


def values_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    task: Task,
    scoring: Scoring,
    *,
    batch_size: int,
    max_new_tokens: int,
    rule: str | None = None,
    replies: Sequence[str] | None = None,
) -> Scored:
    """The value of each image, in a prompt of its own, by the method of `scoring`.

    Greedy replies are read leniently (`rarl.method.replies.parse_leniently`).

    Args:
        batch_size: prompts in one pass.
        max_new_tokens: where a reply, or the reasoning before an answer, is cut that does not end by itself.
        rule: what the prompt asks for; None for the task's.
        replies: the model's greedy replies, where they are known already; sampled ones are not.
    """
    question = messages(1, rule or task.rule, task.value_range)
    reasonings: list[str | Sequence[str]]
    if scoring.is_sampled:
        reasonings = list(_sampled(model, processor, images, question, scoring, batch_size, max_new_tokens))
    elif scoring.method == "greedy" or (scoring.method == "mean" and scoring.reasoning == "free"):
        if replies is None:
            replies = greedy_replies(
                model,
                processor,
                [question] * len(images),
                [[image] for image in images],
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
            )
        if scoring.method == "greedy":
            return Scored([parse_leniently(reply, 1).values(1)[0] for reply in replies])
        reasonings = [replies]
    else:
        reasonings = ["empty" if scoring.method == "mean-fast" else "template"]
    several = [
        distributions(model, processor, images, task, reasoning=one, rule=rule, batch_size=batch_size)
        for one in reasonings
    ]
    found = Distributions.averaged(several) if len(several) > 1 else several[0]
    # Tempered, values would be drawn to the middle of the range; the temperature is for how sure they are.
    low, high = (ends.tolist() for ends in found.tempered(scoring.temperature).interval(LEVEL))
    return Scored(found.median.tolist(), list(zip(low, high, strict=True)), found)


def _sampled(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: list[Message],
    scoring: Scoring,
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[list[str]]:
    """The sampled replies to all images, as often as `scoring` says. Their draws are those of the place of
    the sample, for all images alike, so a value does not depend on what else is asked."""
    for place in range(scoring.sampled):
        yield sampled_replies(
            model,
            processor,
            [question] * len(images),
            [[image] for image in images],
            seeds=[place] * len(images),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
