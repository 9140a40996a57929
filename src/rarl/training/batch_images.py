"""The images of a batch's prompts, once for each prompt: in the rows of the dataset, and as tensors among the
fields of trl 1.16, which are the processor's and `num_images`, the number of each prompt's."""

from collections.abc import Sequence
from typing import Any

import torch
from trl.data_utils import prepare_multimodal_messages

IMAGE_FIELDS = ("pixel_values", "image_grid_thw", "num_images")

Batch = dict[str, Any]


def images_of(row: Batch) -> list[Any]:
    """The images of a row, from its column `images` or `image`."""
    if row.get("images") is not None:
        return list(row["images"])
    return [] if row.get("image") is None else [row["image"]]


def with_images(row: Batch) -> Any:
    """The prompt of a row, with its images in their places."""
    images = images_of(row)
    return prepare_multimodal_messages(row["prompt"], images=images) if images else row["prompt"]


def tensors(fields: Batch) -> Batch:
    """What the model is given of the image fields."""
    return {key: fields[key] for key in IMAGE_FIELDS[:2] if key in fields}


def of_prompts(fields: Batch, prompts: Sequence[int]) -> Batch:
    """The image fields of some of the prompts, in this order; without tensors where these have no images."""
    if "num_images" not in fields:
        return {}
    counts = fields["num_images"]
    part: Batch = {"num_images": [counts[prompt] for prompt in prompts]}
    if not any(part["num_images"]):
        return part
    if list(prompts) == list(range(len(counts))):
        return part | tensors(fields)
    grids = fields["image_grid_thw"].split(counts)
    pixels = fields["pixel_values"].split([int(grid.prod(dim=-1).sum()) for grid in grids])
    return part | {
        "pixel_values": torch.cat([pixels[prompt] for prompt in prompts]),
        "image_grid_thw": torch.cat([grids[prompt] for prompt in prompts]),
    }
