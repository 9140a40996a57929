"""RMO (section 3.2) in verl 0.9's trainer of before (`trainer.use_v1=False`), between rollouts and
advantages:
`+actor_rollout_ref.rollout.agent.agent_loop_manager_class=rarl.integrations.verl_mutation_v0.MutatingAgentLoopManager`.
What is replaced, and how, is in `verl_batch`; the newer trainer has `verl_mutation`."""

from typing import Any

from omegaconf import DictConfig
from verl.experimental.agent_loop import AgentLoopManager
from verl.protocol import DataProto
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.ray_utils import auto_await

from rarl.integrations.verl_batch import Rollouts, mutate
from rarl.integrations.verl_settings import settings_of


class MutatingAgentLoopManager(AgentLoopManager):
    """Generates as verl does, and replaces responses in training. The advantages are then those of the group
    after replacement (Eq. 9), and verl's reward metrics are of that group too.

    Raises:
        ConfigError: see `rarl.integrations.verl_settings`.
    """

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._settings = settings_of(config, v1=False)
        super().__init__(config, *args, **kwargs)
        self._tokenizer = omega_conf_to_dataclass(self.model_config).tokenizer

    @auto_await  # type: ignore[untyped-decorator]
    async def generate_sequences(self, prompts: DataProto) -> DataProto:
        """verl's rollouts of `prompts`, of which in training some are replaced; see the class."""
        output = await super().generate_sequences(prompts)
        if not prompts.meta_info.get("validate", False):
            rollouts = rollouts_of(prompts, output)
            sources = prompts.non_tensor_batch["data_source"]
            replaced = mutate(
                rollouts,
                self._settings.mutation,
                lambda row, text: self._settings.judge(sources[row], rollouts.labels[row], text),
                self._tokenizer,
                f"{self._settings.seed}:{prompts.meta_info.get('global_steps')}",
            )
            # verl 0.9 logs what stands here, under timing_s/; there is no other way to its metrics.
            output.meta_info["timing"]["rarl/replaced_share"] = len(replaced) / len(output)
        return output


def rollouts_of(prompts: DataProto, output: DataProto) -> Rollouts:
    """The output of `generate_sequences` with what only its input knows: who is in a group, and the truth.
    Greedy rollouts, which REMAX adds as baselines, are in no group."""
    known = prompts.non_tensor_batch
    sampled = known.get("__do_sample__", [True] * len(prompts))
    groups: dict[Any, list[int]] = {}
    for row, (uid, in_group) in enumerate(zip(known["uid"], sampled, strict=True)):
        if in_group:
            groups.setdefault(uid, []).append(row)
    labels = [model["ground_truth"] for model in known["reward_model"]]
    return Rollouts(output.batch, output.non_tensor_batch, list(groups.values()), labels)
