"""A small memory of the best reply that each prompt has had (`mutation.reference: replay`): what RMO injects
there in place of the ground truth. It holds token ids and rewards, and is saved with a checkpoint. The paper
has no such memory: its reference is the ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

REPLAY_PROMPTS = 10_000
"""So many prompts are remembered; the one that was improved the longest ago is forgotten first."""


@dataclass
class Replay:
    """PROMPT -> the reward and the token ids of its best reply.

    Attributes:
        capacity: how many prompts are remembered.
    """

    capacity: int = REPLAY_PROMPTS
    _best: dict[str, tuple[float, list[int]]] = field(default_factory=dict)

    def best(self, prompt: str) -> tuple[float, list[int]] | None:
        """The reward and the token ids, with the end token, of the prompt's best reply so far."""
        return self._best.get(prompt)

    def see(self, prompt: str, reward: float, ids: Sequence[int]) -> None:
        """Remembers a reply if the prompt has had none as good."""
        known = self._best.get(prompt)
        if known is not None and known[0] >= reward:
            return
        self._best.pop(prompt, None)
        self._best[prompt] = (reward, list(ids))
        if len(self._best) > self.capacity:
            del self._best[next(iter(self._best))]

    def state(self) -> list[Any]:
        """As plain values for a checkpoint."""
        return [[prompt, reward, ids] for prompt, (reward, ids) in self._best.items()]

    def restore(self, state: Sequence[Any]) -> None:
        """Takes what `state` gave."""
        self._best = {prompt: (float(reward), list(ids)) for prompt, reward, ids in state}
