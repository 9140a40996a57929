"""One prompt pass for G responses to each of B prompts: rollouts from one cache of the prompts, and packed
rows `[prompt | response 1 | ... | response G]` from which log-probs are read. A prompt's images are part of
it. The numbers are those of B * G separate sequences, up to rounding. For Qwen2-VL, Qwen2.5-VL and Qwen3-VL;
there is no trainer in here. The suffixes of tensors are explained in `rarl.shared_prefix`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from rarl.errors import ModelError
from rarl.models.generation.decoding import Choosing, Drawn, decode
from rarl.models.generation.token_passes import TokenPasses, can_pass
from rarl.models.positions import MODEL_TYPES, backbone_of, image_places, positions_of
from rarl.models.vision import see_together
from rarl.shared_prefix.attention import (
    IMPLEMENTATION,
    Packing,
    SharedPrefixCache,
    set_shared_attention,
    sharing,
)


def why_not(model: PreTrainedModel) -> str | None:
    """Says why this model can't share prompts; None if it can."""
    if model.config.model_type not in MODEL_TYPES:
        return f"the model is a {model.config.model_type}, and only {', '.join(MODEL_TYPES)} are known"
    if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        return "the model has layers of sliding-window attention"
    return None


def share(model: PreTrainedModel) -> None:
    """Makes the model ready for the functions below. Its other passes give what attention by "sdpa" gives.
    Images of one size are seen together from now on (`rarl.models.vision`)."""
    set_shared_attention(model)
    see_together(model)


@dataclass(frozen=True)
class Prompts:
    """B prompts with their images.

    Attributes:
        ids: int[B, P], padded on the left.
        mask: int or bool[B, P], false at padding.
        images: what the processor makes of the images of all prompts, in order: `pixel_values` [patches, V]
            and `image_grid_thw` int[M, 3]; or what `see` makes of these; empty if no prompt has an image.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    images: dict[str, Any]

    def positions(self, model: PreTrainedModel) -> torch.Tensor:
        """int[3, B, P]: temporal, height and width position of each token, as the model counts them."""
        return positions_of(model, self.ids, self.mask, self.images.get("image_grid_thw"))


def see(model: PreTrainedModel, images: dict[str, Any]) -> dict[str, Any]:
    """What the vision tower sees in images, with the gradient: `Prompts.images` of passes that need not see
    them again, because the weights are still the same."""
    with torch.enable_grad():
        seen = backbone_of(model).get_image_features(**images, return_dict=True)
    return {"mm_encoder_outputs": {"image": seen}, "image_grid_thw": images["image_grid_thw"]}


# ── generation ───────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def rollouts(
    model: PreTrainedModel,
    prompts: Prompts,
    count: int,
    generation_config: GenerationConfig,
    generate: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """Samples `count` responses to each prompt, as `model.generate` does for repeated prompts.

    Args:
        model: made ready by `share`.
        count: G.
        generate: called in place of `model.generate`, such as a `Drawn`; None means that one.

    Returns:
        int[N, C]: the new tokens, a prompt's responses one after the other, padded on the right.

    Raises:
        ModelError: if the model's attention is no longer the one that `share` set.
    """
    _check_attention(model)
    generate = generate or model.generate  # type: ignore[assignment]
    assert generate is not None
    generation_config = deepcopy(generation_config)
    generation_config.use_cache = True
    backbone = backbone_of(model)
    length = prompts.ids.shape[1]
    repeated: dict[str, Any] = {
        "input_ids": prompts.ids.repeat_interleave(count, dim=0),
        "attention_mask": prompts.mask.repeat_interleave(count, dim=0),
        "generation_config": generation_config,
    }
    backbone.rope_deltas = None  # transformers 5.23 keeps it from call to call
    if length == 1:
        return generate(**repeated)[:, 1:]
    positions_3BP = prompts.positions(model)
    cache = DynamicCache(config=model.config.get_text_config())
    model(
        input_ids=prompts.ids[:, :-1],
        attention_mask=prompts.mask[:, :-1],
        mm_token_type_ids=image_places(model, prompts.ids[:, :-1]) if prompts.images else None,
        position_ids=positions_3BP[:, :, :-1],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **prompts.images,
    )
    shared = SharedPrefixCache(cache, prompts.mask[:, :-1].bool())
    last_3N1 = positions_3BP[:, :, -1:].repeat_interleave(count, dim=1)
    with sharing(shared):
        choosing = Choosing.of(model, generation_config, generate)
        if choosing is not None:
            step = _step_of(model, shared, last_3N1)
            draws_NC = generate.draws_NC if isinstance(generate, Drawn) else None
            return decode(step, repeated["input_ids"][:, -1], choosing, draws_NC=draws_NC)
        if prompts.images:  # generate counts the tokens of a response, and adds this
            backbone.rope_deltas = last_3N1[0] + 1 - repeated["attention_mask"].sum(dim=1, keepdim=True)
        ids_NL = generate(past_key_values=shared, **repeated)
    backbone.rope_deltas = None
    return ids_NL[:, length:]


def _step_of(
    model: PreTrainedModel, cache: SharedPrefixCache, last_3N1: torch.Tensor
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The pass for one token of each response, as `decode` takes it.

    Args:
        last_3N1: the position of each prompt's last token.
    """
    if can_pass(model):
        return TokenPasses(model, last_3N1, cache.attend)
    # The cache knows what is padding. A mask of four dimensions is one that the model does not make anew.
    no_mask_N111 = torch.ones(last_3N1.shape[1], 1, 1, 1, dtype=torch.bool, device=last_3N1.device)

    def step(ids_N: torch.Tensor, place: int) -> torch.Tensor:
        output = model(
            input_ids=ids_N[:, None],
            position_ids=last_3N1 + place,
            attention_mask=no_mask_N111,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    return step


# ── scoring ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Packed:
    """The arguments of one forward pass over packed rows, and how to read its answer. L is S + T.

    Attributes:
        inputs: arguments of the model's forward, without `labels`.
        labels: int[B, L], the token that follows each place; -100 where nothing is scored.
        responses: G.
        length: C.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor
    responses: int
    length: int

    @contextmanager
    def scored_alone(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """Inside, the model's head is given the responses alone, [B, T], and not the prompts before them,
        which have no labels: TRL's head reads every place that it is given, except on a GPU (trl 1.16).

        Yields:
            the labels of the responses, int[B, T].
        """
        scored = self.responses * self.length

        def cut(module: Any, args: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[:, -scored:]
            return output

        hook = model.base_model.register_forward_hook(cut)
        try:
            yield self.labels[:, -scored:]
        finally:
            hook.remove()

    def unpack(self, values_BL: torch.Tensor) -> torch.Tensor:
        """Reads [N, C], one value per token of a response, out of [B, L] or [B, T]."""
        start = values_BL.shape[1] - self.responses * self.length
        return values_BL[:, start:].reshape(-1, self.length)


def pack(
    model: PreTrainedModel, prompts: Prompts, response_ids_NC: torch.Tensor, response_mask_NC: torch.Tensor
) -> Packed:
    """Packs each prompt and its G responses into one row, for one plain forward pass.

    A row is the prompt without its last token, followed by, for each response, that last token and the
    response without *its* last token. So the token before each place of a response stands at that place, and
    every response begins at the position of the prompt's last token.

    Args:
        model: made ready by `share`, and wrapped in nothing except adapters.
        response_ids_NC: int[N, C], a prompt's responses one after the other, padded on the right.
        response_mask_NC: int or bool[N, C], the tokens that are scored.

    Raises:
        ModelError: if the model's attention is no longer the one that `share` set.
        ValueError: if the prompts have different numbers of responses.
    """
    _check_attention(model)
    size = len(prompts.ids)
    rows, length = response_ids_NC.shape
    count, rest = divmod(rows, size)
    if rest:
        raise ValueError(f"{rows} responses to {size} prompts: not equally many for each")
    last_N1 = prompts.ids[:, -1:].repeat_interleave(count, dim=0)
    shifted_NC = torch.cat([last_N1, response_ids_NC[:, :-1]], dim=1)
    positions_3BP = prompts.positions(model)
    steps_T = torch.arange(length, device=positions_3BP.device).repeat(count)
    response_positions_3BT = positions_3BP[:, :, -1:] + steps_T
    inputs = {
        "input_ids": torch.cat([prompts.ids[:, :-1], shifted_NC.view(size, -1)], dim=1),
        "position_ids": torch.cat([positions_3BP[:, :, :-1], response_positions_3BT], dim=2),
        **prompts.images,
        "shared_prefix": Packing.of(prompts.mask[:, :-1].bool(), count, length),
    }
    response_labels_BT = response_ids_NC.masked_fill(~response_mask_NC.bool(), -100).view(size, -1)
    prompt_labels_BS = response_labels_BT.new_full((size, prompts.ids.shape[1] - 1), -100)
    return Packed(inputs, torch.cat([prompt_labels_BS, response_labels_BT], dim=1), count, length)


def _check_attention(model: PreTrainedModel) -> None:
    """Any other attention ignores what is shared, and would silently give other numbers."""
    found = model.config.get_text_config()._attn_implementation
    if found != IMPLEMENTATION:
        raise ModelError(
            f"the model's attention was changed to {found!r} after it was made ready to share prompts; leave "
            "it as it is, or train with shared_prefix: off"
        )
