"""Groups whose values keep a distance: images dealt into groups so that any two values of a group differ by a
minimal gap, as far as the images allow. The gap may fall or rise from the first group to the last, which is a
curriculum from easy to hard. Not in the paper."""

import random
from collections.abc import Sequence

import numpy as np

from rarl.data.drawing import plan

Gap = tuple[float, float]
"""The minimal gap of the first groups and of the last, in units of the value."""

PHASES = 20  # the gap changes in so many steps from the first groups to the last
GROUPS_A_PHASE = 16  # or in fewer: with fewer groups there would be little choice
ROUNDS = 16  # of proposed exchanges for each image


def gap_draws(
    values: Sequence[float], count: int, number: int, gap: Gap, generator: random.Random
) -> list[list[int]]:
    """`number` draws of `count` indices into `values`, in the order in which they are to be used.

    Images are taken pass after pass over all of them, but for fewer than `count` that come in the next: their
    numbers of turns differ by one at most, and by two while a pass goes on. No draw has an image twice. A gap
    that all draws of a pass can keep is kept by all draws; where it can't be, the narrowest draw of a pass or
    phase is as wide as it can be. A gap that changes puts the draws of each phase and pass in its direction
    too. Of a value so common that groups would have it twice, some images wait for later passes.
    `count` must not exceed the number of values.
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
    passes = _Passes(ranked, count, chance)
    draws: list[list[int]] = []
    for groups, width in zip(np.diff(ends).tolist(), widths.tolist(), strict=True):
        begun = min(groups, passes.left)
        whole, last = divmod(groups - begun, passes.size)
        for times, size in ((1, begun), (whole, passes.size), (1, last)):
            taken = np.asarray([passes.take(size) for _ in range(times)], dtype=np.int64)
            dealt = _deal(taken.reshape(times, size * count), ranked, count, width, chance)
            if gap[0] != gap[1]:
                narrowest = _scores(dealt, ranked).reshape(times, size)
                narrowest = -narrowest if gap[0] > gap[1] else narrowest
                turns = np.argsort(narrowest, axis=1, kind="stable") + np.arange(times)[:, None] * size
                dealt = dealt[turns.ravel()]
            draws += [[order[rank] for rank in group] for group in dealt.tolist()]
    return draws


class _Passes:
    """The ranks of images, pass after pass of `size` groups: a pass has every image, but for the few that
    make no group, and but for some of a value so common that a group would have two: these wait."""

    def __init__(self, values: np.ndarray, count: int, chance: np.random.Generator) -> None:
        _, self._levels, sizes = np.unique(values, return_inverse=True, return_counts=True)
        groups = plan(sizes.tolist(), count)[1]
        # With fewer values than places in a group equal ones can't be kept apart, and no image waits.
        self.size = groups or len(values) // count
        self._most = groups or len(values)
        self._count, self._chance = count, chance
        self._pool = np.empty(0, dtype=np.int64)
        self._turns = np.zeros(len(values), dtype=np.int64)

    @property
    def left(self) -> int:
        """How many groups the pass that has begun has left."""
        return len(self._pool) // self._count

    def take(self, groups: int) -> np.ndarray:
        """The ranks for so many groups, of a new pass if none is left of the last: `left` is not exceeded.

        They are taken so that what could be dealt with a gap still can, those taken and those that are left:
        as the groups of the pass that are made by dealing them sorted.
        """
        if groups and not self.left:
            self._begin()
        if groups == self.left:
            taken, self._pool = self._pool, self._pool[:0]
            return taken
        columns = self._chance.permutation(self.left)
        dealt = np.sort(self._pool).reshape(self._count, self.left)[:, columns]
        self._pool = dealt[:, groups:].ravel()
        return dealt[:, :groups].ravel()

    def _begin(self) -> None:
        order = self._chance.permutation(len(self._turns))
        order = order[np.argsort(self._turns[order], kind="stable")]
        # The place of each image among those of its value; fewest turns first.
        by_level = np.argsort(self._levels[order], kind="stable")
        levels = self._levels[order][by_level]
        place = np.empty(len(order), dtype=np.int64)
        place[by_level] = np.arange(len(order)) - np.searchsorted(levels, levels)
        self._pool = order[place < self._most][: self.size * self._count]
        self._turns[self._pool] += 1


def _deal(
    taken: np.ndarray, values: np.ndarray, count: int, gap: float, chance: np.random.Generator
) -> np.ndarray:
    """The ranks of each row, a pass, as groups, all in one array (groups, count). Sorted and dealt round by
    round, the gaps are as wide as they can be for all groups of a pass at once; then images are exchanged
    between random groups of it wherever that takes no group further below the gap, so that any groups that
    keep it may come out."""
    passes, size = len(taken), taken.shape[1] // count
    dealt = np.sort(taken, axis=1).reshape(passes, count, size).transpose(0, 2, 1).reshape(-1, count)
    starts = np.arange(passes)[:, None] * size

    def shuffled() -> np.ndarray:
        return np.argsort(chance.random((passes, size)), axis=1) + starts

    dealt = dealt[shuffled().ravel()]
    half = size // 2
    scores = np.minimum(_scores(dealt, values), gap)
    kept = bool((scores >= gap).all())
    # Where the gap can't be kept, hardly any exchange is possible.
    for _ in range((ROUNDS if kept else ROUNDS // 4) * count if half else 0):
        pairs = shuffled()
        first, second = pairs[:, :half].ravel(), pairs[:, half : 2 * half].ravel()
        there, here = chance.integers(count, size=len(first)), chance.integers(count, size=len(first))
        one, other = dealt[first], dealt[second]
        rows = np.arange(len(first))
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
    """The least difference between two values of each group; 0 where it has one image."""
    if dealt.shape[1] < 2:
        return np.zeros(len(dealt))
    least: np.ndarray = np.diff(values[np.sort(dealt, axis=1)], axis=1).min(axis=1)
    return least


def _spread(dealt: np.ndarray, values: np.ndarray, gap: float) -> np.ndarray:
    """What each group has of the gap where not all can keep it: the sum over all pairs of their difference,
    up to the gap. A pair of equal values outweighs all that, so that few values are used as evenly as can
    be."""
    chosen = values[dealt]
    apart = np.abs(chosen[:, :, None] - chosen[:, None, :])
    worth = np.where(apart == 0, -(dealt.shape[1] ** 2) * gap, np.minimum(apart, gap))
    total: np.ndarray = worth.sum(axis=(1, 2))
    return total
