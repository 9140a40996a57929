"""Attention in which G responses share the keys and values of one prompt, as an attention implementation of
transformers under the name `shared_prefix`. It computes what "sdpa" computes for G separate sequences: a
response attends to its prompt and to itself. What has no shared prompt goes to "sdpa" unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "shared_prefix"


@dataclass(frozen=True)
class Packing:
    """How B rows of one prompt and its G responses are laid out: `[prompt | response 1 | … | response G]`,
    the prompt padded on the left to P tokens and each response on the right to C. The prompt's last token is
    no part of P here: it is the first of each response.

    Attributes:
        prompt: P.
        responses: G.
        prompt_mask: bool[B, 1, P, P], which keys a prompt's token sees; None where no prompt is padded.
        response_mask: bool[B * G or 1, 1, C, P + C], which keys a response's token sees, its prompt's first.
    """

    prompt: int
    responses: int
    prompt_mask: torch.Tensor | None
    response_mask: torch.Tensor

    @classmethod
    def of(cls, prompt_mask: torch.Tensor, responses: int, length: int) -> "Packing":
        """The packing of prompts with this mask, bool[B, P], and `responses` of `length` tokens each."""
        size, prompt = prompt_mask.shape
        device = prompt_mask.device
        own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        if bool(prompt_mask.all()):
            seen = torch.ones(length, prompt, dtype=torch.bool, device=device)
            return cls(prompt, responses, None, torch.cat([seen, own], dim=1)[None, None])
        causal = torch.ones(prompt, prompt, dtype=torch.bool, device=device).tril()
        # What is padding sees itself, because a softmax over nothing is not a number.
        itself = torch.eye(prompt, dtype=torch.bool, device=device)
        prompts = (causal & prompt_mask[:, None, None, :]) | itself
        seen = prompt_mask[:, None, None, :].expand(size, 1, length, prompt)
        mask = torch.cat([seen, own.expand(size, 1, length, length)], dim=-1)
        return cls(prompt, responses, prompts, mask.repeat_interleave(responses, dim=0))


class _PrefixLayer(DynamicLayer):
    """One layer's keys and values: those of B prompts once, those of their B * G responses as they grow."""

    def __init__(self, prompt: Any) -> None:
        super().__init__()
        self.prompt = prompt

    def get_seq_length(self) -> int:
        return self.prompt.get_seq_length() + super().get_seq_length()


class SharedPrefixCache(DynamicCache):
    """The cache of B * G responses in generation, made from that of their B prompts, which is not copied.
    Inside `sharing` the attention reads the prompts' part here: `update` returns the responses' alone."""

    def __init__(self, prompts: DynamicCache) -> None:
        super().__init__()
        self.layers: list[Any] = [_PrefixLayer(layer) for layer in prompts.layers]


_CACHE: ContextVar[SharedPrefixCache | None] = ContextVar("shared_prefix_cache", default=None)


@contextmanager
def sharing(cache: SharedPrefixCache) -> Iterator[None]:
    """Inside, the model generates with this cache."""
    token = _CACHE.set(cache)
    try:
        yield
    finally:
        _CACHE.reset(token)


def set_shared_attention(model: PreTrainedModel) -> None:
    """Makes `shared_prefix` the attention of the model's text part; its vision tower keeps its own."""
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    model.set_attn_implementation({"text_config": IMPLEMENTATION})


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: Packing | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [rows, heads, tokens, size], keys and values likewise with as many heads or fewer; returns
    [rows, tokens, heads, size], as all of transformers' attention functions do."""
    if shared_prefix is not None:
        return _packed(module, query, key, value, shared_prefix, **kwargs), None
    cache = _CACHE.get()
    if cache is not None:
        prompt = cache.layers[module.layer_idx].prompt
        exact = query.dtype in (torch.float32, torch.float64)
        if exact and not torch.is_autocast_enabled(query.device.type):
            scaling = kwargs["scaling"]
            return _decoded(query, key, value, prompt.keys, prompt.values, attention_mask, scaling), None
        # In half precision the scores must not be rounded before the softmax, of which "sdpa" takes care.
        count = len(query) // len(prompt.keys)
        key = torch.cat([prompt.keys.repeat_interleave(count, dim=0), key], dim=2)
        value = torch.cat([prompt.values.repeat_interleave(count, dim=0), value], dim=2)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _packed(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    **kwargs: Any,
) -> torch.Tensor:
    """The prompts among themselves, then every response against its prompt's keys and its own: for 8
    responses of 96 tokens to a prompt of 600, 2.6 times fewer pairs than under one mask over the row."""
    split, count, device = packing.prompt, packing.responses, query.device
    size, _, tokens, _ = query.shape

    def prompt(states: torch.Tensor) -> torch.Tensor:
        return states[:, :, :split]

    def own(states: torch.Tensor) -> torch.Tensor:
        responses = states[:, :, split:].unflatten(2, (count, (tokens - split) // count))
        return responses.transpose(1, 2).flatten(0, 1)

    def with_prompt(states: torch.Tensor) -> torch.Tensor:
        return torch.cat([prompt(states).repeat_interleave(count, dim=0), own(states)], dim=2)

    above = query[:, :, :0].transpose(1, 2)  # prompts of one token leave nothing to share
    if split:
        mask = None if packing.prompt_mask is None else packing.prompt_mask.to(device)
        above, _ = sdpa_attention_forward(module, prompt(query), prompt(key), prompt(value), mask, **kwargs)
    mask = packing.response_mask.to(device)  # of a model over several devices, each layer has its own
    below, _ = sdpa_attention_forward(
        module, own(query), with_prompt(key), with_prompt(value), mask, **kwargs
    )
    return torch.cat([above, below.unflatten(0, (size, count)).flatten(1, 2)], dim=1)


def _decoded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prompt_key: torch.Tensor,
    prompt_value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """One new token of each of B * G responses, against their B prompts' keys and their own. A prompt's keys
    are read once for its G responses, and never copied. For float32 and float64."""
    prompts, key_heads, length, _ = prompt_key.shape
    # b prompt, g response, k key head, r query head that reads it, p and t token of prompt and response.
    query = query.view(prompts, -1, key_heads, query.shape[1] // key_heads, query.shape[3])
    key, value = (states.view(prompts, -1, *states.shape[1:]) for states in (key, value))
    to_prompt = torch.einsum("bgkrd,bkpd->bgkrp", query, prompt_key)
    to_own = torch.einsum("bgkrd,bgktd->bgkrt", query, key)
    scores = torch.cat([to_prompt, to_own], dim=-1) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask.view(prompts, -1, 1, 1, mask.shape[-1]), float("-inf"))
    weights = scores.softmax(dim=-1)
    of_prompt = torch.einsum("bgkrp,bkpd->bgkrd", weights[..., :length], prompt_value)
    of_own = torch.einsum("bgkrt,bgktd->bgkrd", weights[..., length:], value)
    return (of_prompt + of_own).flatten(0, 1).flatten(1, 2).unsqueeze(1)
