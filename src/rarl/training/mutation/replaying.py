"""The replay as RMO's reference (`mutation.reference: replay`): each prompt's best reply of earlier steps,
the same on all processes. Only well-formed replies are remembered, so that none is injected that would teach
another format. `rarl.method.replay` holds them, and `effort` saves them."""

import json
import math
from typing import Any

from accelerate.utils import gather_object

from rarl.errors import ConfigError
from rarl.method.mutation import TOLERANCE, Mutation
from rarl.method.replay import Replay

KEYS = ("rule", "ids")  # the columns that name a prompt


class Replaying:
    """Goes before GRPOTrainer among the bases of a class that has `_with_own_reasoning` and `_decode`."""

    accelerator: Any
    num_generations: int
    _inputs: list[dict[str, Any]]
    _mutation: Mutation
    _replay: Replay

    @property
    def _replays(self) -> bool:
        return self._mutation.reference == "replay" and self._mutation.probability > 0

    def _prompt_key(self, example: dict[str, Any]) -> str:
        """The name of a row's prompt: its rule and its images, in their order."""
        if missing := [key for key in KEYS if key not in example]:
            raise ConfigError(
                "mutation by the replay needs the dataset's columns 'rule' and 'ids', which name a prompt; "
                f"missing: {', '.join(missing)}"
            )
        return json.dumps([example[key] for key in KEYS])

    def _replayed(self, index: int, own: list[int], rewards: list[float]) -> list[int] | None:
        """The token ids of the best reply that the prompt of the local response `index` has had at an earlier
        step; None if there is none that scores above the worst of its group.

        Args:
            own: the response's token ids.
            rewards: of the responses of all processes.
        """
        if not self._replays:
            return None
        known = self._replay.best(self._prompt_key(self._inputs[index]))
        place = self.accelerator.process_index * len(self._inputs) + index
        start = place // self.num_generations * self.num_generations
        scored = [r for r in rewards[start : start + self.num_generations] if not math.isnan(r)]
        if known is None or not scored or known[0] <= min(scored) + TOLERANCE:
            return None
        return self._with_own_reasoning(known[1], own, self._inputs[index])  # type: ignore[attr-defined]

    def _remember(self, completion_ids: list[list[int]], rewards: list[float]) -> None:
        """Takes the policy's own responses of this step into the replay, on all processes the same ones."""
        if not self._replays:
            return
        everyone = gather_object([list(map(int, ids)) for ids in completion_ids])
        prompts = gather_object([self._prompt_key(example) for example in self._inputs])
        mine = zip(completion_ids, self._inputs, strict=True)
        whole = gather_object([self._is_whole(ids, example) for ids, example in mine])  # type: ignore[attr-defined]
        for prompt, ids, reward, possible in zip(prompts, everyone, rewards, whole, strict=True):
            if possible and not math.isnan(reward):
                self._replay.see(prompt, reward, ids)
