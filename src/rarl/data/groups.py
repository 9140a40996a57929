"""Groups: the 1, 2, 4 or 8 images that one prompt carries. They are drawn with a seed, as distinct in value
as the images allow, saved by id, and turned into the `datasets.Dataset` that TRL's trainers read. Image files
are opened only when a row of it is read."""

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from rarl.data.collection import Row
from rarl.data.drawing import value_draws
from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.prompts import messages
from rarl.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class Group:
    """The images of one prompt, in the order in which it shows them; all rows have the same `rule`."""

    rows: tuple[Row, ...]

    @property
    def values(self) -> list[float]:
        """The true value of picture 1..N."""
        return [row.value for row in self.rows]

    @property
    def rule(self) -> str | None:
        """The rows' own rule, where they have one in place of the task's."""
        return self.rows[0].rule


def draw_groups(rows: Sequence[Row], count: int, number: int, seed: int | str) -> list[Group]:
    """`number` groups of `count` images; the same for the same rows, numbers and seed.

    Values are distinct within a group where there are `count` of them, and else used as evenly as possible,
    so a group of 2 or more has two levels where the images have two. Every image is used before any is used
    again; where a value is so common that distinct values forbid this, it still holds among the images of
    each value.

    Rows with different rules never share a group; each rule gets groups in proportion to its images. A rule
    with fewer images than `count` is left out, and so is, from groups of 2 or more, a rule whose images all
    have one value, unless there is no other.

    Raises:
        DataError: if there are fewer images (of any one rule) than `count`.
    """
    generator = random.Random(f"{seed}:groups:{count}")
    by_rule: dict[str | None, dict[float, list[Row]]] = {}
    for row in rows:
        by_rule.setdefault(row.rule, {}).setdefault(row.value, []).append(row)
    pools = [list(pool.values()) for pool in by_rule.values() if sum(map(len, pool.values())) >= count]
    if count < 1 or not pools:
        of_a_rule = " of any one rule" if len(by_rule) > 1 else ""
        most = max((sum(map(len, pool.values())) for pool in by_rule.values()), default=0)
        raise DataError(
            f"a group of {count} images can't be drawn from {most} images{of_a_rule}; "
            "add images to the split or use smaller groups"
        )
    if count > 1 and any(len(pool) > 1 for pool in pools):
        pools = [pool for pool in pools if len(pool) > 1]
    draws = [_pool_groups(pool, count, generator) for pool in pools]
    # Every rule gets groups in proportion to its images.
    turns = [i for i, pool in enumerate(pools) for _ in range(max(1, sum(map(len, pool)) // count))]
    groups: list[Group] = []
    while len(groups) < number:
        generator.shuffle(turns)
        groups.extend(next(draws[i]) for i in turns[: number - len(groups)])
    return groups


def _pool_groups(pool: list[list[Row]], count: int, generator: random.Random) -> Iterator[Group]:
    """Endless groups from the images of one rule, one list for each value; it shuffles the lists in place."""
    turns = [0] * len(pool)
    for indices in value_draws([len(images) for images in pool], count, generator):
        drawn: list[Row] = []
        for index in indices:
            images = pool[index]
            turn = turns[index]
            if turn == 0 and len(images) > 1:
                generator.shuffle(images)
                # An image that this group holds already waits for the end of the new round.
                held = [row for row in drawn if row.value == images[0].value]
                if held:
                    images[:] = [row for row in images if row not in held] + held
            turns[index] = (turn + 1) % len(images)
            drawn.append(images[turn])
        generator.shuffle(drawn)
        yield Group(tuple(drawn))


def training_groups(
    rows: Sequence[Row], images: Sequence[int], prompts_per_step: int, steps: int, seed: int | str
) -> list[Group]:
    """`steps * prompts_per_step` groups, step after step; all those of one step have one number of images.

    The numbers follow shuffled rounds of `images`, so each is used equally often. Each draws from all the
    rows by itself: its groups use every image before any is used again.

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


def save_groups(groups: Iterable[Group], path: str | os.PathLike[str]) -> None:
    """Writes the groups to a JSON file as lists of ids, one group a line; it appears when whole."""
    lines = ",\n".join(json.dumps([row.id for row in group.rows]) for group in groups)
    partial = f"{os.fspath(path)}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(f"[\n{lines}\n]\n")
    os.replace(partial, path)


def load_groups(path: str | os.PathLike[str], rows: Iterable[Row]) -> list[Group]:
    """The groups that `save_groups` wrote, as groups of `rows`.

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
    by_id = {row.id: row for row in rows}
    groups = []
    for number, ids in enumerate(saved if isinstance(saved, list) else [saved], 1):
        if not isinstance(ids, list) or not ids:
            raise DataError(f"{path}: group {number} must be a list of ids, not {ids!r}")
        unknown = [name for name in ids if not isinstance(name, str) or name not in by_id]
        if unknown:
            raise DataError(
                f"{path}: group {number}: the split has no image with id {unknown[0]!r}; "
                "the groups belong to another collection or split"
            )
        groups.append(Group(tuple(by_id[name] for name in ids)))
    return groups


class _Reading:
    """Adds the prompt and the images to rows as they are read. It holds no rows and is quick to pickle.

    The images of the last call are kept for the next: TRL 1.16 reads a batch again for each of the
    micro-batches that it is cut into.
    """

    def __init__(self, value_range: str) -> None:
        self.value_range = value_range
        self._opened: dict[str, Image.Image] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reading, (self.value_range,)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "paths" not in batch or "rule" not in batch:  # one column was asked for by name
            return batch
        opened: dict[str, Image.Image] = {}
        for path in (path for paths in batch["paths"] for path in paths):
            if path not in opened:
                opened[path] = self._opened.get(path) or open_image(path)
        self._opened = opened
        prompts = [
            messages(len(p), r, self.value_range) for p, r in zip(batch["paths"], batch["rule"], strict=True)
        ]
        return {
            **batch,
            "prompt": prompts,
            "images": [[opened[p] for p in paths] for paths in batch["paths"]],
        }


def to_dataset(
    groups: Sequence[Group], task: Task, columns: Mapping[str, Sequence[Any]] | None = None
) -> "Dataset":
    """One row for each group, in memory, as TRL's trainers and the rewards of rewards.py read them.

    Columns: `values` (list of float, picture 1..N), `delta` (float), `range` ([low, high]), `step` (float),
    `rule` (text), `ids`, `paths`, and those of `columns`. Reading rows adds `prompt` (chat messages) and
    `images` (RGB images; each file is opened once for all rows read together).

    Raises:
        DataError: when a row is read whose image can't be opened.
    """
    from datasets import Dataset  # slow to import

    size = len(groups)
    fields: dict[str, list[Any]] = {
        "values": [group.values for group in groups],
        "delta": [float(task.delta)] * size,
        "range": [[float(task.low), float(task.high)]] * size,
        "step": [float(task.step)] * size,
        "rule": [task.rule if group.rule is None else group.rule for group in groups],
        "ids": [[row.id for row in group.rows] for group in groups],
        "paths": [[str(row.path) for row in group.rows] for group in groups],
    }
    fields |= {name: list(column) for name, column in (columns or {}).items()}
    return Dataset.from_dict(fields).with_transform(_Reading(task.value_range))
