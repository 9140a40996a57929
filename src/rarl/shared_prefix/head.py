"""Log-probs of tokens on a CPU, in place of what trl 1.16 computes there, which goes through the scores of
the vocabulary twice as often. A GPU has TRL's own kernel. The suffixes of tensors: X tokens, E in the
residual stream, Y tokens of the vocabulary."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl.trainer.utils as of_trl
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

_AT_ONCE = 2**19  # scores that are computed together: they fit a cache
_LEAST = 256  # tokens that are computed together at least, so that products stay large


@contextmanager
def lean_head(device: str) -> Iterator[None]:
    """Inside, the head that TRL gave the model computes log-probs and entropies as below."""
    if device != "cpu" or is_deepspeed_zero3_enabled():  # ZeRO-3 has to gather the weights in backward
        yield
        return
    names = vars(of_trl)
    own = names["_ChunkedLogProbFunction"]
    names["_ChunkedLogProbFunction"] = _Head(own)
    try:
        yield
    finally:
        names["_ChunkedLogProbFunction"] = own


class _Head:
    """Stands for TRL's function, which is called where anything is asked that is not here."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def apply(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        size: int,
        softcap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[torch.Tensor | None, ...]:
        if bias is not None or softcap is not None or not {*outputs} <= {"log_probs", "entropy"}:
            found: tuple[torch.Tensor | None, ...] = self._own.apply(
                hidden, weight, bias, targets, temperature, size, softcap, scale, outputs
            )
            return found
        lean = _LogProbs.apply(hidden, weight, targets, scale / temperature, "entropy" in outputs)
        return *lean, None, None, None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_XE: torch.Tensor,
        weight_YE: torch.Tensor,
        targets_X: torch.Tensor,
        scale: float,
        entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The log-prob of each target, float[X], and if wanted the entropy, float[X]."""
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.dtype = scale, _computed_in(hidden_XE)
        log_probs, entropies, sums = [], [], []
        for rows in _parts(len(hidden_XE), len(weight_YE)):
            scores_XY = _scores(hidden_XE[rows], weight_YE, ctx.dtype, scale)
            sums.append(scores_XY.logsumexp(dim=-1))
            log_probs.append(scores_XY.gather(1, targets_X[rows, None]).squeeze(1) - sums[-1])
            if entropy:
                likely_XY = (scores_XY - sums[-1][:, None]).exp_()
                entropies.append(sums[-1] - likely_XY.mul_(scores_XY).sum(dim=-1))
        sums_X = torch.cat(sums)
        entropies_X = torch.cat(entropies) if entropy else None
        ctx.save_for_backward(hidden_XE, weight_YE, targets_X, sums_X, entropies_X)
        return torch.cat(log_probs), entropies_X

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden_XE, weight_YE, targets_X, sums_X, entropies_X = ctx.saved_tensors
        of_log_probs_X, of_entropies_X = gradients
        for_hidden, for_weight, *_ = ctx.needs_input_grad
        hidden_gradient = torch.zeros_like(hidden_XE, dtype=torch.float32) if for_hidden else None
        weight_gradient = torch.zeros_like(weight_YE, dtype=torch.float32) if for_weight else None
        for rows in _parts(len(hidden_XE), len(weight_YE)):
            logs_XY = _scores(hidden_XE[rows], weight_YE, ctx.dtype, ctx.scale).sub_(sums_X[rows, None])
            gradient_XY = logs_XY.exp()
            if of_entropies_X is not None:
                logs_XY.add_(entropies_X[rows, None]).mul_(of_entropies_X[rows, None])
                if of_log_probs_X is not None:
                    logs_XY.add_(of_log_probs_X[rows, None])
                gradient_XY.mul_(logs_XY).neg_()
            elif of_log_probs_X is not None:
                gradient_XY.mul_(-of_log_probs_X[rows, None])
            if of_log_probs_X is not None:
                gradient_XY.scatter_add_(1, targets_X[rows, None], of_log_probs_X[rows, None])
            gradient_XY = gradient_XY.mul_(ctx.scale).to(ctx.dtype)
            if hidden_gradient is not None:
                hidden_gradient[rows] = (gradient_XY @ weight_YE.to(ctx.dtype)).float()
            if weight_gradient is not None:
                weight_gradient += (gradient_XY.T @ hidden_XE[rows].to(ctx.dtype)).float()
        return (
            None if hidden_gradient is None else hidden_gradient.to(hidden_XE.dtype),
            None if weight_gradient is None else weight_gradient.to(weight_YE.dtype),
            None,
            None,
            None,
        )


def _computed_in(hidden: torch.Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype


def _parts(tokens: int, vocabulary: int) -> list[slice]:
    size = max(_LEAST, _AT_ONCE // vocabulary)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _scores(
    hidden_XE: torch.Tensor, weight_YE: torch.Tensor, dtype: torch.dtype, scale: float
) -> torch.Tensor:
    scores_XY = (hidden_XE.to(dtype) @ weight_YE.to(dtype).T).float()
    return scores_XY if scale == 1 else scores_XY.mul_(scale)
