"""RMO (section 3.2) in verl 0.9's trainer:
`+actor_rollout_ref.rollout.agent.agent_loop_manager_class=rarl.integrations.verl_mutation.MutatingAgentLoopManager`.
There each response is handed on by itself as soon as it is scored. Here it waits for the others of its group,
and those that RMO replaces are handed on as the true answer."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import ray
from omegaconf import DictConfig
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from rarl.errors import ConfigError
from rarl.integrations.verl_batch import Replacement, replacement, token_ids
from rarl.integrations.verl_settings import settings_of

_log = logging.getLogger(__name__)

# verl 0.9 keeps the class of its workers wrapped as an actor of Ray.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


@dataclass
class Group:
    """The responses to one prompt that are there.

    Attributes:
        size: how many there will be.
        rewards: by the place of the response in the group.
        complete: whether all are there, or one has failed, so that nobody need wait.
        replacement: what is decided once all are there.
    """

    size: int
    rewards: dict[int, float] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    replacement: Replacement | None = None

    async def wait_for_all(self, place: int, reward: float) -> bool:
        """Adds a response and waits for the others; False where one of them has failed."""
        self.rewards[place] = reward
        if len(self.rewards) == self.size:
            self.complete.set()
        await self.complete.wait()
        return len(self.rewards) == self.size


class MutatingWorker(_Worker):
    """verl's worker, whose responses wait for their group."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._settings = settings_of(config, v1=True)
        self._groups: dict[Any, Group] = {}

    async def _run_prompt(self, prompt: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        uid, size = prompt["uid"], prompt.get("__rollout_n__", self.config.actor_rollout_ref.rollout.n)
        self._groups[uid] = Group(int(size))
        try:
            await super()._run_prompt(prompt, *args, **kwargs)
        finally:
            del self._groups[uid]

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> Any:
        draw = f"{self._settings.seed}:{trajectory['step']}:{trajectory['sample_index']}"
        try:
            return await super()._run_agent_loop(sampling_params, trajectory, rarl_draw=draw, **kwargs)
        except BaseException:
            self._groups[kwargs["uid"]].complete.set()  # verl drops the group; the others must not wait
            raise

    async def _agent_loop_postprocess(
        self, output: Any, validate: bool, *, rarl_draw: str, **kwargs: Any
    ) -> None:
        if not validate:
            outputs = output if isinstance(output, list) else [output]
            if len(outputs) > 1:
                raise ConfigError("RMO with verl is for single turns: use the agent loop single_turn_agent")
            if outputs:
                await self._compute_score(outputs, kwargs=kwargs)
                await self._mutate(outputs[0], rarl_draw, kwargs)
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _mutate(self, output: Any, draw: str, sample: dict[str, Any]) -> None:
        """Makes `output` the true answer, if it is among those that are replaced."""
        place, group = int(sample["session_id"]), self._groups[sample["uid"]]
        if output.reward_score is None:
            raise ConfigError(
                "RMO needs the rewards with the rollouts: use a reward function, no reward model"
            )
        if not await group.wait_for_all(place, output.reward_score):
            return
        label = sample["reward_model"]["ground_truth"]
        if group.replacement is None:
            group.replacement = replacement(
                [group.rewards[number] for number in range(group.size)],
                label,
                self._settings.mutation,
                lambda text: self._settings.judge(sample["data_source"], label, text),
                draw,
            )
            _log.info("%d of %d responses are replaced", len(group.replacement.picked), group.size)
        if place in group.replacement.picked:
            width = self.rollout_config.response_length
            ids = token_ids(group.replacement.text, self.tokenizer, width)
            output.response_ids, output.response_mask = ids, [1] * len(ids)
            scored = group.replacement.scored
            output.reward_score = scored["score"]
            known = output.extra_fields["reward_extra_info"]
            output.extra_fields["reward_extra_info"] = {name: scored.get(name, known[name]) for name in known}


class MutatingAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with `MutatingWorker`s. The advantages are then those of the group after replacement
    (Eq. 9), and verl's reward metrics are of that group too.

    Raises:
        ConfigError: see `rarl.integrations.verl_settings`.
    """

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        settings_of(config, v1=True)
        super().__init__(config, *args, **kwargs)
        self.agent_loop_workers_class = ray.remote(MutatingWorker)
