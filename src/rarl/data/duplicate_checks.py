"""What is wrong with images that a collection has more than once: in two splits, which lets a model learn the
test by heart, or with two values for one image. Each becomes a line that names files and the mend."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rarl.data.collection import Collection, Row
from rarl.data.duplicates import identical_views
from rarl.data.examination import Examined
from rarl.data.sources import SHOWN

Place = tuple[str, Row]
"""A row with the name of its split."""


@dataclass(frozen=True)
class Repeated:
    """Groups of files that show one image, each file as "split/file_name".

    Attributes:
        leaks: groups in more than one split.
        conflicts: groups with different values for one rule, as "split/file_name (value)".
        harmless: groups within one split and with one value.
    """

    leaks: list[list[str]]
    conflicts: list[list[str]]
    harmless: list[list[str]]


def repeated(collection: Collection, examined: Mapping[str, Examined]) -> tuple[Repeated, Repeated]:
    """The byte-identical images, and those that only look the same.

    Args:
        examined: what each file is, by its path.
    """
    rows: dict[bytes, list[Place]] = {}
    for split, members in collection.splits.items():
        for row in members:
            rows.setdefault(examined[str(row.path)].digest, []).append((split, row))
    first: dict[bytes, Examined] = {}
    for file in examined.values():
        first.setdefault(file.digest, file)
    rows.pop(b"", None)
    first.pop(b"", None)
    digests = list(first)
    same = _sorted_out(collection, rows.values())
    views = identical_views([file.thumbnail for file in first.values()])
    alike = ([place for index in group for place in rows[digests[index]]] for group in views)
    return same, _sorted_out(collection, alike)


def repetition_faults(same: Repeated, alike: Repeated) -> list[str]:
    """A line for each kind of fault; none for what is harmless."""
    drop = "rarl data prepare ... --drop-duplicates makes the collection without them"
    look = "look at them, and remove the lines of all but one from metadata.jsonl"
    kinds = [
        (same.leaks, "byte-identical images are in more than one split", drop),
        (same.conflicts, "byte-identical images have different values", drop),
        (alike.leaks, "images that look the same are in more than one split", look),
        (alike.conflicts, "images that look the same have different values", look),
    ]
    return [f"{what}: {listed(map(_joined, groups))}; {mend}" for groups, what, mend in kinds if groups]


def repetition_notes(same: Repeated, alike: Repeated) -> list[str]:
    """A line for each kind of repetition that is no fault."""
    kinds = [(same.harmless, "byte-identical images"), (alike.harmless, "images that look the same")]
    return [
        f"{what} within a split, with one value: {listed(map(_joined, groups))}"
        for groups, what in kinds
        if groups
    ]


def listed(names: Iterable[str]) -> str:
    """The first few of many texts, and how many there are."""
    every = list(names)
    more = f", ... ({len(every)} in all)" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def shown(collection: Collection, row: Row) -> str:
    """The file as the collection has it, such as "test/a.png"."""
    root = collection.root
    return row.path.relative_to(root).as_posix() if row.path.is_relative_to(root) else str(row.path)


def _sorted_out(collection: Collection, groups: Iterable[Sequence[Place]]) -> Repeated:
    found = Repeated([], [], [])
    for group in groups:
        names: dict[str | None, set[str]] = {}
        values: dict[str | None, set[float]] = {}
        for _, row in group:
            names.setdefault(row.rule, set()).add(shown(collection, row))
            if row.order is None:
                values.setdefault(row.rule, set()).add(row.value)
        apart = [rule for rule, several in values.items() if len(several) > 1]
        files = list(dict.fromkeys(shown(collection, row) for _, row in group))
        is_leak = len({split for split, _ in group}) > 1
        if is_leak:
            found.leaks.append(files)
        if apart:
            told = [f"{shown(collection, row)} ({row.value:g})" for _, row in group if row.rule in apart]
            found.conflicts.append(list(dict.fromkeys(told)))
        # One file may stand in several rows, with different rules or in different orders.
        if not is_leak and not apart and any(len(several) > 1 for several in names.values()):
            found.harmless.append(files)
    return found


def _joined(names: Sequence[str]) -> str:
    more = f" = {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return " = ".join(names[:SHOWN]) + more
