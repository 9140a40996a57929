"""Tokens one after the other, as `generate` of transformers 5.23 chooses them, without what it does around
each: in a small model that is most of the time. Only plain greedy decoding and plain sampling are here;
`Choosing.of` says for which settings, and the others are left to `generate`. What a model is given for a
token, and what is kept between two, is up to who calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

_READ = {
    *("max_new_tokens", "min_new_tokens", "eos_token_id", "pad_token_id", "suppress_tokens"),
    "do_sample",
    "temperature",
}
_WITHOUT_EFFECT = {  # without beams, an assistant, a prompt of one's own, or a cache of one's own
    *("max_length", "bos_token_id", "use_cache", "disable_compile", "early_stopping", "length_penalty"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "encoder_repetition_penalty"),
    *("encoder_no_repeat_ngram_size", "transformers_version", "_from_model_config"),
}
_OF_SAMPLING = {"top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
_NEUTRAL = {"top_k": 0}  # where it is not transformers' default


@dataclass(frozen=True)
class Choosing:
    """How the next token is chosen.

    Attributes:
        most: tokens at which a response is cut.
        least: tokens before which none ends.
        ends: the tokens that end one.
        padding: what follows them.
        suppressed: tokens that are never chosen.
        temperature: of sampling; None for the likeliest token.
    """

    most: int
    least: int
    ends: tuple[int, ...]
    padding: int
    suppressed: tuple[int, ...]
    temperature: float | None

    @classmethod
    def of(cls, model: Any, config: GenerationConfig, generate: Callable[..., Any]) -> "Choosing | None":
        """How `generate` would choose; None if it does anything that is not here.

        Args:
            model: where a setting is missing in `config`, its own generation config counts.
            generate: the method that would be called; it may be the model's own, or an adapter's.
        """
        if getattr(generate, "__func__", None) is not GenerationMixin.generate or _in_step(model):
            return None
        whole = model._prepare_generation_config(config)[0].to_dict()
        neutral = GenerationConfig._get_default_generation_params() | _NEUTRAL
        ignored = _WITHOUT_EFFECT | (set() if whole["do_sample"] else _OF_SAMPLING)
        for name, value in whole.items():
            if name not in _READ | ignored and value not in (None, False, neutral.get(name)):
                return None
        ends, most, padding = (whole[name] for name in ("eos_token_id", "max_new_tokens", "pad_token_id"))
        if None in (ends, most, padding) or most < 1:
            return None
        return cls(
            most=most,
            least=whole["min_new_tokens"] or 0,
            ends=tuple(ends) if isinstance(ends, list) else (ends,),
            padding=padding,
            suppressed=tuple(whole["suppress_tokens"] or ()),
            temperature=whole["temperature"] if whole["do_sample"] else None,
        )

    def next(self, logits_NV: torch.Tensor, place: int) -> torch.Tensor:
        """The next token of each response, int[N], which has `place` tokens so far."""
        scores_NV = logits_NV.to(dtype=torch.float32, copy=True)
        if self.suppressed:
            scores_NV[:, list(self.suppressed)] = -torch.inf
        if place < self.least:
            scores_NV[:, list(self.ends)] = -torch.inf
        if self.temperature is None:
            return scores_NV.argmax(dim=-1)
        if self.temperature != 1:
            scores_NV /= self.temperature
        return torch.multinomial(scores_NV.softmax(dim=-1), num_samples=1).squeeze(1)


def _in_step(model: Any) -> bool:
    """Whether processes have to take as many passes as the one with the longest response."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    several = several and torch.distributed.get_world_size() > 1
    return several and (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))


def decode(
    step: Callable[[torch.Tensor, int], torch.Tensor],
    first_N: torch.Tensor,
    choosing: Choosing,
    *,
    share: float = 1,
    keep: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """The new tokens of N responses, int[N, C], padded on the right after their ends.

    Args:
        step: the logits [N, V] that follow the tokens int[N], the last of each response, and how many tokens
            a response has before this step.
        first_N: the tokens that responses begin after: the last of each prompt.
        share: of the responses, how many must have ended for all to end.
        keep: forgets all responses but these, int[M], which go on alone when half of the others have ended.
            Not for sampling, where each draws in turn.
    """
    ids_N, found = first_N, []
    ends = torch.tensor(choosing.ends, device=first_N.device)
    ended_N = torch.zeros(len(first_N), dtype=torch.bool, device=first_N.device)
    going_M = None  # the rows that `step` still has; None for all
    for place in range(choosing.most):
        if going_M is None:
            ids_N = choosing.next(step(ids_N, place), place).masked_fill(ended_N, choosing.padding)
        else:
            next_M = choosing.next(step(ids_N[going_M], place), place)
            ids_N = torch.full_like(ids_N, choosing.padding).index_copy(0, going_M, next_M)
            ids_N.masked_fill_(ended_N, choosing.padding)
        found.append(ids_N)
        if place + 1 < choosing.least:
            continue
        ended_N = ended_N | torch.isin(ids_N, ends)
        if ended_N.float().mean() >= share:
            break
        if keep is not None:
            before_M = torch.arange(len(ended_N), device=ended_N.device) if going_M is None else going_M
            goes_M = ~ended_N[before_M]
            if 2 * int(goes_M.sum()) <= len(goes_M):
                keep(goes_M.nonzero().squeeze(1))
                going_M = before_M[goes_M]
    return torch.stack(found, dim=1)
