"""The digits that ship inside scikit-learn: 1,797 handwritten digits, each with a value from 0 to 9. They let
the demo and the tests run without a download. The paper does not use them."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from rarl.data.collection import Collection, load_collection
from rarl.data.writing import ImageEntry, write_collection
from rarl.errors import DataError
from rarl.method.tasks import DIGITS

# Indices in the data set's own order, in which neighbours tend to be by one hand. So the test split is a
# stretch of its own, while validation is scattered among train. The embedded base model has seen `pretrain`;
# no run trains on it again.
_VALIDATION = range(300, 1397, 6)
DIGITS_SPLITS: dict[str, Sequence[int]] = {
    "train": [index for index in range(300, 1397) if index not in _VALIDATION],
    "validation": _VALIDATION,
    "test": range(1397, 1797),
    "pretrain": range(300),
}
SIZE = 28


def prepare_digits(out: str | os.PathLike[str]) -> Collection:
    """Writes the digits at `out`, as RGB PNG files of 28 x 28 pixels, light on dark as they come, named by
    index.

    If the folder holds this collection already, it is loaded as it is.

    Raises:
        DataError: if something else stands at `out`, or it can't be written.
    """
    from sklearn.datasets import load_digits  # slow to import

    images, values = load_digits(return_X_y=True)
    if not os.path.lexists(out):
        splits = {name: _digit_entries(images, values, indices) for name, indices in DIGITS_SPLITS.items()}
        return write_collection(out, DIGITS, splits)
    collection = load_collection(out)
    expected = {name: [(f"{i:04d}", values[i]) for i in indices] for name, indices in DIGITS_SPLITS.items()}
    found = {name: [(row.id, row.value) for row in rows] for name, rows in collection.splits.items()}
    if collection.task != DIGITS or found != expected:
        raise DataError(f"{out}: holds something other than the digits; remove it or choose another folder")
    return collection


def _digit_entries(images: np.ndarray, values: np.ndarray, indices: Sequence[int]) -> Iterator[ImageEntry]:
    for index in indices:
        # From 64 numbers of 0-16 to 8 x 8 pixels of 0-255.
        grey = np.rint(images[index].reshape(8, 8) * (255 / 16)).astype(np.uint8)
        image = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        yield f"{index:04d}", float(values[index]), image
