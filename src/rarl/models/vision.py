"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL (transformers 5.23) go through a batch image by
image: they count the positions of each, and attend within each. Here images of one grid are counted once, and
attend in one call. The numbers are the same; with small images it is half of the time. No text is seen."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from rarl.models.positions import MODEL_TYPES, backbone_of

# A name with "flash" gets all images in one row, with the places where each begins; any other, each apart.
IMPLEMENTATION = "rarl_flash_like"


def see_together(model: PreTrainedModel) -> None:
    """Makes the model see images of one grid together, from now on. A model of another family, or with an
    attention of its own choice, is left as it is."""
    if model.config.model_type not in MODEL_TYPES:
        return
    visual = backbone_of(model).visual
    if visual.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(IMPLEMENTATION, _attention)
    # Not by set_attn_implementation, which would look for a package of that name.
    visual.config._attn_implementation = IMPLEMENTATION
    visual.register_forward_pre_hook(_with_positions, with_kwargs=True)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float,
    dropout: float,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each part of a row, of tensors [1, heads, L, D]; parts begin at `cu_seq_lens_q`."""
    lengths, counts = torch.unique_consecutive(cu_seq_lens_q.diff(), return_counts=True)
    runs = (lengths * counts).tolist()  # parts of one length, beside one another
    split = [tensor[0].split(runs, dim=1) for tensor in (query, key, value)]
    found = []
    for length, *run in zip(lengths.tolist(), *split, strict=True):
        q, k, v = (tensor.unflatten(1, (-1, length)).transpose(0, 1) for tensor in run)
        out, _ = sdpa_attention_forward(module, q, k, v, None, dropout, scaling, is_causal=False)
        found.append(out.flatten(0, 1))
    return torch.cat(found)[None], None


def _with_positions(
    visual: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """What the tower would count for each image, counted once for each grid."""
    grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
    rows, merge = [tuple(row) for row in grids.tolist()], visual.spatial_merge_size
    alone = {row: torch.tensor([row], device=grids.device) for row in rows}
    positions = {row: get_vision_position_ids(grid, merge) for row, grid in alone.items()}
    made = {"position_ids": torch.cat([positions[row] for row in rows])}
    if hasattr(visual, "window_size"):
        windows = {
            row: get_vision_window_index(grid, merge, visual.window_size, visual.patch_size)
            for row, grid in alone.items()
        }
        places, ends, before = [], [grids.new_zeros(1)], 0
        for row in rows:
            index, ends_of_one = windows[row]
            places.append(index + before)
            ends.append(ends_of_one[1:] + before * merge**2)
            before += len(index)
        made |= {"window_index": torch.cat(places), "cu_window_seqlens": torch.cat(ends).int()}
    return args, {**kwargs, **made}
