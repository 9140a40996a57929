"""The replies to one image that there can be, one for each value of a task's grid, as tokens: what all of
them begin with, and the rest of each. No model is asked here."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from rarl.method.replies import (
    END_THINK,
    THINK,
    Item,
    continuation,
    parse_leniently,
    reasoning_template,
    write_reply,
)
from rarl.method.tasks import Task, steps_above

Reasoning = Literal["template", "empty"]
"""The reasoning of a candidate: the template that spells its value, or none."""

LARGEST_GRID = 10_000
"""Of a task with more values than these no distribution is computed."""


@dataclass(frozen=True)
class Candidates:
    """The V replies that an image can get, as tokens that follow its prompt.

    Attributes:
        context: what all of them begin with; empty if nothing.
        rests: the other tokens of each, one or more, with the token that ends a reply.
    """

    context: list[int]
    rests: list[list[int]]


def has_grid(task: Task) -> bool:
    """Whether the task has few enough values for a distribution over them."""
    return bool(steps_above(task.high, task.low, task.step) < LARGEST_GRID)


def candidates(tokenizer: Any, task: Task, opening: str, reasoning: Reasoning | str) -> Candidates:
    """The replies with this reasoning, one for each value of `task.grid`.

    They are encoded apart from the prompt: together, the tokenizer could merge what the two have at their
    border.

    Args:
        opening: what the chat template writes of a reply (`rarl.models.processor.reply_opening`).
        reasoning: `template`, `empty`, or between think tags what stands in all replies.
    """
    texts = []
    for value in task.grid:
        thought = {"template": reasoning_template([value], task.step), "empty": ""}.get(reasoning)
        thought = thought_of(reasoning) if thought is None else thought
        texts.append(continuation(write_reply(thought, [Item(1, value)], task.step), opening))
    end = tokenizer.eos_token_id
    rows = [[*ids, end] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False))
    context = [tokens[0] for tokens in alike][: min(map(len, rows)) - 1]
    return Candidates(context, [row[len(context) :] for row in rows])


def thought_of(reply: str) -> str:
    """What a reply reasons before its answer, without the tags; of one that closes no reasoning, nothing."""
    before, closed, _ = reply.partition(END_THINK)
    return before.partition(THINK)[2] if closed and THINK in before else before if closed else ""


def uses_template(replies: Sequence[str], task: Task) -> bool:
    """Whether most of these replies to single images reason as the template does: by spelling their value."""
    spelled = 0
    for reply in replies:
        value = parse_leniently(reply, 1).values(1)[0]
        if value is not None:
            spelled += thought_of(reply).strip() == reasoning_template([value], task.step)
    return 2 * spelled > len(replies)
