"""RMO on a batch as verl lays it out: every tensor that says something of a replaced response, and nothing of
any other. The batch is made by hand: prompts of up to 3 tokens on the left, replies of up to 60 on the
right."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from rarl.errors import ConfigError
from rarl.integrations.verl_batch import Rollouts, Scored, mutate, mutation_of
from rarl.integrations.verl_reward import compute_score
from rarl.method.labels import label_of
from rarl.method.mutation import Mutation
from rarl.method.replies import reference_reply

PROMPT, WIDTH, PAD, END = 3, 120, 0, 1
LABELS = [
    label_of({"values": values, "delta": 2.0, "range": [0, 9], "step": 1.0}) for values in ([3.0, 7.0], [5.0])
]
TRUTHS = [reference_reply([3.0, 7.0], 1.0), reference_reply([5.0], 1.0)]


class Letters:
    """A token for each character."""

    pad_token_id, eos_token_id = PAD, END

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]

    def decode(self, ids: torch.Tensor) -> str:
        return "".join(chr(i) for i in ids.tolist() if i not in (PAD, END))


def judge(row: int, text: str) -> Scored:
    return compute_score("x", text, LABELS[row // 3])


def batch(replies: list[str], *, kinds: int = 4) -> Rollouts:
    """Two groups of three; the prompts of the first have 2 tokens, those of the second 3."""
    count = len(replies)
    ids = torch.zeros(count, PROMPT + WIDTH, dtype=torch.long)
    mask = torch.zeros_like(ids)
    scores = torch.zeros(count, WIDTH)
    scored = [judge(row, reply) for row, reply in enumerate(replies)]
    for row, reply in enumerate(replies):
        tokens = [*Letters().encode(reply, False), END]
        start = 1 if row < 3 else 0
        ids[row, start:PROMPT] = 7
        ids[row, PROMPT : PROMPT + len(tokens)] = torch.tensor(tokens)
        mask[row, start : PROMPT + len(tokens)] = 1
        scores[row, len(tokens) - 1] = scored[row]["score"]
    positions = (mask.cumsum(-1) - 1).clip(min=0)
    if kinds > 1:  # the prompt's images shift the positions of vision by 10
        shift = torch.tensor([0, *[10] * (kinds - 1)]).reshape(1, kinds, 1)
        positions = positions.unsqueeze(1).repeat(1, kinds, 1) + shift
    tensors = {
        "prompts": ids[:, :PROMPT].clone(),
        "responses": ids[:, PROMPT:].clone(),
        "response_mask": mask[:, PROMPT:].clone(),
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "rm_scores": scores,
    }
    extras = {name: np.array([s[name] for s in scored]) for name in scored[0]}
    return Rollouts(tensors, extras, [[0, 1, 2], [3, 4, 5]], [LABELS[row // 3] for row in range(count)])


BAD = "<think></think><answer>[]</answer>"
HALF = reference_reply([4.0, 7.0], 1.0)
REPLIES = [HALF, BAD, TRUTHS[0], TRUTHS[1], TRUTHS[1], TRUTHS[1]]
ALWAYS = Mutation.of(k=1, probability=1.0)


@pytest.mark.parametrize("kinds", [1, 4])
def test_a_replaced_response_is_as_if_the_model_had_written_it(kinds: int) -> None:
    rollouts = batch(REPLIES, kinds=kinds)
    wanted = batch([HALF, TRUTHS[0], *REPLIES[2:]], kinds=kinds)
    assert mutate(rollouts, ALWAYS, judge, Letters(), "0") == [1]
    inside = wanted.tensors["attention_mask"].bool()
    for name, tensor in wanted.tensors.items():
        given = rollouts.tensors[name]
        assert given.dtype == tensor.dtype
        if name == "position_ids":  # positions of padding are nobody's
            mask = inside if kinds == 1 else inside.unsqueeze(1).expand_as(tensor)
            given, tensor = given[mask], tensor[mask]
        assert torch.equal(given, tensor), name
    for name, numbers in wanted.extras.items():
        np.testing.assert_array_equal(rollouts.extras[name], numbers)


def test_only_the_k_lowest_below_the_reference_and_no_perfect_group() -> None:
    replies = [HALF, BAD, BAD, *REPLIES[3:]]
    assert mutate(batch(replies), ALWAYS, judge, Letters(), "0") == [1]
    assert mutate(batch(replies), ALWAYS.model_copy(update={"k": 2}), judge, Letters(), "0") == [1, 2]
    stagnant = Mutation.of(k=1, probability=1.0, when="stagnant")
    assert mutate(batch([BAD, BAD, BAD, *REPLIES[3:]]), stagnant, judge, Letters(), "") == [0]
    assert mutate(batch(replies), stagnant, judge, Letters(), "") == []


def test_the_draw_is_of_the_seed_and_the_group() -> None:
    mutation = Mutation.of(k=1, probability=0.5)
    replies = [HALF, BAD, BAD, BAD, BAD, TRUTHS[1]]
    for seed in "abcdef":
        drawn = [random.Random(f"{seed}:{group}").random() < 0.5 for group in (0, 1)]
        wanted = [row for row, is_drawn in zip((1, 3), drawn, strict=True) if is_drawn]
        assert mutate(batch(replies), mutation, judge, Letters(), seed) == wanted


def test_empty_reasoning() -> None:
    rollouts = batch(REPLIES)
    mutate(rollouts, Mutation.of(k=1, probability=1.0, reasoning="empty"), judge, Letters(), "0")
    text = Letters().decode(rollouts.tensors["responses"][1])
    assert text == reference_reply([3.0, 7.0], 1.0, reasoned=False)


@pytest.mark.parametrize("name", ["rollout_log_probs", "teacher_logprobs", "routed_experts"])
def test_what_an_injected_token_has_not_is_refused(name: str) -> None:
    rollouts = batch(REPLIES)
    rollouts.tensors[name] = torch.zeros(6, WIDTH)  # type: ignore[index]
    with pytest.raises(ConfigError, match=f"has no {name}"):
        mutate(rollouts, ALWAYS, judge, Letters(), "0")


def test_a_reference_that_does_not_fit_is_refused() -> None:
    rollouts = batch(REPLIES)
    rollouts.tensors["responses"] = rollouts.tensors["responses"][:, :20]  # type: ignore[index]
    with pytest.raises(ConfigError, match="max_response_length 20"):
        mutate(rollouts, ALWAYS, judge, Letters(), "0")


@pytest.mark.parametrize(
    ("section", "said"),
    [({"K": 2}, "rarl.K"), ({"k": 0}, "mutation.k"), ({"reasoning": "keep"}, "template or empty")],
)
def test_settings_that_are_not_had_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mutation_of(section)


def test_settings() -> None:
    assert mutation_of({}) == Mutation()
    assert mutation_of({"k": 1, "when": "stagnant"}) == Mutation.of(k=1, when="stagnant")
