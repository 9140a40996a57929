"""Where Qwen2-VL, Qwen2.5-VL and Qwen3-VL see the tokens of a prompt: each has three positions, by which the
patches of an image stand in rows and columns. They are counted by the model itself; here equal prompts are
counted once. Other families count in one dimension, and are none of this file's."""

from typing import Any

import torch

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def backbone_of(model: Any) -> Any:
    """The part of the model that counts positions, inside any adapters."""
    return next(module for module in model.modules() if "rope_deltas" in vars(module))


def image_places(model: Any, ids_BP: torch.Tensor) -> torch.Tensor:
    """int[B, P]: 1 where a token belongs to an image, else 0."""
    return (ids_BP == model.config.image_token_id).int()


def positions_of(
    model: Any, ids_BP: torch.Tensor, mask_BP: torch.Tensor, grids_M3: torch.Tensor | None
) -> torch.Tensor:
    """int[3, B, P]: temporal, height and width position of each token, as the model counts them.

    Args:
        ids_BP: prompts, padded on the left.
        mask_BP: int or bool, false at padding.
        grids_M3: the grids of patches of all images, in order; None if no prompt has an image.
    """
    if grids_M3 is None:
        text_BP = (mask_BP.long().cumsum(dim=1) - 1).clamp(min=0)
        return text_BP.expand(3, -1, -1)
    places_BP, prompts = image_places(model, ids_BP), len(ids_BP)
    grids_of_one, rest = divmod(len(grids_M3), prompts)
    alike = rest == 0 and all(
        bool((rows == rows[:1]).all())
        for rows in (places_BP, mask_BP, grids_M3.reshape(prompts, grids_of_one, 3))
    )
    counted = slice(0, 1) if alike else slice(None)
    positions, _ = backbone_of(model).get_rope_index(
        ids_BP[counted],
        mm_token_type_ids=places_BP[counted],
        image_grid_thw=grids_M3[:grids_of_one] if alike else grids_M3,
        attention_mask=mask_BP[counted],
    )
    return positions.expand(3, prompts, -1)
