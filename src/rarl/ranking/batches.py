"""Which images a model is asked about in one pass: as many as a pass may have, of about as many tokens, so
that little is padded. The image that has waited longest is always among them. Nothing here opens or measures
one."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Waiting:
    """An opened image that is still to be measured.

    Attributes:
        place: among all images of the call, from 0.
        tokens: that the image costs in a prompt.
    """

    place: int
    image: Image.Image
    tokens: int


def is_enough(waiting: Sequence[Waiting], most: int, most_tokens: int) -> bool:
    """Whether the images that wait are `most`, or have more than `most_tokens` tokens together."""
    return len(waiting) >= most or sum(entry.tokens for entry in waiting) > most_tokens


def next_batch(
    waiting: Sequence[Waiting], most: int, most_tokens: int
) -> tuple[list[Waiting], list[Waiting]]:
    """The images to measure next, and those that still wait after that.

    Args:
        waiting: the oldest first; at least one.
        most: images of the batch.
        most_tokens: of its images, each padded to the longest; a single image may have more.
    """
    nearest = sorted(waiting, key=lambda entry: abs(entry.tokens - waiting[0].tokens))
    batch: list[Waiting] = []
    longest = 0
    for entry in nearest[:most]:
        longest = max(longest, entry.tokens)
        if batch and (len(batch) + 1) * longest > most_tokens:
            break
        batch.append(entry)
    taken = {entry.place for entry in batch}
    return batch, [entry for entry in waiting if entry.place not in taken]
