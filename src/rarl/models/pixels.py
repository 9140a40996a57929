"""What the image processor of Qwen2-VL and Qwen2.5-VL (transformers 5.23, with Pillow) makes of images, in a
third of its time. It computes a number for each value in each patch; here the number of each of the 256
values is computed once, by the processor itself, and looked up. The numbers are the same, bit for bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

from rarl.models.processor import resizing_of

_AT_ONCE = 2**17  # pixels that are looked up together, if they are of images of one size: they fit a cache


def pixels_of(own: Any, images: Sequence[Image.Image]) -> BatchFeature:
    """What the image processor `own` makes of these images, in tensors: `pixel_values` [patches, V] and
    `image_grid_thw` int[M, 3]. One that is not known, and images that it refuses, are left to itself."""
    resizing = resizing_of(own)
    if resizing is None or not all(
        getattr(image, "mode", None) == "RGB" and resizing.size_of(image.size) for image in images
    ):
        return own(images, return_tensors="pt")
    sized = [image if image.size == resizing.size_of(image.size) else resizing(image) for image in images]
    grids = [(1, image.height // own.patch_size, image.width // own.patch_size) for image in sized]
    size = 3 * own.temporal_patch_size * own.patch_size**2
    found = np.empty((sum(high * wide for _, high, wide in grids), size), np.float32)
    numbers, start = _numbers(own), 0
    for (width, height), alike in groupby(sized, key=lambda image: image.size):
        run = [np.asarray(image) for image in alike]
        at_once = max(1, _AT_ONCE // (width * height))
        for part in (run[at : at + at_once] for at in range(0, len(run), at_once)):
            end = start + len(part) * width * height // own.patch_size**2
            _look_up(np.concatenate(part), numbers, own, found[start:end])
            start = end
    return BatchFeature(
        {"pixel_values": torch.from_numpy(found), "image_grid_thw": torch.tensor(grids).view(-1, 3)}
    )


def _numbers(own: Any) -> np.ndarray[Any, Any]:
    """What the 256 values become, float32[3, 256], by channels."""
    values = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    if own.do_rescale:
        values = own.rescale(values, own.rescale_factor)
    if own.do_normalize:
        values = own.normalize(values, own.image_mean, own.image_std)
    return np.asarray(values, dtype=np.float32)[:, 0]


def _look_up(
    image: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any], own: Any, patches: np.ndarray[Any, Any]
) -> None:
    """Writes the numbers of an image, uint8[height, width, 3], into its patches, float32[patches, V]. Patches
    go row by row, so those of images above one another are those of one after the other."""
    side, merged = own.patch_size, own.merge_size
    wide = image.shape[1] // (side * merged)
    blocks = image.reshape(-1, merged, side, wide, merged, side, 3)
    shape = (-1, wide, merged, merged, 3, own.temporal_patch_size, side, side)
    into = patches.reshape(shape)  # a view
    for channel in range(3):
        looked_up = numbers[channel].take(blocks[..., channel])
        into[:, :, :, :, channel] = looked_up.transpose(0, 3, 1, 4, 2, 5)[:, :, :, :, None]


class _Together:
    """An image processor that makes of images what `pixels_of` does, and is else the given one."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, images: Any, **settings: Any) -> BatchFeature:
        if settings or not all(isinstance(of_one, list) for of_one in images):
            return self._own(images, **settings)
        return pixels_of(self._own, [image for of_one in images for image in of_one])


@contextmanager
def looking_up(processor: Any) -> Iterator[None]:
    """Inside, the processor makes of the images of several prompts what `pixels_of` does."""
    if resizing_of(processor) is None:
        yield
        return
    own = processor.image_processor
    processor.image_processor = _Together(own)
    try:
        yield
    finally:
        processor.image_processor = own
