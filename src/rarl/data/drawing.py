"""Which values stand together in a group: endless draws of indices into a list of values, as distinct as the
numbers of images allow and with every image's first turn before any image's second. Which image of a value is
taken, and in what order a group shows its images, is decided in groups.py."""

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Sequence


def value_draws(sizes: Sequence[int], count: int, generator: random.Random) -> Iterator[list[int]]:
    """Endless draws of `count` indices into `sizes`, the number of images of each value (each at least 1).

    With at least `count` values every draw has distinct ones. With fewer, every draw uses the values as
    evenly as possible, and none more often than it has images. `count` must not exceed the sum of `sizes`.
    """
    return (_distinct if len(sizes) >= count else _even)(sizes, count, generator)


def _even(sizes: Sequence[int], count: int, generator: random.Random) -> Iterator[list[int]]:
    """Fewer values than places: each value `level` times or, where it has fewer images, with all of them; the
    places that remain go one each to the values whose images have had the fewest turns."""
    level = max(n for n in range(count + 1) if sum(min(size, n) for size in sizes) <= count)
    base = [index for index, size in enumerate(sizes) for _ in range(min(size, level))]
    larger = [index for index, size in enumerate(sizes) if size > level]
    used = [0] * len(sizes)
    while True:
        for index in base:
            used[index] += 1
        generator.shuffle(larger)
        extra = sorted(larger, key=lambda index: used[index] / sizes[index])[: count - len(base)]
        for index in extra:
            used[index] += 1
        yield base + extra


def _distinct(sizes: Sequence[int], count: int, generator: random.Random) -> Iterator[list[int]]:
    """Passes over the images. A pass is planned so that it comes out even: the images that will be left over
    when the rest is cut into groups of `count` are set aside first and begin the next pass's first group."""
    begun: list[int] = []
    whole = _bag(plan(sizes, count)[0])
    while True:
        left = list(sizes)
        if begun:
            while len(begun) < count:
                index = whole[int(generator.random() * len(whole))]
                if index not in begun:
                    begun.append(index)
                    left[index] -= 1
            yield begun
        turns, groups = plan(left, count)
        begun = _most(turns, sum(turns) - groups * count, generator)
        for index in begun:
            turns[index] -= 1
        yield from _pass(turns, groups, count, generator)


def plan(left: Sequence[int], count: int) -> tuple[list[int], int]:
    """How many turns each index has in one pass, and how many whole groups they make.

    No index can have more turns than there are groups (and one in the group that is begun): the rest of a
    value that is too common waits for the next pass. At most `count` - 1 turns are left over by the groups.
    """
    histogram = Counter(left)
    low, high = 0, sum(left) // count
    while low < high:
        middle = (low + high + 1) // 2
        enough = sum(min(size, middle) * number for size, number in histogram.items()) >= middle * count
        low, high = (middle, high) if enough else (low, middle - 1)
    return [min(size, low + 1) for size in left], low


def _most(turns: Sequence[int], number: int, generator: random.Random) -> list[int]:
    """The `number` indices with the most turns; chance decides between equals."""
    order = range(len(turns)) if number else ()
    return heapq.nlargest(number, order, key=lambda index: (turns[index], generator.random()))


def _bag(turns: Sequence[int]) -> list[int]:
    """Every index as often as it has turns."""
    return [index for index, number in enumerate(turns) for _ in range(number)]


def _pass(turns: list[int], groups: int, count: int, generator: random.Random) -> Iterator[list[int]]:
    """`groups` draws of distinct indices that use up `turns`: sum `groups * count`, none above `groups`.

    An index with as many turns left as there are groups must be in each of them; the others are drawn at
    random in proportion to their turns. Sum and bound then hold for the groups that remain, so every draw
    succeeds. Forced entries aside, a pick from the bag is new to the group with probability 1 / `count` or
    more, so the work grows with the number of images and not with its square.
    """
    bag = _bag(turns)
    by_turns: dict[int, list[int]] = {}
    for index, number in enumerate(turns):
        by_turns.setdefault(number, []).append(index)
    forced: dict[
        int, None
    ] = {}  # dicts are sets that keep their order, so a seed gives the same draws anywhere
    for remaining in range(groups, 0, -1):
        # The lists also hold indices that have moved on since.
        forced |= dict.fromkeys(index for index in by_turns.pop(remaining, ()) if turns[index] == remaining)
        drawn = dict(forced)
        while len(drawn) < count:
            place = int(generator.random() * len(bag))
            index = bag[place]
            if index not in drawn:
                drawn[index] = None
                turns[index] -= 1
                by_turns.setdefault(turns[index], []).append(index)
            elif index not in forced:
                continue
            # Taken, or forced from here to the end of the pass: either way out of the bag.
            bag[place] = bag[-1]
            bag.pop()
        yield list(drawn)
