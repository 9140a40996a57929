"""What RMO would put in place of each response (section 3.2): the true answer, the best response of its
group, or the prompt's best reply of earlier steps, as token ids with the end token. Which responses are
replaced is decided elsewhere (`choice`)."""

import math
from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object

from rarl.errors import ConfigError
from rarl.method.equations import is_rankable
from rarl.method.mutation import Mutation, keep_reasoning, values_in_order
from rarl.method.replies import (
    Item,
    continuation,
    parse,
    reasoning_template,
    reference_items,
    write_answer,
    write_reply,
)
from rarl.method.rewards import format_reward
from rarl.training.mutation.replaying import Replaying


class References(Replaying):
    """Goes before GRPOTrainer among the bases of a class that sets `_inputs`, `_mutation`, `_opening` and
    `_special`."""

    max_completion_length: int
    reward_func_names: list[str]
    _tokenizer: Any
    _mutation: Mutation
    _opening: str  # what the prompt has begun of the reply
    _special: frozenset[int]

    def _has_references(self) -> bool:
        """Whether there is something to replace responses by. A dataset needs none if nothing is mutated."""
        columns = self._inputs[0]
        orders_alone = "order" in columns and "values" not in columns
        wanted = ("order", "range", "step") if orders_alone else ("values", "step")
        lacking = [column for column in wanted if column not in columns]
        if lacking and self._mutation.reference != "best" and self._mutation.probability > 0:
            raise ConfigError(
                "mutation by the ground truth needs the dataset's columns 'values' and 'step', such as "
                f"[3, 7] and 1, or 'order', 'range' and 'step'; missing: {', '.join(lacking)}"
            )
        return not lacking or self._mutation.reference == "best"

    def _reference_ids(self, completion_ids: list[list[int]], rewards: list[float]) -> list[list[int]]:
        """The token ids, with the end token, that would replace each local response."""
        if self._mutation.reference == "best":
            return self._best_ids(completion_ids, rewards)
        return [
            self._replayed(index, ids, rewards)
            or self._true_reference(ids, self._true_items(ids, example), example)
            for index, (ids, example) in enumerate(zip(completion_ids, self._inputs, strict=True))
        ]

    def _true_items(self, own: list[int], example: dict[str, Any]) -> list[Item]:
        """The true list. If only the order is known, it is in that order, with the response's own values."""
        if "values" in example:
            return reference_items(example["values"])
        order = example["order"]
        if self._mutation.probability > 0 and not is_rankable(order):
            raise ConfigError(
                f"column 'order': {order} has nothing to rank, so there is no reference to mutate by: give "
                "each prompt two pictures or more, of different places"
            )
        given = parse(self._opening + self._decode(own)).values(len(order))
        values = values_in_order(given, order, example["range"], example["step"])
        # Sorted by place, not by value: the response's own values may be tied.
        return [Item(index + 1, values[index]) for index in sorted(range(len(order)), key=order.__getitem__)]

    def _true_reference(self, own: list[int], items: list[Item], example: dict[str, Any]) -> list[int]:
        ids, step = None, example["step"]
        if self._mutation.reasoning == "keep":
            ids = self._keep(own, f"\n<answer>{write_answer(items, step)}</answer>", example)
        if ids is None:
            values = [item.value for item in sorted(items, key=lambda item: item.image_id)]
            spelled = "" if self._mutation.reasoning == "empty" else reasoning_template(values, step)
            ids = self._encode(continuation(write_reply(spelled, items, step), self._opening))
        if len(ids) + 1 > self.max_completion_length and self._mutation.probability > 0:
            raise ConfigError(
                f"max_completion_length {self.max_completion_length} can't hold the reference reply for "
                f"{len(items)} images ({len(ids) + 1} tokens); raise it to at least {len(ids) + 1}"
            )
        return [*ids, self._tokenizer.eos_token_id]

    def _best_ids(self, completion_ids: list[list[int]], rewards: list[float]) -> list[list[int]]:
        """The best response of each local response's group; with `keep`, after the response's own
        reasoning. Where R_format is a reward, only a response that has it counts, and has ended; each is its
        own reference where there is none, so that nothing is replaced."""
        everyone = gather_object(completion_ids)
        offset = self.accelerator.process_index * len(completion_ids)
        result = []
        for index, own in enumerate(completion_ids):
            start = (offset + index) // self.num_generations * self.num_generations
            group = range(start, start + self.num_generations)
            scored = [i for i in group if not math.isnan(rewards[i])]
            if "format_reward" in self.reward_func_names:
                example = self._inputs[index]
                scored = [i for i in scored if self._is_whole(everyone[i], example)]
            if scored:
                best = everyone[max(scored, key=lambda i: (rewards[i], -i))]
                own = self._with_own_reasoning(best, own, self._inputs[index])
            result.append(own)
        return result

    def _with_own_reasoning(self, best: list[int], own: list[int], example: dict[str, Any]) -> list[int]:
        """A better reply; with `keep`, its answer after the response's own reasoning, where that can be."""
        ids = None
        if self._mutation.reasoning == "keep":
            _, closed, answer = self._decode(best).partition("</think>")
            ids = self._keep(own, answer, example) if closed else None
        if ids is None or len(ids) + 1 > self.max_completion_length:
            return best
        return [*ids, self._tokenizer.eos_token_id]

    def _keep(self, own: list[int], answer: str, example: dict[str, Any]) -> list[int] | None:
        """The response's own reasoning with this answer; None where that is no reply to inject."""
        ids = keep_reasoning(own, answer, self._encode, self._decode, self.max_completion_length - 1)
        return ids if ids is not None and self._is_reference(ids, example) else None

    def _is_reference(self, ids: list[int], example: dict[str, Any]) -> bool:
        """Whether these tokens, without an end token, may be injected: they earn R_format, and none of them
        is special, for the text that is scored would not show it."""
        truth = {name: [example[name]] for name in ("values", "order") if name in example}
        text = self._opening + self._decode(ids)
        return format_reward([text], **truth) == [1.0] and self._special.isdisjoint(ids)

    def _is_whole(self, ids: list[int], example: dict[str, Any]) -> bool:
        """Whether a response ended before it was cut, and may be injected."""
        return not self._special.isdisjoint(ids[-1:]) and self._is_reference(ids[:-1], example)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _completion(self, ids: Sequence[int], as_text: bool) -> str | list[dict[str, str]]:
        text = self._opening + self._decode(ids)
        return text if as_text else [{"role": "assistant", "content": text}]
