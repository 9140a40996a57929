"""The manager inside verl itself, with rollouts that stand still in place of Ray's workers. It needs verl,
which is no dependency: where that is not installed this file is skipped, and `test_verl_batch` holds what can
be
    held."""

from typing import Any

import numpy as np
import pytest
import torch

verl = pytest.importorskip("verl", reason="verl is not installed")

from omegaconf import OmegaConf  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from verl.experimental.agent_loop import AgentLoopManager  # noqa: E402
from verl.protocol import DataProto  # noqa: E402

from integrations.test_verl_batch import LABELS, REPLIES, TRUTHS, Letters, batch  # noqa: E402
from rarl.errors import ConfigError  # noqa: E402
from rarl.integrations import verl_mutation  # noqa: E402

CONFIG = {
    "trainer": {"use_v1": False},
    "data": {"seed": 0},
    "rarl": {"k": 1, "probability": 1.0},
    "actor_rollout_ref": {"rollout": {}, "model": {}},
    "reward": {
        "custom_reward_function": {"path": "pkg://rarl.integrations.verl_reward", "name": "compute_score"}
    },
}


def config(**changes: Any) -> Any:
    made = OmegaConf.create({**CONFIG, **changes})
    OmegaConf.set_struct(made, True)  # as Hydra leaves it
    return made


def manager(monkeypatch: pytest.MonkeyPatch, given: Any) -> Any:
    tokenizer = type("Model", (), {"tokenizer": Letters()})
    monkeypatch.setattr(verl_mutation, "omega_conf_to_dataclass", lambda _: tokenizer)
    return verl_mutation.MutatingAgentLoopManager(config=given, llm_client=None)


@pytest.mark.parametrize("validate", [False, True])
def test_generate_sequences(monkeypatch: pytest.MonkeyPatch, validate: bool) -> None:
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
    made = manager(monkeypatch, config()).generate_sequences(prompts)
    assert Letters().decode(made.batch["responses"][1]) == (REPLIES[1] if validate else TRUTHS[0])
    assert made.meta_info["timing"] == ({} if validate else {"rarl/replaced_share": 1 / 6})
    assert [Letters().decode(made.batch["responses"][row]) for row in (0, 2, 3)] == [
        REPLIES[0],
        REPLIES[2],
        REPLIES[3],
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer": {"use_v1": True}}, "trainer.use_v1=False"),
        ({"trainer": {}}, "trainer.use_v1=False"),
        ({"reward": {"custom_reward_function": {"path": None}}}, "pkg://rarl.integrations.verl_reward"),
        ({"rarl": {"probability": 2}}, "mutation.probability"),
    ],
)
def test_what_rmo_needs_of_verl(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        manager(monkeypatch, config(**changes))


def test_without_settings_the_papers_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OmegaConf.create({key: value for key, value in CONFIG.items() if key != "rarl"})
    OmegaConf.set_struct(plain, True)
    assert manager(monkeypatch, plain)._mutation.k == 2
