"""Windows: lists of a length that the model knows, in which it sees each image beside others. What an image
gets there is one more opinion of its value, and is joined with the value that it gets alone. Lists of any
number of images are put in order so. No model is asked here.

One round of windows is asked, in which each image is in one: more rounds were no better (docs/evaluation.md).
"""

import random
from collections.abc import Sequence

import numpy as np

from rarl.method.replies import Reply
from rarl.method.tasks import Task


def window_length(known: Sequence[int], count: int) -> int:
    """How many images the windows of a list of `count` have: the longest list that the model knows, of those
    that the images suffice for, since it takes the fewest prompts; 0 if there is none."""
    return max((length for length in known if length <= count), default=0)


def windows_of(count: int, length: int, seed: int = 0) -> list[list[int]]:
    """The places 0 to `count` - 1 in windows of `length`, in an order that is drawn with `seed`. If `length`
    does not divide `count`, images of the first window fill up the last.

    Raises:
        ValueError: if there are fewer places than a window has.
    """
    if not 1 <= length <= count:
        raise ValueError(f"no window of {length} in {count} images")
    order = random.Random(f"{seed}:windows").sample(range(count), count)
    filled = order + order[: -count % length]
    return [filled[start : start + length] for start in range(0, count, length)]


def values_in(reply: Reply, count: int, task: Task) -> list[float] | None:
    """The values of the `count` images of a window, within the task's range; None if the reply lists not each
    of them exactly once."""
    if not reply.is_permutation(count):
        return None
    return [min(max(value, task.low), task.high) for value in reply.values(count) if value is not None]


def joined(
    own: Sequence[float | None], windows: Sequence[Sequence[int]], values: Sequence[Sequence[float] | None]
) -> list[float | None]:
    """The value of each of N images: halfway between its own and the mean of those in its windows. Where one
    of the two is missing it is the other, and None where both are.

    Args:
        own: of the images, each asked for alone.
        windows: the places of the images of each window, from 0.
        values: of the images of each window, from `values_in`.
    """
    inside: list[list[float]] = [[] for _ in own]
    for places, some in zip(windows, values, strict=True):
        for place, value in zip(places, some or (), strict=some is not None):
            inside[place].append(value)
    found: list[float | None] = []
    for alone, several in zip(own, inside, strict=True):
        opinions = [] if alone is None else [alone]
        opinions += [float(np.mean(several))] if several else []
        found.append(float(np.mean(opinions)) if opinions else None)
    return found
