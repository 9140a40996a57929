"""Log-probs of many replies to each prompt in one pass that encodes the prompt and its image once
(`rarl.shared_prefix`). It is the only file of this folder that knows how prompts are shared; `expected` says
how to do without it. The suffixes of tensors are explained in `rarl.shared_prefix`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from rarl.shared_prefix.attention import IMPLEMENTATION
from rarl.shared_prefix.packing import Prompts, pack, share, why_not

LOGITS_AT_ONCE = 2**26  # numbers: 256 MiB in float32


def can_pack(model: PreTrainedModel) -> bool:
    """Whether this model can share prompts."""
    return why_not(model) is None


def packed_log_probs(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    contexts: Sequence[Sequence[int]],
    ids_NC: torch.Tensor,
    mask_NC: torch.Tensor,
    tokens_NCK: torch.Tensor,
) -> torch.Tensor:
    """The log-probs of some tokens at each place of each response, float32[N, C, K].

    Args:
        inputs: what the processor makes of B prompts with images, padded on the left.
        contexts: for each prompt the tokens that all of its responses begin with.
        ids_NC: the responses after those, G for each prompt, padded on the right.
        mask_NC: the places that are asked for.
        tokens_NCK: K tokens that could stand at each place, such as the response's own.
    """
    with sharing(model):
        prompts = _with_contexts(inputs, contexts)
        packed = pack(model, prompts, ids_NC, mask_NC)
        hidden_BLD = model.base_model(**packed.inputs, use_cache=False).last_hidden_state
    rows, length = ids_NC.shape
    hidden_NCD = hidden_BLD[:, prompts.ids.shape[1] - 1 :].reshape(rows, length, -1)
    found_NCK = torch.zeros(tokens_NCK.shape, dtype=torch.float32, device=hidden_NCD.device)
    hidden_XD, tokens_XK = hidden_NCD[mask_NC], tokens_NCK[mask_NC]
    head: Any = model.get_output_embeddings()
    at_once = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    found = []
    for some_XD, some_XK in zip(hidden_XD.split(at_once), tokens_XK.split(at_once), strict=True):
        logits_XV = head(some_XD).float()
        found.append(logits_XV.gather(1, some_XK) - logits_XV.logsumexp(dim=1, keepdim=True))
    found_NCK[mask_NC] = torch.cat(found)
    return found_NCK


@contextmanager
def sharing(model: PreTrainedModel) -> Iterator[None]:
    """Shares prompts inside, and leaves the model with the attention it had."""
    before = model.config.get_text_config()._attn_implementation
    if before == IMPLEMENTATION:
        yield
        return
    share(model)
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def _with_contexts(inputs: Mapping[str, torch.Tensor], contexts: Sequence[Sequence[int]]) -> Prompts:
    """The prompts with their contexts at the end, padded on the left again."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    rows = [
        torch.cat([row[seen], torch.tensor(list(context), dtype=row.dtype, device=row.device)])
        for row, seen, context in zip(ids, mask, contexts, strict=True)
    ]
    length = max(map(len, rows))
    padded_ids = ids.new_zeros(len(rows), length)
    padded_mask = mask.new_zeros(len(rows), length)
    for place, row in enumerate(rows):
        padded_ids[place, length - len(row) :] = row
        padded_mask[place, length - len(row) :] = True
    images = {key: inputs[key] for key in ("pixel_values", "image_grid_thw")}
    return Prompts(padded_ids, padded_mask, images)
