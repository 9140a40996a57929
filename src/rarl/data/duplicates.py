"""The same image more than once: files with the same bytes, and files that show the same although their bytes
differ, for they were encoded anew or resized. Every pair is compared, in effect: the search leaves out only
pairs that can't be the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from rarl.data.examination import THUMBNAIL

# Two images are the same if their thumbnails differ by little on average and nowhere by much. Measured on
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
# So the mean alone would call two photos of one crowd or one dish the same: a counted object is small. Of the
# copies all are found but those of the last row and digits of half their size; of other images no pair is.
MEAN = 2.0
LARGEST = 10
# A share of the thumbnail's standard deviation: pages and skies are all alike on average.
RELATIVE = 0.05
# Below this standard deviation a thumbnail says nothing of its image.
BLAND = 1.0

_BLOCKS = 4  # a side of the thumbnail, for the search
_PIECE = 4096  # images asked for at once; bounds the candidates in memory


def identical_bytes(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two or more indices with the same digest, ascending; an empty digest is equal to none."""
    places: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        if digest:
            places.setdefault(digest, []).append(index)
    return [group for group in places.values() if len(group) > 1]


def identical_views(thumbnails: Sequence[bytes | None]) -> list[list[int]]:
    """Groups of two or more indices whose images show the same, ascending, in the order of their first.

    If the first is the same as the second and that as the third, they are one group. 250,000 thumbnails take
    well under a minute.

    Args:
        thumbnails: `Examined.thumbnail` of each image; None is equal to none, and neither is a bland one.
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
    # Equal thumbnails stand for one: a thousand copies would be half a million pairs.
    rows = np.ascontiguousarray(pixels).view(np.dtype((np.void, THUMBNAIL**2))).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    pairs = _pairs(pixels[first], contrast[first])
    graph = coo_array((np.ones(len(pairs), dtype=bool), pairs.T), shape=(len(first), len(first)))
    labels = connected_components(graph, directed=False)[1][inverse]
    return _groups(there, labels)


def _pairs(pixels: NDArray[np.uint8], contrast: NDArray[np.float32]) -> NDArray[np.int64]:
    """All pairs of rows that are the same, as an array (pairs, 2)."""
    found = [np.empty((0, 2), dtype=np.int64)]
    if len(pixels) == 0:
        return found[0]
    traits = _traits(pixels)
    tree = cKDTree(traits)
    limit = np.minimum(MEAN, RELATIVE * contrast)
    for start in range(0, len(pixels), _PIECE):
        stop = min(start + _PIECE, len(pixels))
        radius = limit[start:stop] + 1e-3  # for what rounding does to the traits
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
        same &= apart.max(axis=1) <= LARGEST
        found.append(np.column_stack([one[same], other[same]]))
    return found


def _traits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Each thumbnail as 16 means of its pixels with signs: all plus, left against right, and so on (Walsh
    functions). None differs by more between two thumbnails than their pixels do on average. Some vary much
    among images, and a tree that cuts along those finds neighbours fast."""
    side = THUMBNAIL // _BLOCKS
    blocks = pixels.reshape(len(pixels), _BLOCKS, side, _BLOCKS, side).mean(axis=(2, 4), dtype=np.float32)
    signs = hadamard(_BLOCKS**2).astype(np.float32) / _BLOCKS**2
    return blocks.reshape(len(pixels), _BLOCKS**2) @ signs


def _groups(indices: NDArray[np.int64], labels: NDArray[np.int32]) -> list[list[int]]:
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [group.tolist() for group in np.split(indices[order], cuts) if len(group) > 1]
    return sorted(groups)
