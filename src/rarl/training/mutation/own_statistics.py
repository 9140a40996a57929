"""The KL divergence and the entropy of the policy's *own* responses, logged as `policy/kl` and
`policy/entropy`. TRL's `kl` and `entropy` are over the group as it is trained on, injected references (RMO,
section 3.2) among them; those are no samples of the policy, and say nothing of the divergence of Eq. 1 or of
an entropy that collapses. Nothing here changes the loss."""

from typing import Any

import torch


class OwnStatistics:
    """Goes before GRPOTrainer among the bases of a class that says in `_injected`, once it has generated,
    which of this process's responses (N bools) were put in place of the policy's own.

    The means are TRL's: over the tokens of a micro-batch on all processes, and then over the micro-batches
    since the last log; one without a response of the policy's own is left out. So both are equal to `kl` and
    `entropy` where nothing is injected.
    """

    args: Any
    model: Any
    accelerator: Any
    beta: float
    importance_sampling_level: str
    _metrics: Any

    _injected: list[bool]
    _scores: tuple[torch.Tensor, torch.Tensor] | None = (
        None  # log-probs and entropies [N, C] of the last pass
    )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._injected = [False] * len(inputs)
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        # A tensor with a row for each response is shuffled and cut into micro-batches with the others.
        return output | {"injected": torch.tensor(self._injected, device=self.accelerator.device)}

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        scores = super()._get_per_token_logps_and_entropies(*arguments, **named)  # type: ignore[misc]
        if named.get("compute_entropy"):  # of the update; the passes before it compute none
            self._scores = scores[0].detach(), scores[1].detach()
        return scores

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        scores, self._scores = self._scores, None
        if self.model.training and scores is not None:
            self._log_own(inputs, *scores)
        return loss

    def _log_own(self, inputs: dict[str, Any], logps_NC: torch.Tensor, entropies_NC: torch.Tensor) -> None:
        mask_NC = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        own_NC = mask_NC * ~inputs["injected"].unsqueeze(1)
        values = {"entropy": entropies_NC}
        if self.beta != 0.0:
            values["kl"] = self._kl(inputs, logps_NC, mask_NC)
        sums = [(value * own_NC).sum() for value in values.values()]
        *totals, count = self.accelerator.reduce(
            torch.stack([*sums, own_NC.sum().float()]), reduction="sum"
        ).tolist()
        for name, total in zip(values, totals, strict=True):
            # Where no response is the policy's own there is no mean; TRL leaves a NaN out of the log.
            self._metrics["train"][f"policy/{name}"].append(total / count if count else float("nan"))

    def _kl(self, inputs: dict[str, Any], logps_NC: torch.Tensor, mask_NC: torch.Tensor) -> torch.Tensor:
        """The KL of each token [N, C] as TRL 1.16 estimates it in its loss."""
        log_ratio_NC = inputs["ref_per_token_logps"] - logps_NC
        kl_NC = torch.exp(log_ratio_NC) - log_ratio_NC - 1
        old_NC = inputs.get("old_per_token_logps")
        if not self.args.use_bias_correction_kl or old_NC is None:
            return kl_NC  # without older log-probs the ratio is 1
        weights = logps_NC - old_NC
        if self.importance_sampling_level == "sequence":
            weights = ((weights * mask_NC).sum(-1) / mask_NC.sum(-1).clamp(min=1.0)).unsqueeze(-1)
        return kl_NC * torch.exp(weights)
