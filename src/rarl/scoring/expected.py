"""A model's value of an image as a distribution over the task's grid: the probabilities of all answers that
there can be, read in one pass over whole replies, with no token generated. Its mean has finer steps than any
reply, and its spread says how sure the model is. How it is used is in `values`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from rarl.method.prompts import messages
from rarl.method.tasks import Task
from rarl.models.generation.replies import Message, evaluating, inputs_of
from rarl.models.machine import TOO_MANY_PROMPTS, memory_for
from rarl.models.processor import reply_opening
from rarl.scoring.candidates import Candidates, candidates
from rarl.scoring.distribution import Distributions

# One pass that shares a prompt and its image is five times as fast. To be rid of it, delete the folder
# `rarl/shared_prefix`, packed.py and, in this file, every line that ends in "# shared prefix".
from rarl.scoring.packed import can_pack, packed_log_probs  # shared prefix
from rarl.scoring.trie import Trie, most_beyond, with_rests

MOST_EXACT = 256
"""Values up to which every whole reply is read; beyond, a trie is."""
LIKELIEST = 64  # of so many values of a larger grid whole replies are read at once, the likeliest first,
NEGLIGIBLE = 1e-3  # until the others can't have more than this probability together
TOKENS_AT_ONCE = 2**15  # of replies in one pass

_Rows = Sequence[Sequence[int]]
"""G sequences of tokens."""
_Choices = Sequence[Sequence[Sequence[int]]]
"""For each place of each of G sequences the tokens that could stand there."""


def distributions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    task: Task,
    *,
    reasoning: str | Sequence[str] = "template",
    rule: str | None = None,
    batch_size: int,
) -> Distributions:
    """The model's distribution over `task.grid` for each image, in a prompt of its own.

    The probability of a value is that of the whole reply with it, divided by the sum over all values. A grid
    of more than `MOST_EXACT` values is read by its digits, see `rarl.scoring.trie`.

    Args:
        reasoning: of the replies: `template`, which spells the value; `empty`; or for each image a reply of
            the model, whose reasoning is kept whatever the value.
        rule: what the prompt asks for; None for the task's.
        batch_size: prompts in one pass; fewer if the task has many values.

    Returns:
        Distributions of N rows.

    Raises:
        ModelError: if the GPU's memory is too small for a pass.
    """
    grid = np.array(task.grid)
    if not images:
        return Distributions(grid, np.zeros((0, len(grid))))
    opening, tokenizer = reply_opening(processor), processor.tokenizer
    if isinstance(reasoning, str):
        found = [candidates(tokenizer, task, opening, reasoning)] * len(images)
    else:
        found = [candidates(tokenizer, task, opening, reply) for reply in reasoning]
    question = messages(1, rule or task.rule, task.value_range)
    longest = max(len(rest) for one in found for rest in one.rests)
    values = min(len(grid), MOST_EXACT)
    size = max(1, min(batch_size, TOKENS_AT_ONCE // (values * longest)))
    logs = np.empty((len(images), len(grid)))
    # Images of one size have prompts of one length, and little is padded.
    order = sorted(range(len(images)), key=lambda place: images[place].width * images[place].height)
    with torch.inference_mode(), evaluating(model), memory_for(TOO_MANY_PROMPTS):
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            some = _Batch(model, processor, question, [images[i] for i in batch], [found[i] for i in batch])
            logs[batch] = some.exact() if len(grid) <= MOST_EXACT else some.by_digits()
    return Distributions.from_log_probs(grid, logs)


class _Batch:
    """The prompts of a few images with all candidates of each."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        question: list[Message],
        images: Sequence[Image.Image],
        found: Sequence[Candidates],
    ) -> None:
        self._model, self._processor, self._question, self._images = model, processor, question, images
        self._found = found

    def exact(self) -> np.ndarray:
        """The log-probs of all whole replies, float64[B, V]."""
        return self._whole([one.rests for one in self._found])

    def by_digits(self) -> np.ndarray:
        """The same through the tries of the replies and the whole replies of the likeliest values."""
        tries: dict[int, Trie] = {}
        for one in self._found:
            if id(one) not in tries:
                tries[id(one)] = Trie.of(one.rests)
        own = [tries[id(one)] for one in self._found]
        # Each reasoning has its tree; nearly always they are one.
        found = self._log_probs([trie.rows for trie in own], [trie.tokens for trie in own])
        decided = np.concatenate([t.log_probs(found[i : i + 1]) for i, t in enumerate(own)])
        order = np.argsort(-decided, axis=1, kind="stable")
        logs, whole = decided, np.empty((len(order), 0))
        for start in range(0, order.shape[1], LIKELIEST):
            next_ones = order[:, start : start + LIKELIEST]
            chosen = [[one.rests[i] for i in mine] for one, mine in zip(self._found, next_ones, strict=True)]
            whole = np.concatenate([whole, self._whole(chosen)], axis=1)
            known = order[:, : whole.shape[1]]
            logs = with_rests(decided, known, whole)
            if most_beyond(decided, known, whole) <= NEGLIGIBLE:
                break
        return logs

    def _whole(self, rests: Sequence[_Rows]) -> np.ndarray:
        """The log-probs of whole replies, float64[B, G], for as many of each prompt."""
        return self._log_probs(rests, [None] * len(rests))[..., 0].sum(axis=2)

    def _log_probs(self, rows: Sequence[_Rows], tokens: Sequence[_Choices | None]) -> np.ndarray:
        """The log-probs of `tokens`, float64[B, G, C, K], at each place of each of the `rows` of each prompt;
        0 where there is none. None is for the tokens of the rows themselves."""
        made: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for mine, follow in zip(rows, tokens, strict=True):  # mostly all are one object
            if id(mine) not in made:
                made[id(mine)] = _padded(mine, follow)
        shape = np.max([wanted.shape for _, wanted, _ in made.values()], axis=0)
        shaped = {key: [_to_shape(each, shape) for each in table] for key, table in made.items()}
        tables = [shaped[id(mine)] for mine in rows]
        ids, wanted, there = (torch.from_numpy(np.stack(each)) for each in zip(*tables, strict=True))
        device = self._model.device
        flat = [each.flatten(0, 1).to(device) for each in (ids, there.any(dim=-1), wanted)]
        contexts = [one.context for one in self._found]
        if can_pack(self._model):  # shared prefix
            inputs = self._inputs(range(len(rows)))  # shared prefix
            found = packed_log_probs(self._model, inputs, contexts, *flat)  # shared prefix
            return _numbers(found.view(wanted.shape), there)  # shared prefix
        count = ids.shape[1]
        found = torch.cat([self._repeated(b, contexts[b], count, *flat) for b in range(len(rows))])
        return _numbers(found.view(wanted.shape), there)

    def _repeated(
        self,
        place: int,
        context: Sequence[int],
        count: int,
        ids: torch.Tensor,
        mask: torch.Tensor,
        wanted: torch.Tensor,
    ) -> torch.Tensor:
        """The log-probs [G, C, K] of one prompt of the batch, which is repeated for each of its rows."""
        mine = slice(place * count, (place + 1) * count)
        inputs = dict(self._inputs([place] * count))
        before = torch.tensor([list(context)] * count, dtype=torch.long, device=ids.device)
        added = torch.cat([before.view(count, -1), ids[mine]], dim=1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(added)], dim=1)
        if (kinds := inputs.get("mm_token_type_ids")) is not None:
            inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(added)], dim=1)
        logits = self._model(**inputs, use_cache=False).logits[:, -ids.shape[1] - 1 : -1]
        return logits.float().log_softmax(dim=-1).gather(2, wanted[mine])

    def _inputs(self, places: Sequence[int]) -> Mapping[str, torch.Tensor]:
        inputs = inputs_of(
            self._processor, [self._question] * len(places), [[self._images[place]] for place in places]
        )
        return inputs.to(self._model.device)


def _numbers(found: torch.Tensor, there: torch.Tensor) -> np.ndarray:
    return found.cpu().double().masked_fill(~there, 0.0).numpy()


def _padded(rows: _Rows, tokens: _Choices | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows, int[G, C], the tokens asked for, int[G, C, K], and which of these there are."""
    length = max(map(len, rows))
    ids = np.zeros((len(rows), length), dtype=np.int64)
    there = np.zeros(ids.shape, dtype=bool)
    for g, row in enumerate(rows):
        ids[g, : len(row)], there[g, : len(row)] = row, True
    if tokens is None:
        return ids, ids[..., None], there[..., None]
    choices = max(len(some) for row in tokens for some in row)
    wanted = np.zeros((*ids.shape, choices), dtype=np.int64)
    there = np.zeros(wanted.shape, dtype=bool)
    for g, row_tokens in enumerate(tokens):
        for c, some in enumerate(row_tokens):
            wanted[g, c, : len(some)], there[g, c, : len(some)] = some, True
    return ids, wanted, there


def _to_shape(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The array with zeros after its end, up to as many of its dimensions as it has."""
    return np.pad(
        array, [(0, int(wanted) - there) for there, wanted in zip(array.shape, shape, strict=False)]
    )
