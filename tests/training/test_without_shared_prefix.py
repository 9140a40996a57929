"""Training works without the folder `rarl/shared_prefix`: the trainer's source says which lines to delete for
that, and what is left trains as with `shared_prefix: off`. With "off" nothing of the folder is done."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from helpers.grpo import ours, settings, trained
from rarl.models.loading import load_model, load_processor
from rarl.training import trainer as whole


@pytest.fixture
def alone(monkeypatch):
    """The module `rarl.training.trainer` without its marked lines, where the folder can't be imported."""
    for name in [name for name in sys.modules if name.startswith("rarl.shared_prefix")]:
        monkeypatch.setitem(sys.modules, name, None)
    lines = Path(whole.__file__).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.endswith("# shared prefix")]
    assert len(lines) - len(kept) == 5
    module = ModuleType("trainer_alone")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile("\n".join(kept), "trainer_alone.py", "exec"), vars(module))
    return module


def test_the_trainer_without_the_marked_lines_is_the_one_that_shares_nothing(alone, prompts_of, tmp_path):
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4])
    given = {"mutation_probability": 0.5, "mutation_k": 1, "max_completion_length": 32}
    trainer = alone.RARLTrainer(
        load_model("tiny", training=True),
        args=alone.RARLConfig(**settings(tmp_path, **given)),
        train_dataset=dataset,
        processing_class=load_processor("tiny"),
    )
    assert not any("shared_prefix" in base.__module__ for base in type(trainer).__mro__)
    logs, weights = trained(trainer)
    own_logs, own_weights = trained(ours(dataset, tmp_path, shared_prefix="off", **given))
    assert logs == own_logs
    assert all(torch.equal(weight, own_weights[name]) for name, weight in weights.items())


def test_off_passes_every_call_on(prompts_of, tmp_path, monkeypatch):
    for name in ("share", "pack", "rollouts", "why_not", "torn_groups"):
        monkeypatch.setattr(f"rarl.shared_prefix.trainer.{name}", lambda *_, name=name: pytest.fail(name))
    monkeypatch.setattr(whole, "torn_groups", lambda args: pytest.fail("torn_groups"))
    trainer = ours(prompts_of([3, 7], [1, 9]), tmp_path, shared_prefix="off", max_steps=1)
    trainer.train()
    assert trainer.model.config.text_config._attn_implementation == "sdpa"
