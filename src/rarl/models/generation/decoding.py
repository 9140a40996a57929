"""Tokens one after the other, as `generate` of transformers 5.23 chooses them, without what it does around
each: in a small model that is most of the time. Only plain greedy decoding and plain sampling are here;
`Choosing.of` says for which settings, and the others are left to `generate`. What a model is given for a
token, and what is kept between two, is up to who calls.

Where the numbers by which tokens are drawn are given (`Drawn`), a response is the same whatever stands beside
it in its batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from rarl.errors import ModelError

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
_OTHER_CUTS = ("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
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
        if isinstance(generate, Drawn):
            generate = generate.generate
        if not _is_plain(generate) or _in_step(model):
            return None
        whole = model._prepare_generation_config(config)[0].to_dict()
        neutral = GenerationConfig._get_default_generation_params() | _NEUTRAL
        ignored = _WITHOUT_EFFECT | (set() if whole["do_sample"] else _OF_SAMPLING)
        for name, value in whole.items():
            plain = value is None or value is False or value == neutral.get(name)
            if name not in _READ | ignored and not plain:
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

    def next(self, logits_NV: torch.Tensor, place: int, draws_N: torch.Tensor | None = None) -> torch.Tensor:
        """The next token of each response, int[N], which has `place` tokens so far.

        Args:
            draws_N: from [0, 1), by which tokens are drawn; None to draw by torch's generator.
        """
        scores_NV = logits_NV.to(dtype=torch.float32, copy=True)
        if self.suppressed:
            scores_NV[:, list(self.suppressed)] = -torch.inf
        if place < self.least:
            scores_NV[:, list(self.ends)] = -torch.inf
        if self.temperature is None:
            return scores_NV.argmax(dim=-1)
        if self.temperature != 1:
            scores_NV /= self.temperature
        if draws_N is None:
            return torch.multinomial(scores_NV.softmax(dim=-1), num_samples=1).squeeze(1)
        return drawn(scores_NV, draws_N)


# ── tokens by given numbers ──────────────────────────────────────────────────────────────────────────────


def drawn(scores_NV: torch.Tensor, draws_N: torch.Tensor) -> torch.Tensor:
    """The token of each row, int[N], at which the cumulated probabilities of its scores pass a number from
    [0, 1). The likeliest token is counted first: rounding that moves the borders between the others then
    seldom turns a token.

    Raises:
        ModelError: if there are scores that are no numbers.
    """
    likely_NV = scores_NV.softmax(dim=-1)
    first_N1, token_N1 = likely_NV.max(dim=-1, keepdim=True)
    if not bool(first_N1.isfinite().all()):
        raise ModelError("the model's probabilities of the next token are no numbers: its weights broke down")
    others_NV = likely_NV.scatter(1, token_N1, 0.0).cumsum(dim=-1)
    beyond_N1 = draws_N[:, None] * (first_N1 + others_NV[:, -1:]) - first_N1
    found_N1 = torch.searchsorted(others_NV, beyond_N1, right=True)
    # Rounded, a draw can be the whole, which no token passes.
    is_other_N1 = (beyond_N1 >= 0) & (beyond_N1 < others_NV[:, -1:])
    return torch.where(is_other_N1, found_N1, token_N1).squeeze(1)


def draws_of(seed: int, count: int) -> torch.Tensor:
    """So many numbers from [0, 1), float[C]."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


@contextmanager
def generating_by(model: Any, generate: Callable[..., Any]) -> Iterator[None]:
    """Inside, this is the model's `generate`."""
    before = vars(model).get("generate")
    model.generate = generate
    try:
        yield
    finally:
        del model.generate
        if before is not None:
            model.generate = before


class Drawn:
    """A model's `generate` that draws by given numbers. With beams, an assistant, or `typical_p`,
    `epsilon_cutoff`, `eta_cutoff` or `top_h` it draws as ever.

    Args:
        generate: the model's own, or an adapter's.
        draws_NC: from [0, 1), for each row of a call and each of its new tokens.
    """

    def __init__(self, generate: Callable[..., Any], draws_NC: torch.Tensor) -> None:
        self.generate, self.draws_NC = generate, draws_NC

    def __call__(self, *args: Any, generation_config: GenerationConfig, **kwargs: Any) -> Any:
        whole, neutral = generation_config, GenerationConfig._get_default_generation_params()
        model: Any = getattr(self.generate, "__self__", None)
        if hasattr(model, "_prepare_generation_config"):
            whole = model._prepare_generation_config(generation_config)[0]  # with what the model's own adds
        plain = whole.do_sample and whole.num_beams in (None, 1) and not whole.prompt_lookup_num_tokens
        others = (getattr(whole, name, None) for name in _OTHER_CUTS)
        if (
            plain
            and kwargs.get("assistant_model") is None
            and all(
                value in (None, neutral.get(name)) for name, value in zip(_OTHER_CUTS, others, strict=True)
            )
        ):
            kwargs["logits_processor"] = LogitsProcessorList([_Draws(self.draws_NC, whole)])
        return self.generate(*args, generation_config=generation_config, **kwargs)


class _Draws(LogitsProcessor):
    """Leaves the token alone that is drawn by the given numbers, as the last of what changes the scores:
    transformers puts what cuts a distribution behind a processor that is given to it."""

    def __init__(self, draws_NC: torch.Tensor, config: GenerationConfig) -> None:
        self._draws_NC, self._place = draws_NC, 0
        self._cuts = LogitsProcessorList()
        if config.temperature not in (None, 1.0):
            self._cuts.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            self._cuts.append(TopKLogitsWarper(config.top_k))
        if config.top_p is not None and config.top_p < 1:
            self._cuts.append(TopPLogitsWarper(config.top_p))
        if config.min_p is not None:
            self._cuts.append(MinPLogitsWarper(config.min_p))

    def __call__(self, input_ids: Any, scores: Any) -> torch.Tensor:
        chosen_N = drawn(self._cuts(input_ids, scores.float()), self._draws_NC[:, self._place])
        self._place += 1
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_N[:, None], 0.0)


def _is_plain(generate: Any) -> bool:
    """Whether a method is transformers' own, or that of an adapter which does nothing else."""
    function, owner = getattr(generate, "__func__", None), getattr(generate, "__self__", None)
    if getattr(function, "__module__", "") == "peft.peft_model":
        adapter = owner.active_peft_config  # type: ignore[union-attr]
        if adapter.is_prompt_learning or getattr(adapter, "alora_invocation_tokens", None) is not None:
            return False
        function = getattr(owner.get_base_model().generate, "__func__", None)  # type: ignore[union-attr]
    return function is GenerationMixin.generate


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
    draws_NC: torch.Tensor | None = None,
) -> torch.Tensor:
    """The new tokens of N responses, int[N, C], padded on the right after their ends.

    Args:
        step: the logits [N, V] that follow the tokens int[N], the last of each response, and how many tokens
            a response has before this step.
        first_N: the tokens that responses begin after: the last of each prompt.
        share: of the responses, how many must have ended for all to end.
        keep: forgets all responses but these, int[M], which go on alone when half of the others have ended.
            Where tokens are drawn, it needs `draws_NC`.
        draws_NC: from [0, 1), by which each token is drawn; None to draw by torch's generator.
    """
    ids_N, found = first_N, []
    ends = torch.tensor(choosing.ends, device=first_N.device)
    ended_N = torch.zeros(len(first_N), dtype=torch.bool, device=first_N.device)
    going_M = None  # the rows that `step` still has; None for all
    for place in range(choosing.most):
        draws_N = None if draws_NC is None else draws_NC[:, place]
        if going_M is None:
            ids_N = choosing.next(step(ids_N, place), place, draws_N).masked_fill(ended_N, choosing.padding)
        else:
            draws_M = None if draws_N is None else draws_N[going_M]
            next_M = choosing.next(step(ids_N[going_M], place), place, draws_M)
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
