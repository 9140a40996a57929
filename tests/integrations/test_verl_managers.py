"""RMO inside verl itself, with rollouts that stand still in place of models and Ray. It needs verl, which is
no dependency: where that is not installed this file is skipped, and `test_verl_batch` holds what can be
held."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

verl = pytest.importorskip("verl", reason="verl is not installed")

from omegaconf import OmegaConf  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from verl.experimental.agent_loop import AgentLoopManager  # noqa: E402
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput  # noqa: E402
from verl.protocol import DataProto  # noqa: E402
from verl.trainer.ppo.v1 import agent_loop_tq  # noqa: E402

from integrations.test_verl_batch import LABELS, REPLIES, TRUTHS, WIDTH, Letters, batch, judge  # noqa: E402
from rarl.errors import ConfigError  # noqa: E402
from rarl.integrations import verl_mutation, verl_mutation_v0  # noqa: E402
from rarl.integrations.verl_settings import settings_of  # noqa: E402

CONFIG = {
    "trainer": {"use_v1": False},
    "data": {"seed": 0},
    "rarl": {"k": 1, "probability": 1.0},
    "actor_rollout_ref": {"rollout": {"calculate_log_probs": False, "n": 3}, "model": {}},
    "reward": {
        "custom_reward_function": {"path": "pkg://rarl.integrations.verl_reward", "name": "compute_score"}
    },
}
V1 = {"trainer": {"use_v1": True}}


def config(**changes: Any) -> Any:
    made = OmegaConf.create({**CONFIG, **changes})
    OmegaConf.set_struct(made, True)  # as Hydra leaves it
    return made


# ── the trainer of before ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("validate", [False, True])
def test_the_manager_of_before(monkeypatch: pytest.MonkeyPatch, validate: bool) -> None:
    rollouts = batch(REPLIES)
    output = DataProto(
        batch=TensorDict(dict(rollouts.tensors), batch_size=6),
        non_tensor_batch=dict(rollouts.extras),
        meta_info={"timing": {}, "reward_extra_keys": list(rollouts.extras)},
    )
    prompts = DataProto(
        batch=TensorDict({"dummy_tensor": torch.zeros(6, 1)}, batch_size=6),
        non_tensor_batch={
            "uid": np.array(["a"] * 3 + ["b"] * 3, dtype=object),
            "data_source": np.array(["fruit/2"] * 3 + ["fruit/1"] * 3, dtype=object),
            "reward_model": np.array([{"ground_truth": LABELS[row // 3]} for row in range(6)], dtype=object),
        },
        meta_info={"global_steps": 3, **({"validate": True} if validate else {})},
    )

    async def rollout(self: Any, prompts: DataProto) -> DataProto:
        return output

    monkeypatch.setattr(AgentLoopManager, "generate_sequences", rollout)
    tokenizer = type("Model", (), {"tokenizer": Letters()})
    monkeypatch.setattr(verl_mutation_v0, "omega_conf_to_dataclass", lambda _: tokenizer)
    manager = verl_mutation_v0.MutatingAgentLoopManager(config=config(), llm_client=None)
    made = manager.generate_sequences(prompts)
    wanted = [REPLIES[0], REPLIES[1] if validate else TRUTHS[0], *REPLIES[2:]]
    assert [Letters().decode(ids) for ids in made.batch["responses"]] == wanted
    assert made.meta_info["timing"] == ({} if validate else {"rarl/replaced_share": 1 / 6})


# ── the trainer of today ─────────────────────────────────────────────────────────────────────────────────


class Responses:
    """What the workers would generate, by the place in the group; None fails. Keeps what is handed on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, replies: list[str | None]) -> None:
        self.replies = replies
        self.handed_on: dict[int, AgentLoopOutput] = {}
        self.states: list[str] = []
        worker = verl_mutation._Worker
        responses = self

        async def generate(
            self: Any, sampling: Any, trajectory: Any, *, session_id: int, **sample: Any
        ) -> None:
            await asyncio.sleep(0.001 * (3 - session_id))  # the last of the group comes first
            reply = responses.replies[session_id]
            if reply is None:
                raise RuntimeError("the server is gone")
            ids = [*Letters().encode(reply, False), 1]
            output = AgentLoopOutput(
                prompt_ids=[7, 7], response_ids=ids, response_mask=[1] * len(ids), metrics={}, num_turns=2
            )
            sample.pop("trace", None)
            await self._agent_loop_postprocess(
                output, trajectory["validate"], session_id=session_id, **sample
            )

        async def score(self: Any, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
            assert "rarl_draw" not in kwargs  # it is not for verl
            if outputs[-1].reward_score is None:
                text = Letters().decode(torch.tensor(outputs[-1].response_ids))
                scored = judge(0, text)
                outputs[-1].reward_score = scored["score"]
                outputs[-1].extra_fields["reward_extra_info"] = dict(scored)

        async def hand_on(self: Any, output: AgentLoopOutput, validate: bool, **kwargs: Any) -> None:
            await self._compute_score([output], kwargs=kwargs)
            responses.handed_on[kwargs["session_id"]] = output

        async def put(*, tag: dict[str, str], **rest: Any) -> None:
            self.states.append(tag["status"])

        monkeypatch.setattr(worker, "_run_agent_loop", generate)
        monkeypatch.setattr(worker, "_compute_score", score)
        monkeypatch.setattr(worker, "_agent_loop_postprocess", hand_on)
        monkeypatch.setattr(agent_loop_tq.tq, "async_kv_put", put)

    def run(self, given: Any, *, validate: bool = False) -> None:
        worker = verl_mutation.MutatingWorker.__new__(verl_mutation.MutatingWorker)
        worker.config, worker.tokenizer = given, Letters()
        worker.rollout_config = SimpleNamespace(response_length=WIDTH)
        worker._settings, worker._groups = settings_of(given, v1=True), {}
        prompt = {"uid": "a", "data_source": "fruit/2", "reward_model": {"ground_truth": LABELS[0]}}
        trajectory = {"step": 3, "sample_index": 9, "validate": validate}
        asyncio.run(asyncio.wait_for(worker._run_prompt(prompt, {}, trajectory=trajectory), 20))
        assert worker._groups == {}

    def texts(self) -> list[str]:
        return [
            Letters().decode(torch.tensor(self.handed_on[n].response_ids)) for n in sorted(self.handed_on)
        ]


def test_a_replaced_response_is_as_if_the_model_had_written_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Responses(monkeypatch, list(REPLIES[:3]))
    given.run(config(**V1))
    assert given.texts() == [REPLIES[0], TRUTHS[0], REPLIES[2]]
    assert given.states == ["running", "finished"]
    replaced, scored = given.handed_on[1], judge(0, TRUTHS[0])
    assert replaced.response_ids[-1] == Letters.eos_token_id
    assert replaced.response_mask == [1] * len(replaced.response_ids)
    assert replaced.reward_score == scored["score"]
    assert replaced.extra_fields["reward_extra_info"] == scored
    assert given.handed_on[0].extra_fields["reward_extra_info"] == judge(0, str(REPLIES[0]))


def test_validation_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Responses(monkeypatch, list(REPLIES[:3]))
    changed = {**CONFIG["actor_rollout_ref"]["rollout"], "val_kwargs": {"n": 3}}  # type: ignore[index]
    given.run(config(**V1, actor_rollout_ref={"rollout": changed, "model": {}}), validate=True)
    assert given.texts() == REPLIES[:3]


def test_nobody_waits_for_a_response_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Responses(monkeypatch, [REPLIES[0], REPLIES[1], None])
    given.run(config(**V1))
    assert given.states == ["running", "failure"]
    assert given.texts() == REPLIES[:2]


def test_the_workers_are_ours() -> None:
    manager = verl_mutation.MutatingAgentLoopManager(config=config(**V1), llm_client=None)
    modified = manager.agent_loop_workers_class.__ray_metadata__.modified_class
    assert issubclass(modified, verl_mutation.MutatingWorker)


# ── what both need ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "v1", "said"),
    [
        (V1, False, "rarl.integrations.verl_mutation.Mutating"),
        ({"trainer": {}}, False, "rarl.integrations.verl_mutation.Mutating"),
        ({}, True, "rarl.integrations.verl_mutation_v0.Mutating"),
        (
            {"reward": {"custom_reward_function": {"path": None}}},
            False,
            "pkg://rarl.integrations.verl_reward",
        ),
        ({"rarl": {"probability": 2}}, False, "mutation.probability"),
        (
            {"actor_rollout_ref": {"rollout": {"calculate_log_probs": True}}},
            False,
            "calculate_log_probs=False",
        ),
        ({"distillation": {"enabled": True}}, False, "distillation.enabled=False"),
    ],
)
def test_what_rmo_needs_of_verl(changes: dict[str, Any], v1: bool, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of(config(**changes), v1=v1)


def test_without_settings_the_papers_are_used() -> None:
    plain = OmegaConf.create({key: value for key, value in CONFIG.items() if key != "rarl"})
    OmegaConf.set_struct(plain, True)
    assert settings_of(plain, v1=False).mutation.k == 2
