"""Which responses of a batch RMO replaces (section 3.2): `rarl.method.mutation.choose` for each group of all
processes, by the numbers that TRL will compare, and with k and the probability of the step. What replaces
them is decided elsewhere."""

import random
from collections.abc import Sequence
from typing import Any

from rarl.method.group_statistics import normalized_references, normalized_sums
from rarl.method.mutation import Mutation, choose, is_stagnant

Numbers = Sequence[float]


class Choosing:
    """Goes before GRPOTrainer among the bases of a class that keeps in `_parts` the rewards of the policy's
    responses and of the references, one row for each response of all processes."""

    args: Any
    state: Any
    num_generations: int
    reward_weights: Any
    _metrics: Any
    _mutation: Mutation
    _place: str
    _parts: dict[str, list[list[float]]]

    @property
    def _normalizes_first(self) -> bool:
        return bool(self.args.multi_objective_aggregation == "normalize_then_sum")

    def _parts_of(self, scored: str, start: int) -> list[list[float]]:
        return self._parts[scored][start : start + self.num_generations]

    def _sums_of_group(self, rewards: Numbers, start: int) -> list[float]:
        """What TRL compares the responses of the group at `start` by: their rewards, or with
        `normalize_then_sum` what it makes of them."""
        if self._normalizes_first:
            return normalized_sums(self._parts_of("policy", start), self.reward_weights.tolist())
        return list(rewards[start : start + self.num_generations])

    def _sums_of_references(self, references: Numbers, start: int) -> list[float]:
        """The same of what would replace each response of the group."""
        if self._normalizes_first:
            parts = self._parts_of("policy", start), self._parts_of("reference", start)
            return normalized_references(*parts, self.reward_weights.tolist())
        return list(references[start : start + self.num_generations])

    def _sums_after(
        self, rewards: Numbers, references: Numbers, start: int, picked: Sequence[int]
    ) -> Numbers:
        """The same of the group once the responses `picked` are replaced."""
        size = self.num_generations
        if not self._normalizes_first:
            return [references[start + i] if i in picked else rewards[start + i] for i in range(size)]
        own, others = self._parts_of("policy", start), self._parts_of("reference", start)
        mixed = [others[index] if index in picked else own[index] for index in range(size)]
        return normalized_sums(mixed, self.reward_weights.tolist())

    def _stagnant_share(self, rewards: Numbers, references: Numbers) -> float:
        """The share of groups that are stagnant."""
        starts = range(0, len(rewards), self.num_generations)
        stagnant = [
            is_stagnant(self._sums_of_group(rewards, start), self._sums_of_references(references, start))
            for start in starts
        ]
        return sum(stagnant) / len(starts)

    def _choose(self, rewards: Numbers, references: Numbers) -> set[int]:
        """The indices of the responses, among those of all processes, that are replaced (section 3.2)."""
        size = self.num_generations
        chosen: set[int] = set()
        stagnant_before = stagnant_after = 0
        mutation = self._mutation.at(self.state.global_step / max(1, self.state.max_steps - 1))
        # A resumed run draws the same: the step's place in the accumulation cycle counts, not the number of
        # calls.
        starts = range(0, len(rewards), size)
        for start in starts:
            group = self._sums_of_group(rewards, start)
            of_references = self._sums_of_references(references, start)

            def after(picked: Sequence[int], start: int = start) -> Numbers:
                return self._sums_after(rewards, references, start, picked)

            generator = random.Random(f"{self.args.seed}:{self._place}:{start}")
            picked = choose(group, of_references, mutation, generator, after)
            chosen.update(start + index for index in picked)
            stagnant_before += is_stagnant(group, of_references)
            stagnant_after += is_stagnant(after(picked), of_references)
        metrics = self._metrics["train"]
        metrics["mutation/fraction"].append(len(chosen) / len(rewards))
        metrics["mutation/stagnant_before"].append(stagnant_before / len(starts))
        metrics["mutation/stagnant_after"].append(stagnant_after / len(starts))
        return chosen
