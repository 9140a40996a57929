"""How injected responses (RMO, section 3.2) weigh in the loss of Eq. 1, where that is not as any other's:
their tokens shaped as p / (p + gamma) and not clipped, as LUFFY has it (arXiv 2504.14945), left out of the
KL, or advantages by the statistics of the policy's own responses. The loss itself stays TRL 1.16's: it reads
its batch after it has computed the log-probs, and there the batch is changed. What is injected is not decided
here."""

from typing import Any

import torch

from rarl.errors import ConfigError
from rarl.method.group_statistics import own_advantages
from rarl.method.mutation import Mutation

Batch = dict[str, Any]

SHAPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")
"""TRL's losses that are ratio times advantage, token by token."""


def check_injection(args: Any, mutation: Mutation) -> None:
    """Refuses options whose numbers TRL's other settings would make into something else.

    Raises:
        ConfigError: what does not go together.
    """
    if mutation.weight == "shaped":
        wrong = {
            f"loss_type: {args.loss_type}": args.loss_type not in SHAPED_LOSSES,
            f"importance_sampling_level: {args.importance_sampling_level}": (
                args.importance_sampling_level != "token"
            ),
            "off_policy_mask_threshold": args.off_policy_mask_threshold is not None,
        }
        for key in (key for key, is_wrong in wrong.items() if is_wrong):
            raise ConfigError(
                f"mutation.weight: 'shaped' is not possible with {key}; it is of each token's own ratio: it "
                f"needs loss_type {', '.join(SHAPED_LOSSES)}, importance_sampling_level token, and no mask"
            )
    eq_2 = (args.scale_rewards, args.multi_objective_aggregation) == ("group", "sum_then_normalize")
    if mutation.statistics == "own" and not eq_2:
        raise ConfigError(
            "mutation.statistics: 'own' is of each group's total rewards (Eq. 2): it needs scale_rewards "
            f"group, not {args.scale_rewards}, and multi_objective_aggregation sum_then_normalize, not "
            f"{args.multi_objective_aggregation}"
        )


def shaped_batch(inputs: Batch, logps_NC: torch.Tensor, mutation: Mutation) -> Batch:
    """What of a micro-batch is changed for its injected responses, which `inputs["injected"]` [N] marks.

    TRL's policy term is -min(ratio A, clip(ratio) A). With old = logp the ratio is 1, within the clip; with
    the advantage A p / (p + gamma) / ratio the ratio's gradient drops out, and the term is -A p / (p + gamma)
    for either sign of A. With the policy in the reference's place, TRL's k3 estimate of the KL is 0, and so
    is its gradient.

    Args:
        inputs: of TRL's `_compute_loss`.
        logps_NC: the policy's log-probs of the responses' tokens, with their gradient.
    """
    injected_N1 = inputs["injected"].unsqueeze(1)
    changed: Batch = {}
    if mutation.weight == "shaped":
        advantages_N1 = inputs["advantages"].unsqueeze(1)
        p_NC = torch.exp(logps_NC)
        ratio_NC = torch.exp(logps_NC - logps_NC.detach())
        shaped_NC = advantages_N1 * p_NC / (p_NC + mutation.gamma) / ratio_NC
        changed["advantages"] = torch.where(injected_N1, shaped_NC, advantages_N1)
        if (old_NC := inputs.get("old_per_token_logps")) is not None:  # without it, TRL takes logps_NC itself
            changed["old_per_token_logps"] = torch.where(injected_N1, logps_NC.detach(), old_NC)
    if not mutation.kl and "ref_per_token_logps" in inputs:
        changed["ref_per_token_logps"] = torch.where(injected_N1, logps_NC, inputs["ref_per_token_logps"])
    return changed


class Injecting:
    """Goes before `OwnStatistics`, which marks the injected responses of a batch, among the bases of a class
    that sets `_mutation` and calls `_with_own_advantages` with each batch that TRL has scored."""

    model: Any
    accelerator: Any
    num_generations: int
    _logs: Any
    _mutation: Mutation

    _chosen: frozenset[int] = frozenset()  # of the responses of all processes, those that were replaced
    _own_rewards: tuple[float, ...] = ()  # of the policy's own, all processes
    _rewards_after: tuple[float, ...] = ()  # after replacement
    _in_loss: Batch | None = None

    def _with_own_advantages(self, output: Batch) -> Batch:
        """A scored batch [N] with the advantages of the options."""
        count = len(output["advantages"])
        offset = self.accelerator.process_index * count
        if self._mutation.statistics == "own":
            for at, advantage in self._advantages_by_own().items():
                if offset <= at < offset + count:
                    output["advantages"][at - offset] = advantage
                self._logs["advantages"][at - len(self._rewards_after)] = advantage
        return output

    def _advantages_by_own(self) -> dict[int, float]:
        """INDEX -> advantage, for the groups with a replaced response whose own rewards differ."""
        size, found = self.num_generations, dict[int, float]()
        for start in sorted({at // size * size for at in self._chosen}):
            of_group = slice(start, start + size)
            advantages = own_advantages(self._own_rewards[of_group], self._rewards_after[of_group])
            found |= dict(enumerate(advantages or (), start))
        return found

    def _compute_loss(self, model: Any, inputs: Batch) -> Any:
        if self._mutation.weight == "one" and self._mutation.kl:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        self._in_loss = dict(inputs)  # TRL may use a batch again, in a further iteration
        try:
            return super()._compute_loss(model, self._in_loss)  # type: ignore[misc]
        finally:
            self._in_loss = None

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*arguments, **named)  # type: ignore[misc]
        if self._in_loss is not None:
            self._in_loss.update(shaped_batch(self._in_loss, found[0], self._mutation))
        return found
