"""A pass of one token of each response through the language model of Qwen2-VL, Qwen2.5-VL or Qwen3-VL, as
transformers 5.23 computes it, layer by layer from the model's own modules. What transformers does around them
for each token (masks, caches, checks) takes longer than they do in a small model. How a token attends to
those before it is up to who calls: `Sequences` is the plain way. The suffixes of tensors: N responses, P
tokens of a prompt, L of all, H heads, K heads of keys, D numbers in a head, E in the residual stream, V
tokens of the vocabulary."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from rarl.models.positions import MODEL_TYPES, backbone_of

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The attention of a layer, by its number: from the query [N, H, D], key and value [N, K, D] of one token to
what it reads, [N, H, D]. It keeps key and value for the tokens after."""

_LAYERS = ("Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen3VLTextDecoderLayer")
_CAPTURING = "transformers.utils.output_capturing"
_AT_ONCE = 32  # tokens whose rotations are computed together


def can_pass(model: Any) -> bool:
    """Whether the passes of this model are the ones below: its layers are transformers' own, and nothing
    waits for them to be called, as FSDP, ZeRO-3 and models over several devices do."""
    if model.config.model_type not in MODEL_TYPES:
        return False
    text = backbone_of(model).language_model
    if text.config.rope_parameters.get("rope_type", "default") != "default":
        return False
    return all(
        type(layer).__name__ in _LAYERS
        and layer.self_attn.__dict__.get("sliding_window") is None
        and not any(_is_waited_for(module) for module in (layer, layer.self_attn))
        for layer in text.layers
    ) and not any(_is_waited_for(module) for module in (text, text.embed_tokens, text.norm))


def _is_waited_for(module: Any) -> bool:
    # A pass with `output_hidden_states` leaves hooks in the layers, which do nothing outside such a pass.
    hooks = module._forward_hooks.values()
    hooked = any(getattr(hook, "__module__", None) != _CAPTURING for hook in hooks)
    return bool(hooked or module._forward_pre_hooks or hasattr(module, "_hf_hook"))


class TokenPasses:
    """The passes for one token after another of N responses.

    Args:
        model: for which `can_pass`.
        last_3N1: the position of the last token before each response; from it on, tokens are text.
        attend: the attention of each layer.
    """

    def __init__(self, model: Any, last_3N1: torch.Tensor, attend: Attend) -> None:
        self._text = backbone_of(model).language_model
        self._head = model.get_output_embeddings()
        self._last_3N1, self._attend = last_3N1, attend
        self._first = -1  # of the tokens whose rotations are known

    def __call__(self, ids_N: torch.Tensor, place: int) -> torch.Tensor:
        """The logits [N, V] after these tokens, `place` tokens behind the last before the responses."""
        text = self._text
        hidden_NE = text.embed_tokens(ids_N)
        rotation = self._rotation(hidden_NE, place)
        for number, layer in enumerate(text.layers):
            read_NE = self._read(number, layer.self_attn, layer.input_layernorm(hidden_NE), rotation)
            hidden_NE = hidden_NE + read_NE
            hidden_NE = hidden_NE + layer.mlp(layer.post_attention_layernorm(hidden_NE))
        logits_NV: torch.Tensor = self._head(text.norm(hidden_NE))
        return logits_NV

    def keep(self, rows: torch.Tensor) -> None:
        """Forgets all responses but these."""
        self._last_3N1 = self._last_3N1[:, rows]
        self._first = -1

    def _read(
        self,
        number: int,
        attention: Any,
        hidden_NE: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        rows, size = len(hidden_NE), attention.head_dim
        query_NHD = attention.q_proj(hidden_NE).view(rows, -1, size)
        key_NKD = attention.k_proj(hidden_NE).view(rows, -1, size)
        value_NKD = attention.v_proj(hidden_NE).view(rows, -1, size)
        if hasattr(attention, "q_norm"):
            query_NHD, key_NKD = attention.q_norm(query_NHD), attention.k_norm(key_NKD)
        cos_N1D, sin_N1D = rotation
        both_NXD = torch.cat([query_NHD, key_NKD], dim=1)
        both_NXD = both_NXD * cos_N1D + both_NXD.roll(size // 2, dims=-1) * sin_N1D
        heads = query_NHD.shape[1]
        read_NHD = self._attend(number, both_NXD[:, :heads], both_NXD[:, heads:], value_NKD)
        read_NE: torch.Tensor = attention.o_proj(read_NHD.reshape(rows, -1))
        return read_NE

    def _rotation(self, hidden_NE: torch.Tensor, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines for the token at this place; the first half of the sines has its sign turned, as
        `rotate_half` would turn that of what they are multiplied with."""
        first = place - place % _AT_ONCE
        if first != self._first:
            places = torch.arange(first, first + _AT_ONCE, device=self._last_3N1.device)
            cos_NCD, sin_NCD = self._text.rotary_emb(hidden_NE, self._last_3N1 + places)
            half = sin_NCD.shape[-1] // 2
            sin_NCD = torch.cat([-sin_NCD[..., :half], sin_NCD[..., half:]], dim=-1)
            self._first, self._rotations = first, (cos_NCD[:, :, None], sin_NCD[:, :, None])
        cos_NC1D, sin_NC1D = self._rotations
        return cos_NC1D[:, place - first], sin_NC1D[:, place - first]


class Sequences:
    """The attention of N responses, each to its own prompt and to itself.

    Args:
        cache: of the prompts, [N, K, P, D] in each layer.
        mask_NP: bool, false at their padding; None without.
    """

    def __init__(self, cache: DynamicCache, mask_NP: torch.Tensor | None) -> None:
        layers: list[Any] = list(cache.layers)
        self._keys: list[torch.Tensor] = [layer.keys for layer in layers]
        self._values: list[torch.Tensor] = [layer.values for layer in layers]
        self._prompt = self._keys[0].shape[2]
        self._ends = [self._prompt] * len(layers)
        self._mask_NL = mask_NP

    def attend(
        self, number: int, query_NHD: torch.Tensor, key_NKD: torch.Tensor, value_NKD: torch.Tensor
    ) -> torch.Tensor:
        """The attention of a layer for one token, [N, H, D]; key and value are kept."""
        end = self._ends[number]
        if end == self._keys[number].shape[2]:
            self._make_room(number)
        self._keys[number][:, :, end] = key_NKD
        self._values[number][:, :, end] = value_NKD
        self._ends[number] = end = end + 1
        read_NH1D = torch.nn.functional.scaled_dot_product_attention(
            query_NHD[:, :, None],
            self._keys[number][:, :, :end],
            self._values[number][:, :, :end],
            attn_mask=None if self._mask_NL is None else self._mask_NL[:, None, None, :end],
            enable_gqa=query_NHD.shape[1] != key_NKD.shape[1],
        )
        return read_NH1D[:, :, 0]

    def keep(self, rows: torch.Tensor) -> None:
        """Forgets all responses but these."""
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]
        self._mask_NL = None if self._mask_NL is None else self._mask_NL[rows]

    def _make_room(self, number: int) -> None:
        """For as many more tokens as there are after the prompt, so that most tokens copy nothing."""
        more = max(_AT_ONCE, self._ends[number] - self._prompt)
        for kept in (self._keys, self._values):
            kept[number] = torch.nn.functional.pad(kept[number], (0, 0, 0, more))
        if self._mask_NL is not None and number == 0:
            self._mask_NL = torch.nn.functional.pad(self._mask_NL, (0, more), value=True)
