"""RMO (section 3.2) on a batch of rollouts as verl 0.9 lays it out: which responses of each group are
replaced, and every tensor that says something of a replaced one. It needs torch and nothing of verl;
`verl_mutation` calls it. The reference is the ground truth; an injected token weighs as any other."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rarl.errors import ConfigError
from rarl.method.labels import columns_of
from rarl.method.mutation import Mutation, choose
from rarl.method.replies import reference_reply

KEYS = ("k", "probability", "when", "reasoning")
"""What of `Mutation` can be set here."""

_NOT_KNOWN = ("rollout_log_probs", "routed_experts", "teacher_logprobs")
"""What verl keeps of the sampling of each token. An injected token was not sampled, so it has none."""

Scored = Mapping[str, float]
"""What the reward function gives for a reply: `score`, and any number of others beside it."""


def mutation_of(section: Mapping[str, Any]) -> Mutation:
    """The settings under `rarl` in verl's configuration, such as `+rarl.k=2 +rarl.probability=0.5`.

    Raises:
        ConfigError: for a key that is not in `KEYS`, a value out of range, or reasoning that is not had here.
    """
    for key in section:
        if key not in KEYS:
            raise ConfigError(f"rarl.{key}: unknown here; the keys are {', '.join(KEYS)}")
    mutation = Mutation.of(**section)
    if mutation.reasoning == "keep":
        raise ConfigError("rarl.reasoning: must be template or empty with verl, not keep")
    return mutation


@dataclass(frozen=True)
class Rollouts:
    """A batch of B responses of width R to prompts of width P, padded on the left to P and on the right to R.

    Attributes:
        tensors: by verl's names: `responses`, `response_mask`, `rm_scores` (B, R); `input_ids`,
            `attention_mask` (B, P + R); `position_ids` (B, P + R) or (B, 4, P + R). They are changed in
            place.
        extras: what else is known of each response, by name; the reward's numbers are replaced in place.
        groups: for each group the rows of its responses.
        labels: the truth of each response's prompt, see `rarl.method.labels`.
    """

    tensors: Mapping[str, torch.Tensor]
    extras: Mapping[str, Any]
    groups: Sequence[Sequence[int]]
    labels: Sequence[str]


def mutate(
    rollouts: Rollouts,
    mutation: Mutation,
    judge: Callable[[int, str], Scored],
    tokenizer: Any,
    seed: str,
) -> list[int]:
    """Replaces responses by the true answer, as `rarl.method.mutation.choose` says for each group.

    Args:
        judge: scores a text as the reply of a row; the same function that scored the rollouts.
        tokenizer: of the model.
        seed: of the draw; another for each step.

    Returns:
        The rows that were replaced.

    Raises:
        ConfigError: if verl is set up so that RMO can't be had, or the reference is longer than R.
    """
    for name in _NOT_KNOWN:
        if name in rollouts.tensors:
            raise ConfigError(f"RMO replaces responses, and a replaced one has no {name}: leave it out")
    if "rm_scores" not in rollouts.tensors:
        raise ConfigError("RMO needs the rewards with the rollouts: use a reward function, no reward model")
    rewards = rollouts.tensors["rm_scores"].sum(dim=-1).tolist()
    replaced: list[int] = []
    for number, rows in enumerate(rollouts.groups):
        found = replacement(
            [rewards[row] for row in rows],
            rollouts.labels[rows[0]],
            mutation,
            partial(judge, rows[0]),
            f"{seed}:{number}",
        )
        for index in found.picked:
            _replace(rollouts, rows[index], found, tokenizer)
            replaced.append(rows[index])
    return replaced


@dataclass(frozen=True)
class Replacement:
    """What replaces responses of a group: the places of those in the group, the text, and what it earns."""

    picked: Sequence[int]
    text: str
    scored: Scored


def replacement(
    rewards: Sequence[float],
    label: str,
    mutation: Mutation,
    judge: Callable[[str], Scored],
    draw: str,
) -> Replacement:
    """Which responses of one group are replaced by the true answer, if any.

    Args:
        rewards: of the responses, in order.
        label: the truth of their prompt.
        judge: scores a text as a reply to it.
        draw: seed of the draw for this group and step.

    Raises:
        ConfigError: if only the order is known.
    """
    text = _reference(label, mutation)
    scored = judge(text)
    references = [scored["score"]] * len(rewards)
    return Replacement(choose(rewards, references, mutation, random.Random(draw)), text, scored)


def token_ids(text: str, tokenizer: Any, width: int) -> list[int]:
    """A reply as tokens, with the end token.

    Raises:
        ConfigError: if there are more than `width`.
    """
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    if len(ids) > width:
        raise ConfigError(
            f"data.max_response_length {width} can't hold the reference reply ({len(ids)} tokens); raise it "
            f"to at least {len(ids)}"
        )
    return ids


def _reference(label: str, mutation: Mutation) -> str:
    columns = columns_of(label)
    if "values" not in columns or "step" not in columns:
        raise ConfigError("RMO with verl needs values, and the truth of this dataset has orders alone")
    return reference_reply(columns["values"], columns["step"], reasoned=mutation.reasoning == "template")


def _replace(rollouts: Rollouts, row: int, found: Replacement, tokenizer: Any) -> None:
    """Writes a text in place of the response of a row."""
    tensors = rollouts.tensors
    width = tensors["responses"].shape[-1]
    ids = token_ids(found.text, tokenizer, width)
    prompt, length = tensors["input_ids"].shape[-1] - width, len(ids)
    tensors["responses"][row] = tokenizer.pad_token_id
    tensors["responses"][row, :length] = torch.tensor(ids)
    tensors["response_mask"][row] = 0
    tensors["response_mask"][row, :length] = 1
    tensors["input_ids"][row, prompt:] = tensors["responses"][row]
    tensors["attention_mask"][row, prompt:] = tensors["response_mask"][row]
    # A reply is text alone, so every kind of position goes on by one from the prompt's last token.
    last = tensors["position_ids"][row, ..., prompt - 1 : prompt]
    tensors["position_ids"][row, ..., prompt:] = last + torch.arange(1, width + 1)
    tensors["rm_scores"][row] = 0
    tensors["rm_scores"][row, length - 1] = found.scored["score"]
    for name, number in found.scored.items():
        if name in rollouts.extras:
            rollouts.extras[name][row] = number
