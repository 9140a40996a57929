"""The same image more than once: files with the same bytes, and files that look the same although their bytes
differ, because they were encoded anew or resized. In effect every pair is compared: the search skips only
pairs that can't be the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from rarl.data.collection import Collection, OrderedRow, Row
from rarl.data.images import THUMBNAIL, Examined
from rarl.data.sources import SHOWN

# Two images are the same if their thumbnails differ little on average and nowhere by much. Measured on
# photos (2,062 of hands, 100 x 100; 364 of blood, 640 x 480; 120 of lettuce, 256 x 256, in bursts) and on
# 1,797 digits of 28 x 28; in grey levels of 255, and the mean also over the thumbnail's standard deviation:
#
#                                          mean              one pixel         mean, relative
#                                          photos   digits   photos   digits   photos   digits
#   copies, the largest
#     JPEG 60, 75 then 60; WebP 80         0.60     1.86     4        9        0.021    0.023
#     double size, 224 x 224               0.27     1.63     2        8        0.009    0.020
#     half size                            0.25     2.60     2        16       0.009    0.030
#     half size, then JPEG 60              0.84     6.27     8        34       0.027    0.080
#     every other pixel of each line       3.31     16.0     24       72       0.106    0.182
#   other images, the smallest
#     nearest pair                         5.23     3.66     59       39       0.16     0.041
#     one scene, the microscope refocused  2.16              10                0.11
#     a tenth of each side covered         0.20     1.0      19       159      (medians)
#
# The mean alone would take two photos of one crowd or one dish for the same, since a counted object is small.
# All copies are found but those of the last row and digits of half their size, and no pair of other images
# is.
MEAN = 2.0
LARGEST_DIFFERENCE = 10
# A share of the thumbnail's standard deviation, since pages and skies are all alike on average.
RELATIVE = 0.05
# Below this standard deviation, a thumbnail says nothing about its image.
BLAND = 1.0

_BLOCKS = 4  # a side of the thumbnail, for the search
_PIECE = 4096  # images searched for at once, which bounds the candidates in memory


def identical_views(thumbnails: Sequence[bytes | None]) -> list[list[int]]:
    """Groups of two or more indices whose images look the same, ascending, in the order of their first.

    If one image is the same as a second, and that as a third, the three are one group. 250,000 thumbnails
    take well under a minute.

    Args:
        thumbnails: `Examined.thumbnail` of each image. None equals no other, and neither does a bland one.
    """
    there = np.array([index for index, small in enumerate(thumbnails) if small is not None], dtype=np.int64)
    if len(there) < 2:
        return []
    joined = b"".join(small for small in thumbnails if small is not None)
    pixels = np.frombuffer(joined, dtype=np.uint8).reshape(len(there), THUMBNAIL**2)
    contrast = np.concatenate(
        [pixels[i : i + _PIECE].std(axis=1, dtype=np.float32) for i in range(0, len(pixels), _PIECE)]
    )
    seen = contrast >= BLAND
    there, pixels, contrast = there[seen], pixels[seen], contrast[seen]
    # Equal thumbnails are searched for once: a thousand copies would be half a million pairs.
    rows = np.ascontiguousarray(pixels).view(np.dtype((np.void, THUMBNAIL**2))).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    pairs = _same_pairs(pixels[first], contrast[first])
    graph = coo_array((np.ones(len(pairs), dtype=bool), pairs.T), shape=(len(first), len(first)))
    labels = connected_components(graph, directed=False)[1][inverse]
    return _labelled_groups(there, labels)


def _same_pairs(pixels: NDArray[np.uint8], contrast: NDArray[np.float32]) -> NDArray[np.int64]:
    """All pairs of thumbnails that are the same, as an array of indices (pairs, 2)."""
    found = [np.empty((0, 2), dtype=np.int64)]
    if len(pixels) == 0:
        return found[0]
    traits = _traits(pixels)
    tree = cKDTree(traits)
    limit = np.minimum(MEAN, RELATIVE * contrast)
    for start in range(0, len(pixels), _PIECE):
        stop = min(start + _PIECE, len(pixels))
        radius = limit[start:stop] + 1e-3  # room for rounding in the traits
        near = tree.query_ball_point(traits[start:stop], radius, p=np.inf, workers=-1, return_sorted=False)
        left = np.repeat(np.arange(start, stop), [len(indices) for indices in near])
        right = np.concatenate([np.asarray(indices, dtype=np.int64) for indices in near])
        once = right > left
        found += _verified(pixels, limit, left[once], right[once])
    return np.concatenate(found)


def _verified(
    pixels: NDArray[np.uint8], limit: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    found = []
    for start in range(0, len(left), _PIECE * 16):
        one, other = left[start : start + _PIECE * 16], right[start : start + _PIECE * 16]
        apart = np.maximum(pixels[one], pixels[other]) - np.minimum(pixels[one], pixels[other])
        same = apart.mean(axis=1, dtype=np.float32) <= np.minimum(limit[one], limit[other])
        same &= apart.max(axis=1) <= LARGEST_DIFFERENCE
        found.append(np.column_stack([one[same], other[same]]))
    return found


def _traits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Each thumbnail as 16 means of its pixels with signs: all plus, left against right, and so on (Walsh
    functions). Between two thumbnails, no trait differs by more than their pixels do on average. Some traits
    vary much among images, and a tree that cuts along those finds neighbours fast."""
    side = THUMBNAIL // _BLOCKS
    blocks = pixels.reshape(len(pixels), _BLOCKS, side, _BLOCKS, side).mean(axis=(2, 4), dtype=np.float32)
    signs = hadamard(_BLOCKS**2).astype(np.float32) / _BLOCKS**2
    return blocks.reshape(len(pixels), _BLOCKS**2) @ signs


def _labelled_groups(indices: NDArray[np.int64], labels: NDArray[np.int32]) -> list[list[int]]:
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [group.tolist() for group in np.split(indices[order], cuts) if len(group) > 1]
    return sorted(groups)


# ── in a collection ──────────────────────────────────────────────────────────────────────────────────────

Place = tuple[str, Row]
"""A row with the name of its split."""


@dataclass(frozen=True)
class Repeated:
    """Groups of files that show one image. Each file is given as "split/file_name".

    Attributes:
        leaks: groups that are in more than one split.
        conflicts: groups with different values for one rule, given as "split/file_name (value)".
        harmless: groups within one split and with one value.
    """

    leaks: list[list[str]]
    conflicts: list[list[str]]
    harmless: list[list[str]]


def repeated(collection: Collection, examined: Mapping[str, Examined]) -> tuple[Repeated, Repeated]:
    """The byte-identical images, and those that look the same.

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
    """A line for each kind of fault."""
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
    """The first few of many texts, and their number."""
    every = list(names)
    more = f", ... ({len(every)} in all)" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def file_in_collection(collection: Collection, row: Row) -> str:
    """The file of a row, as its place in the collection: "test/a.png"."""
    root = collection.root
    return row.path.relative_to(root).as_posix() if row.path.is_relative_to(root) else str(row.path)


def _sorted_out(collection: Collection, groups: Iterable[Sequence[Place]]) -> Repeated:
    found = Repeated([], [], [])
    for group in groups:
        names: dict[str | None, set[str]] = {}
        values: dict[str | None, set[float]] = {}
        for _, row in group:
            names.setdefault(row.rule, set()).add(file_in_collection(collection, row))
            if not isinstance(row, OrderedRow):
                values.setdefault(row.rule, set()).add(row.value)
        apart = [rule for rule, several in values.items() if len(several) > 1]
        files = list(dict.fromkeys(file_in_collection(collection, row) for _, row in group))
        is_leak = len({split for split, _ in group}) > 1
        if is_leak:
            found.leaks.append(files)
        if apart:
            told = [
                f"{file_in_collection(collection, row)} ({row.value:g})"
                for _, row in group
                if row.rule in apart
            ]
            found.conflicts.append(list(dict.fromkeys(told)))
        # One file may stand in several rows, with different rules or in different orders.
        if not is_leak and not apart and any(len(several) > 1 for several in names.values()):
            found.harmless.append(files)
    return found


def _joined(names: Sequence[str]) -> str:
    more = f" = {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return " = ".join(names[:SHOWN]) + more
