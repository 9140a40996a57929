"""Groups whose values keep a distance: images dealt into groups so that any two values of a group differ by a
minimal gap, as far as the images allow. The gap may fall or rise from the first group to the last, which is a
curriculum from easy to hard. Not in the paper."""

import random
from collections.abc import Sequence

import numpy as np

Gap = tuple[float, float]
"""The minimal gap of the first groups and of the last, in units of the value."""

PHASES = 20  # the gap changes in so many steps from the first groups to the last
GROUPS_A_PHASE = 16  # or in fewer: with fewer groups there would be little choice
ROUNDS = 16  # of proposed exchanges for each image


def gap_draws(
    values: Sequence[float], count: int, number: int, gap: Gap, generator: random.Random
) -> list[list[int]]:
    """`number` draws of `count` indices into `values`, in the order in which they are to be used.

    Every image is used before any is used again, and no draw has one twice. Where the gap can't be kept by
    all, the narrowest of them is as wide as it can be. A gap that changes puts
    the draws of each phase in its direction too. `count` must not exceed the number of values.
    """
    # Ranks in place of images: sorted by value, and every image has its own.
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranked = np.asarray([values[index] for index in order], dtype=np.float64)
    chance = np.random.default_rng(generator.getrandbits(64))
    phases = min(PHASES, max(1, number // GROUPS_A_PHASE))
    ends = np.linspace(0, number, phases + 1).round().astype(int)
    widths = np.linspace(gap[0], gap[1], phases) if phases > 1 else np.asarray([gap[1]])
    # A gap of 0 still keeps equal values apart.
    widths = np.maximum(widths, 1e-9 * max(float(ranked[-1] - ranked[0]), 1.0))
    draws: list[list[int]] = []
    unused = np.empty(0, dtype=np.int64)
    for groups, width in zip(np.diff(ends), widths, strict=True):
        taken, unused = _take(int(groups) * count, unused, len(ranked), chance)
        dealt = _deal(taken, ranked, int(groups), count, float(width), chance)
        if gap[0] != gap[1]:
            narrowest = _scores(dealt, ranked)
            dealt = dealt[np.argsort(-narrowest if gap[0] > gap[1] else narrowest, kind="stable")]
        draws += [[order[rank] for rank in group] for group in dealt.tolist()]
    return draws


def _take(
    number: int, unused: np.ndarray, images: int, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The next `number` ranks, pass after pass over all images, and what is left of the last pass."""
    taken = unused[:number]
    unused = unused[number:]
    while len(taken) < number:
        fresh = chance.permutation(images)
        # What has been taken most waits for the end of the new pass: no rank comes more often than there are
        # groups to hold it.
        fresh = fresh[np.argsort(np.bincount(taken, minlength=images)[fresh], kind="stable")]
        lacking = number - len(taken)
        taken, unused = np.concatenate([taken, fresh[:lacking]]), fresh[lacking:]
    return taken, unused


def _deal(
    taken: np.ndarray, values: np.ndarray, groups: int, count: int, gap: float, chance: np.random.Generator
) -> np.ndarray:
    """The ranks as (groups, count). Sorted and dealt round by round, the gaps are as wide as they can be for
    all groups at once; then images are exchanged between random groups wherever that takes no group further
    below the gap, so that any groups that keep it may come out."""
    dealt = np.sort(taken).reshape(count, groups).T.copy()
    dealt = dealt[chance.permutation(groups)]
    half = groups // 2
    scores = np.minimum(_scores(dealt, values), gap)
    kept = bool((scores >= gap).all())
    # Where the gap can't be kept, hardly any exchange is possible.
    for _ in range((ROUNDS if kept else ROUNDS // 4) * count if half else 0):
        pairs = chance.permutation(groups)
        first, second = pairs[:half], pairs[half : 2 * half]
        there, here = chance.integers(count, size=half), chance.integers(count, size=half)
        one, other = dealt[first], dealt[second]
        rows = np.arange(half)
        one[rows, there], other[rows, here] = other[rows, here], one[rows, there]
        new, new_other = (np.minimum(_scores(each, values), gap) for each in (one, other))
        fits = np.minimum(new, new_other) >= np.minimum(scores[first], scores[second])
        if not kept:
            before = _spread(dealt[first], values, gap) + _spread(dealt[second], values, gap)
            fits &= _spread(one, values, gap) + _spread(other, values, gap) >= before
        dealt[first[fits]], dealt[second[fits]] = one[fits], other[fits]
        scores[first[fits]], scores[second[fits]] = new[fits], new_other[fits]
    return dealt


def _scores(dealt: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least difference between two values of each group; -1 where it has an image twice."""
    if dealt.shape[1] < 2:
        return np.zeros(len(dealt))
    ranks = np.sort(dealt, axis=1)
    least: np.ndarray = np.diff(values[ranks], axis=1).min(axis=1)
    return np.where((np.diff(ranks, axis=1) == 0).any(axis=1), -1.0, least)


def _spread(dealt: np.ndarray, values: np.ndarray, gap: float) -> np.ndarray:
    """The sum over all pairs of each group of their difference, up to the gap: where it can't be kept by all,
    what the groups still have of it."""
    chosen = values[dealt]
    apart: np.ndarray = np.minimum(np.abs(chosen[:, :, None] - chosen[:, None, :]), gap).sum(axis=(1, 2))
    return apart
