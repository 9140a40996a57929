"""The Response Mutation Operation (section 3.2): which responses of a group are replaced, and by what. It
decides over rewards and token ids alone; `training/trainer.py` puts it into TRL's pipeline, before log-probs
are computed, so that an injected response is trained on like any other. Advantages are Eq. 9 with the group
*after* replacement."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rarl.errors import ConfigError, Section, problems_of, refuse
from rarl.method.tasks import on_grid

# Rewards are float32 sums of a few terms: below this, two of them are the same reward.
TOLERANCE = 1e-6


class Mutation(Section):
    """How a group is mutated: the section `mutation` of a stage, and the `mutation_` fields of a RARLConfig.

    Args:
        k: at most so many responses of a group are replaced; the paper's is 2.
        probability: that a group is mutated at a step; 0 switches the operation off. The paper names none.
        when: `always`, or only where the group is `stagnant`.
        reference: the `ground_truth`; the `best` response of the group itself; or by `replay` the best reply
            that the same prompt has had at an earlier step, and the ground truth where there is none that
            scores above the group's worst.
        reasoning: of the replacement. `template` spells the values; `keep` leaves the replaced response's own
            reasoning in place and changes its answer alone; `empty` is none.
        statistics: the mean and the deviation of a mutated group's advantages are those of the `group` after
            replacement, or those of the policy's `own` responses alone (LUFFY, arXiv 2504.14945).
        weight: of the tokens of injected responses in the loss: `one`, as any other's, or `shaped`, which is
            p / (p + gamma) without clipping (LUFFY's policy shaping), p being the policy's probability.
        gamma: of `shaped`; LUFFY's is 0.1.
        kl: whether injected responses count in the KL.
        decay: of k and the probability over the stage's steps, down to `k_end` and `probability_end` at the
            last: `none`, `linear` or `cosine`.

    Raises:
        ValidationError: if a field is out of its range, or for `best` with `stagnant`, which could never do
            anything: in a stagnant group no response is better than another. `of` says it as a ConfigError.
    """

    k: Annotated[int, Field(ge=1)] = 2
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    when: Literal["always", "stagnant"] = "always"
    reference: Literal["ground_truth", "best", "replay"] = "ground_truth"
    reasoning: Literal["template", "keep", "empty"] = "template"
    statistics: Literal["group", "own"] = "group"
    weight: Literal["one", "shaped"] = "one"
    gamma: Annotated[float, Field(gt=0)] = 0.1
    kl: bool = True
    decay: Literal["none", "linear", "cosine"] = "none"
    k_end: Annotated[int, Field(ge=1)] = 1
    probability_end: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.decay != "none" and self.k_end > self.k:
            refuse([("k_end", f"must not be above k ({self.k}): `decay` goes down to it")])
        if self.decay != "none" and self.probability_end > self.probability:
            refuse([("probability_end", f"must not be above probability ({self.probability:g})")])
        if self.reference == "best" and self.when == "stagnant":
            refuse([("reference", "'best' with `when: stagnant` does nothing: all rewards are equal there")])
        return self

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """The mutation with these fields.

        Raises:
            ConfigError: with one line for each mistake.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            lines = [f"mutation.{key}: {text}" for key, text in problems_of(error, cls)]
            raise ConfigError("\n".join(lines)) from error

    def at(self, progress: float) -> Self:
        """The mutation at a point of the stage, 0 at its first step and 1 at its last, with k and the
        probability of there; k is the nearest whole number."""
        if self.decay == "none":
            return self
        progress = min(max(progress, 0.0), 1.0)
        left = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        k = math.floor(self.k_end + (self.k - self.k_end) * left + 0.5)
        probability = self.probability_end + (self.probability - self.probability_end) * left
        return self.model_copy(update={"k": k, "probability": probability})


Stagnant = Literal["keep", "mutate", "resample"]


def stagnant_switch(given: str | None, probability: float) -> Stagnant:
    """What is done about groups that teach nothing, as the key `stagnant` says: `keep` them as GRPO does,
    `mutate` responses (RMO), or `resample` other prompts (DAPO's dynamic sampling).

    Args:
        given: None stands for `mutate` where something is mutated, and for `keep` otherwise.
        probability: of the mutation; 0 where there is none.

    Raises:
        ConfigError: for another word, or one that the probability contradicts.
    """
    if given is None:
        return "mutate" if probability > 0 else "keep"
    if given not in ("keep", "mutate", "resample"):
        raise ConfigError(f"stagnant must be keep, mutate or resample, not {given!r}")
    if given == "mutate" and probability == 0:
        raise ConfigError("stagnant: 'mutate' needs a mutation with a probability above 0")
    if given != "mutate" and probability > 0:
        raise ConfigError(
            f"stagnant: '{given}' leaves responses as they are, and there is a mutation with probability "
            f"{probability:g}: remove one of them"
        )
    return given  # type: ignore[return-value]


def is_stagnant(rewards: Sequence[float], references: Sequence[float]) -> bool:
    """Whether a group has nothing to learn from although it could do better: all rewards are equal
    (advantages and gradient vanish) and a reference scores strictly higher. A group that is perfect
    throughout is not stagnant.

    Args:
        rewards: of the G responses; NaN marks one that could not be scored, which has no advantage anyway.
        references: the reward of what each response would be replaced by (G numbers).
    """
    if differ(rewards):
        return False
    return any(reference > reward + TOLERANCE for reward, reference in zip(rewards, references, strict=True))


def choose(
    rewards: Sequence[float],
    references: Sequence[float],
    mutation: Mutation,
    generator: random.Random,
    after: Callable[[Sequence[int]], Sequence[float]] | None = None,
) -> list[int]:
    """Which responses of one group are replaced (Eq. 9's mutated responses).

    The candidates are the k lowest rewards among the responses that score strictly below their reference;
    ties go to the earlier response. Nothing is replaced where that would leave the group without variance.

    Args:
        rewards: of the G responses; NaN marks one that could not be scored, and is never replaced.
        references: the reward of what each response would be replaced by (G numbers).
        mutation: k, probability and when.
        generator: seeded alike on every process, so that all choose the same responses.
        after: from the indices that are replaced to what TRL will make of the group; needed only where its
            sums depend on the group (`rarl.method.group_statistics`).

    Returns:
        Indices into the group, ascending; at most k.
    """
    if generator.random() >= mutation.probability:
        return []
    if mutation.when == "stagnant" and not is_stagnant(rewards, references):
        return []
    below = [
        index
        for index, (reward, reference) in enumerate(zip(rewards, references, strict=True))
        if reward < reference - TOLERANCE
    ]
    chosen = sorted(below, key=lambda index: (rewards[index], index))[: mutation.k]
    if after is None:
        left = [references[index] if index in chosen else reward for index, reward in enumerate(rewards)]
    else:
        left = list(after(chosen))
    return sorted(chosen) if differ(left) else []


def differ(rewards: Sequence[float]) -> bool:
    """Whether a group has variance, and so advantages; TRL's leave out NaN."""
    scored = [reward for reward in rewards if not math.isnan(reward)]
    return len(scored) > 1 and max(scored) - min(scored) > TOLERANCE


def values_in_order(
    given: Sequence[float | None], order: Sequence[int], ends: Sequence[float], step: float
) -> list[float]:
    """The values of a reference where only the true order is known: the response's own, sorted into it.

    They are moved to the grid of the task. Where the response does not give every picture a value within the
    range, the values are evenly spaced between the ends instead.

    Args:
        given: the response's value for picture 1..N, None where it has none.
        order: the place of picture 1..N in the true order; pictures of one place get one value.
        ends: low and high of the task's range.
        step: of the task's grid.
    """
    low, high = ends
    known = sorted(value for value in given if value is not None and low <= value <= high)
    if len(known) < len(order):
        known = [low + (high - low) * (place + 1) / (len(order) + 1) for place in range(len(order))]
    known = [min(on_grid(value, low, step), high) for value in known]
    ascending = sorted(order)
    return [known[ascending.index(place)] for place in order]


def keep_reasoning(
    own: Sequence[int],
    answer: str,
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    room: int,
) -> list[int] | None:
    """A response's own reasoning with another answer, spliced by token ids: as many of its own tokens as end
    at or before `</think>` are left untouched, only what follows is encoded anew. Reasoning that leaves too
    little room for the answer is cut at its end.

    Args:
        own: token ids of the response.
        answer: the new text after `</think>`, from its white space to `</answer>`.
        encode, decode: of the tokenizer, without special tokens.
        room: tokens that the result may have.

    Returns:
        Token ids without an end token, or None where the response has no `</think>`, or there is no room for
        its `<think>`.
    """
    text = decode(own)
    end = text.find("</think>")
    if end < 0:
        return None
    kept = _tokens_within(own, text, end, decode)
    head = list(own[:kept])
    tail = encode(text[len(decode(head)) : end] + "</think>" + answer)
    if len(head) + len(tail) > room:
        tail = encode("</think>" + answer)
        head = head[: max(room - len(tail), 0)]
        if "<think>" in text[:end] and "<think>" not in decode(head):
            return None
    return head + tail


def _tokens_within(ids: Sequence[int], text: str, length: int, decode: Callable[[Sequence[int]], str]) -> int:
    """How many leading tokens spell no more than the first `length` characters of `text`."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(ids[:middle])) <= length:
            low = middle
        else:
            high = middle - 1
    # A token may end within a character of several bytes.
    while not text.startswith(decode(ids[:low])):
        low -= 1
    return low
