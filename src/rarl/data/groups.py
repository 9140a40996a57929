"""Groups: the images that one prompt carries, 1, 2, 4 or 8 in the paper. They are drawn with a seed, as
distinct in value as the images allow, and saved by id. No image is opened here; `rarl.data.dataset` turns
groups into the rows that a trainer reads."""

import heapq
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarl.data.collection import OrderedRow, Pool, Row
from rarl.errors import DataError
from rarl.files import write_text


@dataclass(frozen=True, slots=True)
class Group:
    """The images of one prompt, in the order in which it shows them. All rows are of one pool: one rule and,
    where only orders are known, one order."""

    rows: tuple[Row, ...]

    @property
    def values(self) -> list[float]:
        """The true value of picture 1..N; where only orders are known, its place in the whole order."""
        return [row.value for row in self.rows]

    @property
    def truth(self) -> dict[str, list[float]] | dict[str, list[int]]:
        """What is known of picture 1..N, under the name of the column that the dataset has and the rewards
        read: `values`, or `order` (the place of each picture within the group, from 0)."""
        if not isinstance(self.rows[0], OrderedRow):
            return {"values": self.values}
        ascending = sorted(self.values)
        return {"order": [ascending.index(value) for value in self.values]}

    @property
    def rule(self) -> str | None:
        """The rows' own rule, if they have one in place of the task's."""
        return self.rows[0].rule


def draw_groups(rows: Sequence[Row], count: int, number: int, seed: int | str) -> list[Group]:
    """`number` groups of `count` images; the same for the same rows, numbers and seed.

    Within a group the values are distinct if there are `count` of them, and otherwise used as evenly as
    possible, so that a group of 2 or more always has two levels if the images have two. Every image is used
    before any is used again. If a value is too common for that, it still holds among the images of each
    value.

    Rows with different rules never share a group, and each rule gets groups in proportion to its images. A
    rule with fewer images than `count` is left out. From groups of 2 or more, a rule whose images all have
    one value is left out too, unless there is no other. Where only orders are known, the same holds for each
    order.

    Raises:
        DataError: if there are fewer images (of any one rule or order) than `count`.
    """
    pools, generator = _pools_to_draw(rows, count), random.Random(f"{seed}:groups:{count}")
    draws = [_pool_groups(pool, count, generator) for pool in pools]
    turns = _pool_turns(pools, count, generator)
    return [next(draws[next(turns)]) for _ in range(number)]


def disjoint_groups(rows: Sequence[Row], count: int, most: int, seed: int | str) -> list[Group]:
    """Groups of `count` images of which no two share an image: `most` of them, or as many as there are.

    They are those of `draw_groups`, as far as the images of a rule (or of an order) are new; the other rules
    then go on alone. So up to the first image that would be used again, the two functions draw the same. A
    value that is too common for all of its images to be used leaves some of them over.

    Returns:
        At least one group, if `most` is 1 or more.

    Raises:
        DataError: as `draw_groups`.
    """
    pools, generator = _pools_to_draw(rows, count), random.Random(f"{seed}:groups:{count}")
    draws = [_pool_groups(pool, count, generator) for pool in pools]
    turns = _pool_turns(pools, count, generator)
    groups: list[Group] = []
    # An image may stand in several orders, so what a pool has used is not all that is used.
    used: set[Path] = set()
    used_by_pool: list[set[Path]] = [set() for _ in pools]
    going_on = set(range(len(pools)))
    while going_on and len(groups) < most:
        pool = next(turns)
        if pool not in going_on:
            continue
        group = next(draws[pool])
        images = {row.path for row in group.rows}
        if images & used_by_pool[pool]:
            going_on.remove(pool)
            continue
        used_by_pool[pool] |= images
        if not images & used:
            used |= images
            groups.append(group)
    return groups


def _pools_to_draw(rows: Sequence[Row], count: int) -> list[list[list[Row]]]:
    """The rows of each pool that groups of `count` are drawn from, a list for each value.

    Raises:
        DataError: if there is none.
    """
    apart: dict[Pool, dict[float, list[Row]]] = {}
    for row in rows:
        apart.setdefault(row.pool, {}).setdefault(row.value, []).append(row)
    pools = [list(pool.values()) for pool in apart.values() if sum(map(len, pool.values())) >= count]
    if count < 1 or not pools:
        kind = "order" if rows and isinstance(rows[0], OrderedRow) else "rule"
        of_one = f" of any one {kind}" if len(apart) > 1 else ""
        most = max((sum(map(len, pool.values())) for pool in apart.values()), default=0)
        raise DataError(
            f"a group of {count} images can't be drawn from {most} images{of_one}; "
            "add images to the split or use smaller groups"
        )
    if count > 1 and any(len(pool) > 1 for pool in pools):
        pools = [pool for pool in pools if len(pool) > 1]
    return pools


def _pool_turns(pools: Sequence[list[list[Row]]], count: int, generator: random.Random) -> Iterator[int]:
    """Which pool the next group is of, without end: each has turns in proportion to its images."""
    turns = [place for place, pool in enumerate(pools) for _ in range(max(1, sum(map(len, pool)) // count))]
    while True:
        generator.shuffle(turns)
        yield from turns


def _pool_groups(pool: list[list[Row]], count: int, generator: random.Random) -> Iterator[Group]:
    """Endless groups from the images of one pool, a list for each value. The lists are shuffled in place."""
    turns = [0] * len(pool)
    for indices in value_draws([len(images) for images in pool], count, generator):
        drawn: list[Row] = []
        for index in indices:
            images = pool[index]
            turn = turns[index]
            if turn == 0 and len(images) > 1:
                generator.shuffle(images)
                # An image that is in this group already goes to the end of the new round.
                held = [row for row in drawn if row.value == images[0].value]
                if held:
                    images[:] = [row for row in images if row not in held] + held
            turns[index] = (turn + 1) % len(images)
            drawn.append(images[turn])
        generator.shuffle(drawn)
        yield Group(tuple(drawn))


def training_groups(
    rows: Sequence[Row],
    images: Sequence[int],
    prompts_per_step: int,
    steps: int,
    seed: int | str,
) -> list[Group]:
    """`steps * prompts_per_step` groups, step after step. All groups of one step have the same number of
    images.

    The numbers come in shuffled rounds of `images`, so that each is used equally often. Each number draws
    from all the rows on its own: its groups use every image before any is used again.

    Raises:
        DataError: as `draw_groups`.
    """
    generator = random.Random(f"{seed}:steps")
    counts: list[int] = []
    while images and len(counts) < steps:
        counts.extend(generator.sample(images, len(images)))
    del counts[steps:]
    draws = {
        count: iter(draw_groups(rows, count, counts.count(count) * prompts_per_step, seed))
        for count in set(counts)
    }
    return [next(draws[count]) for count in counts for _ in range(prompts_per_step)]


def tie_rate(groups: Sequence[Group]) -> float:
    """The share of groups in which at least two images have the same value; 0 for no groups."""
    return sum(len(set(group.values)) < len(group.rows) for group in groups) / max(1, len(groups))


def share_images(groups: Sequence[Group]) -> bool:
    """Whether an image is in two of the groups."""
    images = [row.path for group in groups for row in group.rows]
    return len(set(images)) < len(images)


def save_groups(groups: Iterable[Group], path: str | os.PathLike[str]) -> None:
    """Writes the groups to a JSON file as lists of ids, one group on each line. Where only orders are known,
    a line is `{"order": 3, "ids": [...]}`. The file appears when it is whole."""
    lines = ",\n".join(json.dumps(_group_entry(group)) for group in groups)
    write_text(Path(path), f"[\n{lines}\n]\n")


def _group_entry(group: Group) -> list[str] | dict[str, Any]:
    ids = [row.id for row in group.rows]
    order = group.rows[0].pool.order
    return ids if order is None else {"order": order, "ids": ids}


def load_groups(path: str | os.PathLike[str], rows: Iterable[Row]) -> list[Group]:
    """The groups that `save_groups` wrote, made of the given `rows`.

    Raises:
        DataError: if the file is missing or malformed, or names an id that no row has.
    """
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); remove it, and the groups are drawn again") from error
    # By order as well, since an image may stand in several.
    by_id: dict[str, dict[int | None, Row]] = {}
    for row in rows:
        by_id.setdefault(row.id, {})[row.pool.order] = row
    groups = []
    for number, entry in enumerate(saved if isinstance(saved, list) else [saved], 1):
        order, ids = (entry.get("order"), entry.get("ids")) if isinstance(entry, dict) else (None, entry)
        if not isinstance(ids, list) or not ids or not isinstance(order, int | None):
            raise DataError(f"{path}: group {number} must be a list of ids, not {entry!r}")
        unknown = [name for name in ids if not isinstance(name, str) or name not in by_id]
        if unknown:
            raise DataError(
                f"{path}: group {number}: the split has no image with id {unknown[0]!r}; "
                "the groups belong to another collection or split"
            )
        if any(order not in by_id[name] for name in ids):
            raise DataError(
                f"{path}: group {number}: not all of its images are in order {order}; the groups belong to "
                "other orders"
            )
        groups.append(Group(tuple(by_id[name][order] for name in ids)))
    return groups


def value_draws(sizes: Sequence[int], count: int, generator: random.Random) -> Iterator[list[int]]:
    """Endless draws of `count` indices into `sizes`, the numbers of images of each value (each at least 1).

    With at least `count` values, every draw has distinct ones. With fewer, every draw uses the values as
    evenly as possible, and none more often than it has images. `count` must not exceed the sum of `sizes`.
    """
    return (_distinct if len(sizes) >= count else _even)(sizes, count, generator)


def _even(sizes: Sequence[int], count: int, generator: random.Random) -> Iterator[list[int]]:
    """Draws where there are fewer values than places. Each value fills `level` places, or as many as it has
    images; the places that remain go, one each, to the values whose images have had the fewest turns."""
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
    """Draws of distinct values, pass after pass over the images. Each pass comes out even: the images that
    would be left over when the rest is cut into groups of `count` are set aside first, and begin the first
    group of the next pass."""
    begun: list[int] = []
    whole = _bag(_pass_plan(sizes, count)[0])
    while True:
        left = list(sizes)
        if begun:
            while len(begun) < count:
                index = whole[int(generator.random() * len(whole))]
                if index not in begun:
                    begun.append(index)
                    left[index] -= 1
            yield begun
        turns, groups = _pass_plan(left, count)
        begun = _most(turns, sum(turns) - groups * count, generator)
        for index in begun:
            turns[index] -= 1
        yield from _pass(turns, groups, count, generator)


def _pass_plan(left: Sequence[int], count: int) -> tuple[list[int], int]:
    """How many turns each index has in one pass, and how many whole groups these make.

    No index can have more turns than there are groups, plus one in the group that is begun: the rest of a
        value
    that is too common waits for the next pass. The groups leave over at most `count` - 1 turns.
    """
    histogram = Counter(left)
    low, high = 0, sum(left) // count
    while low < high:
        middle = (low + high + 1) // 2
        enough = sum(min(size, middle) * number for size, number in histogram.items()) >= middle * count
        low, high = (middle, high) if enough else (low, middle - 1)
    return [min(size, low + 1) for size in left], low


def _most(turns: Sequence[int], number: int, generator: random.Random) -> list[int]:
    """The `number` indices with the most turns; chance breaks ties."""
    order = range(len(turns)) if number else ()
    return heapq.nlargest(number, order, key=lambda index: (turns[index], generator.random()))


def _bag(turns: Sequence[int]) -> list[int]:
    """Every index as often as it has turns."""
    return [index for index, number in enumerate(turns) for _ in range(number)]


def _pass(turns: list[int], groups: int, count: int, generator: random.Random) -> Iterator[list[int]]:
    """`groups` draws of distinct indices that use up `turns`, whose sum is `groups * count` and none of which
    is above `groups`.

    An index with as many turns left as there are groups must be in each of them; the others are drawn at
    random in proportion to their turns. Sum and bound then hold for the groups that remain, so that every
    draw succeeds. Apart from forced entries, a pick from the bag is new to the group with probability 1 /
    `count` or more, so that the work grows with the number of images and not with its square.
    """
    bag = _bag(turns)
    by_turns: dict[int, list[int]] = {}
    for index, number in enumerate(turns):
        by_turns.setdefault(number, []).append(index)
    # A dict is a set that keeps its order, so that a seed gives the same draws on every machine.
    forced: dict[int, None] = {}
    for remaining in range(groups, 0, -1):
        # The lists still hold indices that have had turns since.
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
            # It was taken, or is forced from here to the end of the pass: either way it leaves the bag.
            bag[place] = bag[-1]
            bag.pop()
        yield list(drawn)
