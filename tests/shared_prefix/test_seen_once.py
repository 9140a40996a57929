"""What the vision tower saw in generation serves the update, where the weights are still the same."""

import pytest
import torch
from peft import LoraConfig

from helpers.sharing import CHECKPOINTING, Steps, assert_same_steps, recording, replaying, trainer_of
from rarl.models.positions import backbone_of


def passes(trainer):
    """Trains, and lists whether gradients were computed in each pass of the policy's vision tower."""
    found = []
    hook = backbone_of(trainer.model).visual.register_forward_pre_hook(
        lambda *given: found.append(torch.is_grad_enabled())
    )
    steps = Steps(trainer)
    hook.remove()
    assert trainer._seen is None  # its memory is given back
    return found, steps


def generated(dataset, folder, **given):
    """The passes of a trainer that shares prompts, and its steps beside those of one that does not."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        found, own = passes(trainer_of(dataset, folder / "on", "on", **given))
        replaying(patch, calls)
        theirs = Steps(trainer_of(dataset, folder / "off", "off", **given))
    assert_same_steps(own, theirs)
    return found


def test_once_a_step(dataset, tmp_path):
    assert generated(dataset, tmp_path) == [True, True]


def test_an_adapter_in_the_tower_is_off_in_the_reference(dataset, tmp_path):
    lora = LoraConfig(r=4, target_modules="all-linear", lora_alpha=32)
    assert generated(dataset, tmp_path, lora=lora) == [True, False] * 2


def test_mixed_precision(dataset, tmp_path):
    found, own = passes(trainer_of(dataset, tmp_path / "once", "on", bf16=True, max_steps=1))
    assert found == [True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rarl.shared_prefix.trainer.SharedPrefix._sees_once", lambda self: False)
        found, twice = passes(trainer_of(dataset, tmp_path / "twice", "on", bf16=True, max_steps=1))
    assert found == [False, True]
    for name, gradient in twice.gradients[0].items():
        assert torch.equal(own.gradients[0][name], gradient), name


@CHECKPOINTING
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"activation_checkpointing": True}, [False, True] * 2),
        ({"num_iterations": 2, "seed": 2}, [False, False, True, True]),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, [False, True, True] * 2),
    ],
    ids=["activation_checkpointing", "num_iterations", "gradient_accumulation_steps"],
)
def test_twice_where_memory_is_saved_or_weights_change(dataset, tmp_path, given, expected):
    assert passes(trainer_of(dataset, tmp_path, "on", **given))[0] == expected


def test_twice_with_dropout_in_the_tower(dataset, tmp_path):
    trainer = trainer_of(dataset, tmp_path, "on", max_steps=1)
    backbone_of(trainer.model).visual.merger.mlp.append(torch.nn.Dropout(0.5))
    assert passes(trainer)[0] == [False, True]
