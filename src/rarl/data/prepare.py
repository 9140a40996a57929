"""From a source to a collection. Every image is opened once, broken ones are left out, and the rest is
divided into splits and linked or copied. The collection appears when it is whole, with a `preparation.json`
that says how it was made and what was left out. Reading the source is up to `rarl.data.sources`."""

import json
import os
import random
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rarl.data import SHARES, SPLITS
from rarl.data.collection import Collection, load_collection
from rarl.data.images import Examined, Progress, check_shape, examine_all, identical_bytes
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source
from rarl.data.writing import Placing, new_collection, orders_of, uniform_columns, write_split
from rarl.errors import DataError

PREPARATION = "preparation.json"


@dataclass(frozen=True)
class Identical:
    """The byte-identical files of a source: `groups` groups of `files` files in all, of which `conflicting`
    groups have several values. `across` counts the files of test that another split has too."""

    groups: int
    files: int
    conflicting: int
    across: int


@dataclass(frozen=True)
class Prepared:
    """A collection as it was made. `placed` counts the image files that were linked, copied and made
    smaller."""

    collection: Collection
    left_out: Sequence[LeftOut]
    identical: Identical
    placed: Mapping[str, int]
    notes: Mapping[str, Any]


def prepare_collection(
    source: Source,
    out: str | os.PathLike[str],
    *,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    copy: bool = False,
    max_pixels: int | None = None,
    drop_duplicates: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Makes a source into the collection `out`.

    Byte-identical files go to one split, unless the source says otherwise. Images are hard links to the files
    of the source, or copies where the file system has no hard links.

    Args:
        shares: the share of each split; see `divide_by_seed`.
        copy: copy the files, so that the collection shares nothing with the source.
        max_pixels: larger images are made smaller, to at most this many pixels (width times height).
        drop_duplicates: of byte-identical files with one value keep one, that of test before validation
            before train; of those with several values keep none.
        progress: called with the number of images opened so far, and of all.

    Raises:
        DataError: if `out` exists or can't be written, a value is outside the task's range, or there are too
            few images. Nothing is left at `out` then.
    """
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already; remove it or choose another folder")
    for image in source.images:
        if source.orders is None:
            source.task.check(image.value, str(image.path))
    images, left_out, examined = _open_images(source, progress)
    kept: dict[str, str] = {}
    if drop_duplicates:
        same = identical_bytes([examined[image.path].digest for image in images])
        images, dropped, kept = _without_duplicates(images, same)
        left_out += dropped
    orders = source.orders
    if orders is not None:
        # What an order says about a file that was dropped holds for the one that was kept.
        orders = [list(dict.fromkeys(kept.get(name, name) for name in order)) for order in orders]
        orders = orders_of(orders, {image.id for image in images})
        images, unordered = _only_ordered(images, orders)
        left_out += unordered
    if not images:
        raise DataError(_no_images(left_out))
    same = identical_bytes([examined[image.path].digest for image in images])
    place = {image.id: index for index, image in enumerate(images)}
    ordered = [[place[name] for name in order] for order in orders or ()]
    task, notes = source.task, dict(source.notes)
    if source.settle is not None:
        task, found = source.settle([image.value for image in images])
        notes |= found
    try:
        split_of = divide_by_seed(images, [*same, *ordered], shares, seed)
    except DataError:
        if not ordered:
            raise
        # Some image is in many orders, and they all hang together: they are cut where the splits meet.
        split_of = divide_by_seed(images, same, shares, seed)
        notes["orders cut"] = _cut(ordered, split_of)
    if strips := [image.name for image in images if _is_refused(examined[image.path])]:
        notes["of a shape that models such as Qwen2.5-VL refuse"] = strips
    columns = uniform_columns(images, split_of, task.rule)
    identical = _identical(images, split_of, same)
    placing = Placing(copy, max_pixels, examined)
    with new_collection(out, task) as root:
        for split in _in_order(split_of):
            there = [index for index, given in enumerate(split_of) if given == split]
            rows = [(images[index], columns[index]) for index in there]
            write_split(root / split, rows, placing, orders)
        if any(image.split != split for image, split in zip(images, split_of, strict=True)):
            notes |= {"seed": seed, "parts": dict(shares)}
        if max_pixels is not None:
            notes["max_pixels"] = max_pixels
        report = {
            "notes": notes,
            "rows": {split: split_of.count(split) for split in _in_order(split_of)},
            "identical": asdict(identical),
            "placed": placing.counts,
            "left_out": [asdict(each) for each in left_out],
        }
        text = json.dumps(report, indent=1, ensure_ascii=True, default=str)
        (root / PREPARATION).write_text(text + "\n", encoding="utf-8")
        load_collection(root)  # a collection that would not load doesn't get its name
    return Prepared(load_collection(out), tuple(left_out), identical, placing.counts, notes)


def _open_images(
    source: Source, progress: Progress | None
) -> tuple[list[Labelled], list[LeftOut], dict[Path, Examined]]:
    """The images that can be opened, those left out, and what each file is."""
    paths = list(dict.fromkeys(image.path for image in source.images))
    examined = dict(zip(paths, examine_all(paths, progress), strict=True))
    images, left_out = [], list(source.left_out)
    told: set[Path] = set()
    for image in source.images:
        problem = examined[image.path].problem
        if problem is None:
            images.append(image)
        elif image.path not in told:
            told.add(image.path)
            left_out.append(LeftOut(image.name, problem.removeprefix(f"{image.path}: ")))
    return images, left_out, examined


def _is_refused(image: Examined) -> bool:
    if image.size is not None:
        try:
            check_shape(*image.size)
        except DataError:
            return True
    return False


def _cut(orders: Sequence[Sequence[int]], split_of: Sequence[str]) -> str:
    """How much of the orders is left after the cut: the pairs of images of one order that are in one
    split."""
    pairs = sum(len(order) * (len(order) - 1) // 2 for order in orders)
    sizes = (Counter(split_of[index] for index in order).values() for order in orders)
    left = sum(size * (size - 1) // 2 for order in sizes for size in order)
    return f"they all hang together; {left:,} of {pairs:,} pairs of images are in one part"


def _only_ordered(
    images: Sequence[Labelled], orders: Sequence[Sequence[str]]
) -> tuple[list[Labelled], list[LeftOut]]:
    ordered = {name for order in orders for name in order}
    reason = "in no order with another image that is there"
    return (
        [image for image in images if image.id in ordered],
        [LeftOut(image.name, reason) for image in images if image.id not in ordered],
    )


def _without_duplicates(
    images: Sequence[Labelled], same: Sequence[Sequence[int]]
) -> tuple[list[Labelled], list[LeftOut], dict[str, str]]:
    """The images that remain, those that don't, and for the id of each dropped image the one kept in its
    place."""
    rank = {"test": 0, "validation": 1}
    dropped: dict[int, str] = {}
    instead: dict[str, str] = {}
    for group in _by_rule(images, same):
        if len({images[index].value for index in group}) > 1:
            values = ", ".join(f"{images[index].name} {images[index].value:g}" for index in group)
            dropped |= dict.fromkeys(group, f"byte-identical files with several values: {values}")
        else:
            kept = min(group, key=lambda index: (rank.get(images[index].split or "", 2), index))
            dropped |= {index: f"byte-identical to {images[kept].name}" for index in group if index != kept}
            instead |= {images[index].id: images[kept].id for index in group if index != kept}
    remaining = [image for index, image in enumerate(images) if index not in dropped]
    left_out = [LeftOut(images[index].id, reason) for index, reason in sorted(dropped.items())]
    return remaining, left_out, instead


def _by_rule(images: Sequence[Labelled], same: Sequence[Sequence[int]]) -> list[list[int]]:
    """The groups of byte-identical files, cut by rule; those of one row are left out."""
    groups = []
    for group in same:
        rules: dict[str | None, list[int]] = {}
        for index in group:
            rules.setdefault(images[index].rule, []).append(index)
        groups += [found for found in rules.values() if len(found) > 1]
    return groups


def _identical(
    images: Sequence[Labelled], split_of: Sequence[str], same: Sequence[Sequence[int]]
) -> Identical:
    groups = _by_rule(images, same)
    mixed = [group for group in groups if len({split_of[index] for index in group}) > 1]
    return Identical(
        groups=len(groups),
        files=sum(map(len, groups)),
        conflicting=sum(len({images[index].value for index in group}) > 1 for group in groups),
        across=sum(split_of[index] == "test" for group in mixed for index in group),
    )


def _no_images(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return "the source has no images; check its path"
    return (
        f"none of the source's images can be used; {len(left_out)} were left out, the first being "
        f"{left_out[0].name}: {left_out[0].reason}"
    )


def _in_order(split_of: Sequence[str]) -> list[str]:
    return sorted(set(split_of), key=lambda name: (SPLITS.index(name) if name in SPLITS else 3, name))


# ── seeded splits ──────────────────────────────────────────────────────────────────────────────────────


def divide_by_seed(
    images: Sequence[Labelled],
    together: Iterable[Sequence[int]],
    shares: Mapping[str, float],
    seed: int,
) -> list[str]:
    """The split of each image.

    If no image has a split yet, all are divided. If some have, the others belong to train, and the splits
    that no image has are taken out of train: if no list gives validation, it is a share of train.

    Args:
        together: indices that must go to one split, such as those of byte-identical files.
        shares: the share of each split.

    Raises:
        DataError: if a split would be empty.
    """
    given = {image.split for image in images if image.split is not None}
    names = ["train", *(name for name in shares if name not in given and name != "train")]
    units = _units(len(images), together)
    # If lists put a unit into several splits, or into one other than train, its images stay where they are.
    open_units = [unit for unit in units if all(images[index].split in (None, "train") for index in unit)]
    result = [image.split or "train" for image in images]
    generator = random.Random(f"{seed}:parts")
    generator.shuffle(open_units)
    # The largest first: those that follow can make up for it.
    open_units.sort(key=lambda unit: (images[unit[0]].value, -len(unit)))
    whole = sum(shares.get(name, 0.0) for name in names)
    lacking = dict.fromkeys(names, 0.0)
    for unit in open_units if len(names) > 1 else ():
        for name in names:
            lacking[name] += len(unit) * shares.get(name, 0.0) / whole
        # The split that lacks most; chance breaks ties.
        most = max(names, key=lambda name: (round(lacking[name], 9), generator.random()))
        lacking[most] -= len(unit)
        for index in unit:
            result[index] = most
    for name in names:
        if name not in result:
            raise DataError(
                f"none of the {len(images)} images comes into {name}: they are too few, or belong together; "
                "give more images, larger shares by --parts, or splits of your own"
            )
    return result


def _units(number: int, together: Iterable[Sequence[int]]) -> list[list[int]]:
    """Sets of indices, ascending, that one or several groups of `together` connect."""
    edges = [(group[0], other) for group in together for other in group[1:]]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_array(([True] * len(edges), (rows, columns)), shape=(number, number))
    units: dict[int, list[int]] = {}
    for index, label in enumerate(connected_components(graph, directed=False)[1].tolist()):
        units.setdefault(label, []).append(index)
    return list(units.values())


# ── what is said of it ─────────────────────────────────────────────────────────────────────────────────


def preparation_lines(prepared: Prepared, out: Path) -> list[str]:
    """What the user should know at once; the rest is in `preparation.json`."""
    splits = prepared.collection.splits
    # An image in several orders, or with several rules, counts once.
    counts = {split: len({row.path for row in rows}) for split, rows in splits.items()}
    rows = sum(map(len, splits.values()))
    task = prepared.collection.task
    placed = ", ".join(f"{number:,} {how}" for how, number in prepared.placed.items() if number)
    lines = [
        f"wrote {out}: {', '.join(f'{split} {number:,}' for split, number in counts.items())}"
        + (f" (images; {rows:,} rows)" if rows > sum(counts.values()) else ""),
        f"  {task.rule}: {task.value_range}, step {task.step:g}, delta {task.delta:g}, metric {task.metric}",
        *(
            f"  {_printable(key.replace('_', ' '))}: {_printable(_note_text(value))}"
            for key, value in prepared.notes.items()
        ),
        f"  image files: {placed}",
    ]
    same = prepared.identical
    if same.groups:
        lines.append(
            f"  byte-identical: {same.files:,} files in {same.groups:,} groups, {same.conflicting:,} of "
            f"them with several values; {same.across:,} of test are in another split too "
            "(--drop-duplicates leaves them out)"
        )
    if prepared.left_out:
        lines.append(f"  left out: {len(prepared.left_out):,}")
        lines += [
            f"    {_printable(each.name)}: {_printable(each.reason)}" for each in prepared.left_out[:SHOWN]
        ]
        if (more := len(prepared.left_out) - SHOWN) > 0:
            lines.append(f"    and {more:,} more, all of them in {out / PREPARATION}")
    return [*lines, f"look at it with: {shlex.join(['rarl', 'data', 'check', str(out)])}"]


def _printable(text: str) -> str:
    """A stranger's text as part of a line: characters that a terminal would obey or can't show are
    escaped."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def _note_text(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(_note_text, value[:SHOWN]))
        return f"{shown} and {len(value) - SHOWN:,} more" if len(value) > SHOWN else shown or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_note_text(each)}" for key, each in value.items())
    return f"{value:.15g}" if isinstance(value, float) else str(value)
