"""One prompt pass for G responses. In GRPO on images a prompt is long and its G responses are short, yet they
are usually run as G sequences, each with the whole prompt. Here a prompt, its images among it, is encoded
once: in generation, and in the log-probs of its responses, with the same numbers up to rounding. For
Qwen2-VL, Qwen2.5-VL and Qwen3-VL; no trainer in here."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from rarl.errors import ModelError
from rarl.shared_prefix.attention import (
    IMPLEMENTATION,
    Packing,
    SharedPrefixCache,
    set_shared_attention,
    sharing,
)

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def why_not(model: PreTrainedModel) -> str | None:
    """Why this model can't share prompts, or None where it can."""
    if model.config.model_type not in MODEL_TYPES:
        return f"the model is a {model.config.model_type}, and only {', '.join(MODEL_TYPES)} are known"
    if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        return "the model has layers of sliding-window attention"
    return None


def share(model: PreTrainedModel) -> None:
    """Readies the model for the functions below; other passes give what attention by "sdpa" gives."""
    set_shared_attention(model)


@dataclass(frozen=True)
class Prompts:
    """B prompts with images.

    Attributes:
        ids: int[B, P], padded on the left.
        mask: int or bool[B, P], false where there is padding.
        images: what the processor makes of the images of all prompts, in their order: `pixel_values` and
            `image_grid_thw` [images, 3]; empty where no prompt has any.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    images: dict[str, torch.Tensor]

    def positions(self, model: PreTrainedModel) -> torch.Tensor:
        """int[3, B, P]: temporal, height and width of each token, as the model counts them."""
        if not self.images:
            text = (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)
            return text.expand(3, -1, -1)
        positions, _ = _backbone(model).get_rope_index(
            self.ids,
            mm_token_type_ids=self.token_types(model),
            image_grid_thw=self.images["image_grid_thw"],
            attention_mask=self.mask,
        )
        return positions

    def token_types(self, model: PreTrainedModel) -> torch.Tensor:
        """int[B, P]: 1 where an image stands."""
        return (self.ids == model.config.image_token_id).int()


@torch.no_grad()
def rollouts(
    model: PreTrainedModel,
    prompts: Prompts,
    count: int,
    generation_config: GenerationConfig,
    generate: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """`count` responses to each prompt, as `model.generate` makes them for prompts that are repeated.

    Args:
        model: made ready by `share`.
        count: G.
        generate: what is called as `model.generate`; None: that.

    Returns:
        int[B * G, T]: the new tokens, a prompt's responses one after the other, padded on the right.

    Raises:
        ModelError: if the model's attention is no longer that of `share`.
    """
    _check_shared(model)
    generate = generate or model.generate  # type: ignore[assignment]
    assert generate is not None
    generation_config = deepcopy(generation_config)
    generation_config.use_cache = True
    backbone = _backbone(model)
    length = prompts.ids.shape[1]
    repeated = {
        "input_ids": prompts.ids.repeat_interleave(count, dim=0),
        "attention_mask": prompts.mask.repeat_interleave(count, dim=0),
        "generation_config": generation_config,
    }
    backbone.rope_deltas = None  # transformers 5.23 keeps it from call to call
    if length == 1:
        return generate(**repeated)[:, 1:]
    cache = DynamicCache(config=model.config.get_text_config())
    model(
        input_ids=prompts.ids[:, :-1],
        attention_mask=prompts.mask[:, :-1],
        mm_token_type_ids=prompts.token_types(model)[:, :-1] if prompts.images else None,
        # Without images the model counts padding as tokens here, and does not when it generates.
        position_ids=None if prompts.images else prompts.positions(model)[:, :, :-1],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **prompts.images,
    )
    if backbone.rope_deltas is not None:
        backbone.rope_deltas = backbone.rope_deltas.repeat_interleave(count, dim=0)
    shared = SharedPrefixCache(cache)
    with sharing(shared):
        tokens = generate(past_key_values=shared, **repeated)
    backbone.rope_deltas = None
    return tokens[:, length:]


@dataclass(frozen=True)
class Packed:
    """What the model is called with to score responses, and how its answers are read.

    Attributes:
        inputs: arguments of the model's forward; `labels` are left to the caller.
        labels: int[B, P - 1 + G * C], the token that follows each, -100 where there is nothing to score.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor
    responses: int
    length: int

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """[B * G, C] of one value for each token of a response, from [B, P - 1 + G * C]."""
        start = values.shape[1] - self.responses * self.length
        return values[:, start:].reshape(-1, self.length)


def pack(
    model: PreTrainedModel, prompts: Prompts, response_ids: torch.Tensor, response_mask: torch.Tensor
) -> Packed:
    """One row for each prompt and its G responses, for one plain forward pass.

    A row is the prompt without its last token, then for each response that last token and the response
    without *its* last one: at each place of a response stands the token before it, and every response begins
    at the position of the prompt's last token.

    Args:
        model: made ready by `share`, and wrapped in nothing but adapters.
        response_ids: int[B * G, C], a prompt's responses one after the other, padded on the right.
        response_mask: int or bool[B * G, C], which of them are scored.

    Raises:
        ModelError: if the model's attention is no longer that of `share`.
        ValueError: if the responses are not equally many for each prompt.
    """
    _check_shared(model)
    size = len(prompts.ids)
    rows, length = response_ids.shape
    count, rest = divmod(rows, size)
    if rest:
        raise ValueError(f"{rows} responses to {size} prompts: not equally many for each")
    last = prompts.ids[:, -1:].repeat_interleave(count, dim=0)
    responses = torch.cat([last, response_ids[:, :-1]], dim=1)
    positions = prompts.positions(model)
    steps = torch.arange(length, device=positions.device).repeat(count)
    inputs = {
        "input_ids": torch.cat([prompts.ids[:, :-1], responses.view(size, -1)], dim=1),
        "position_ids": torch.cat([positions[:, :, :-1], positions[:, :, -1:] + steps], dim=2),
        **prompts.images,
        "shared_prefix": Packing.of(prompts.mask[:, :-1].bool(), count, length),
    }
    labels = response_ids.masked_fill(~response_mask.bool(), -100).view(size, -1)
    nothing = labels.new_full((size, prompts.ids.shape[1] - 1), -100)
    return Packed(inputs, torch.cat([nothing, labels], dim=1), count, length)


def _check_shared(model: PreTrainedModel) -> None:
    """Any other attention takes no notice of what is shared, and would give other numbers without a word."""
    found = model.config.get_text_config()._attn_implementation
    if found != IMPLEMENTATION:
        raise ModelError(
            f"the model's attention was changed to {found!r} after it was made ready to share prompts; leave "
            "it as it is, or train with shared_prefix: off"
        )


def _backbone(model: PreTrainedModel) -> Any:
    """The part that counts positions, whatever adapters are around it."""
    return next(module for module in model.modules() if "rope_deltas" in vars(module))
