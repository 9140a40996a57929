"""RMO (section 3.2) in verl 0.9, between rollouts and advantages:
`actor_rollout_ref.rollout.agent.agent_loop_manager_class=rarl.integrations.verl_mutation.MutatingAgentLoopManager`
with `trainer.use_v1=False`. The newer trainer hands each response on as soon as it is there, so that no group
can be judged; it is refused. What is replaced, and how, is in `verl_batch`."""

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop import AgentLoopManager
from verl.protocol import DataProto
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.ray_utils import auto_await

from rarl.errors import ConfigError
from rarl.integrations.verl_batch import Rollouts, Scored, mutate, mutation_of


class MutatingAgentLoopManager(AgentLoopManager):
    """Generates as verl does, and replaces responses in training. The advantages are then those of the group
    after replacement (Eq. 9), and verl's reward metrics are of that group too.

    Raises:
        ConfigError: for settings under `rarl` that are not what RMO needs, for the V1 trainer, and without a
            reward function or with one that is a coroutine.
    """

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        if config.trainer.get("use_v1", True):
            raise ConfigError("RMO needs verl's trainer that sees whole groups: set trainer.use_v1=False")
        section = OmegaConf.select(config, "rarl")
        self._mutation = mutation_of({} if section is None else OmegaConf.to_container(section, resolve=True))
        self._judge = get_custom_reward_fn(config)
        if self._judge is None or inspect.iscoroutinefunction(self._judge):
            raise ConfigError(
                "RMO scores its references with reward.custom_reward_function: set its path to "
                "pkg://rarl.integrations.verl_reward and its name to compute_score"
            )
        super().__init__(config, *args, **kwargs)
        self._tokenizer = omega_conf_to_dataclass(self.model_config).tokenizer

    @auto_await  # type: ignore[untyped-decorator]
    async def generate_sequences(self, prompts: DataProto) -> DataProto:
        """verl's rollouts of `prompts`, of which in training some are replaced; see the class."""
        output = await super().generate_sequences(prompts)
        if not prompts.meta_info.get("validate", False):
            rollouts = rollouts_of(prompts, output)
            step = f"{self.config.data.get('seed')}:{prompts.meta_info.get('global_steps')}"
            sources = prompts.non_tensor_batch["data_source"]

            def judge(row: int, text: str) -> Scored:
                scored = self._judge(
                    data_source=sources[row],
                    solution_str=text,
                    ground_truth=rollouts.labels[row],
                    extra_info={},
                )
                return scored if isinstance(scored, dict) else {"score": scored, "acc": scored}

            replaced = mutate(rollouts, self._mutation, judge, self._tokenizer, step)
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
