"""What RMO in verl 0.9 is set up with, by the keys under `rarl` in verl's configuration, and what it needs of
the other keys. Everything is checked where the manager is made, before anything is generated."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn

from rarl.errors import ConfigError
from rarl.integrations.verl_batch import Scored, mutation_of
from rarl.method.mutation import Mutation

NEEDED = (
    ("actor_rollout_ref.rollout.calculate_log_probs", False),
    ("actor_rollout_ref.rollout.enable_rollout_routing_replay", False),
    ("algorithm.rollout_correction.bypass_mode", False),
    ("distillation.enabled", False),
    ("reward.reward_model.enable", False),
)
"""Keys and the values that they must have. An injected token was not sampled, so nothing is known of its
sampling, and the rewards must be there with the rollouts."""


@dataclass(frozen=True)
class Settings:
    """RMO as set up.

    Attributes:
        score: the reward function, called as verl calls it.
        seed: verl's `data.seed`.
    """

    mutation: Mutation
    score: Callable[..., Any]
    seed: Any

    def judge(self, data_source: Any, label: str, text: str) -> Scored:
        """What the reward function gives for a text as the reply to a prompt."""
        scored = self.score(data_source=data_source, solution_str=text, ground_truth=label, extra_info={})
        return scored if isinstance(scored, dict) else {"score": scored, "acc": scored}


def settings_of(config: DictConfig, *, v1: bool) -> Settings:
    """The settings of RMO in a configuration of verl.

    Args:
        v1: whether the caller is for verl's V1 trainer.

    Raises:
        ConfigError: for settings that are not what RMO needs, for the other trainer, and without a reward
            function or with one that is a coroutine.
    """
    if bool(OmegaConf.select(config, "trainer.use_v1", default=True)) != v1:
        module = "verl_mutation_v0" if v1 else "verl_mutation"
        raise ConfigError(
            f"trainer.use_v1={not v1} needs agent_loop_manager_class=rarl.integrations.{module}."
            "MutatingAgentLoopManager"
        )
    for key, value in NEEDED:
        if OmegaConf.select(config, key, default=value) != value:
            raise ConfigError(f"RMO replaces responses, and needs {key}={value}")
    section = OmegaConf.select(config, "rarl")
    mutation = mutation_of({} if section is None else OmegaConf.to_container(section, resolve=True))
    score = get_custom_reward_fn(config)
    if score is None or inspect.iscoroutinefunction(score):
        raise ConfigError(
            "RMO scores its references with reward.custom_reward_function: set its path to "
            "pkg://rarl.integrations.verl_reward and its name to compute_score"
        )
    return Settings(mutation, score, OmegaConf.select(config, "data.seed"))
