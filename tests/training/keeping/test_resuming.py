"""A resumed training is the same as one that was not interrupted: it chooses the same responses and ends with
the same weights. A checkpoint that lacks weights is refused."""

import random

import pytest
import torch

from helpers.grpo import ours, trained
from rarl.errors import ModelError


def spy_on_choices(trainer):
    """The choices at each global step, collected while it trains."""
    chosen = {}
    original = trainer._choose

    def record(rewards, references):
        picked = original(rewards, references)
        chosen.setdefault(trainer.state.global_step, []).append(sorted(picked))
        return picked

    trainer._choose = record
    return chosen


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_chooses_the_same(prompts_of, tmp_path, accumulation):
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4], [5, 6], [2, 7], [1, 3], [9, 0])
    given = {
        "mutation": {"probability": 0.8},
        "max_steps": 4,
        "temperature": 1.5,
        "max_completion_length": 32,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = ours(dataset, tmp_path / "whole", **given)
    chosen = spy_on_choices(whole)
    _, weights = trained(whole)
    assert set(chosen) == {0, 1, 2, 3}
    assert any(picked for step in (2, 3) for picked in chosen[step])

    again = ours(dataset, tmp_path / "again", **given)
    resumed = spy_on_choices(again)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed == {step: chosen[step] for step in (2, 3)}
    assert all(torch.equal(weight, weights[name]) for name, weight in again.model.state_dict().items())


def test_an_adapter_trains_and_resumes(prompts_of, tmp_path):
    """With LoRA the KL's reference is the model without the adapter. A resumed run ends the same."""
    from peft import LoraConfig

    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4], [5, 6], [2, 7], [1, 3], [9, 0])

    def make(folder):
        given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "beta": 0.04}
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return ours(dataset, tmp_path / folder, {"probability": 0.5}, peft_config=lora, **given)

    whole = make("whole")
    logs, weights = trained(whole)
    assert whole.ref_model is None
    assert logs[0]["kl"] == 0
    assert logs[3]["kl"] > 0
    again = make("again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(weight, weights[name]) for name, weight in again.model.state_dict().items())


def test_a_checkpoint_that_lacks_weights_is_refused(prompts_of, tmp_path):
    from safetensors.torch import load_file, save_file

    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4])
    ours(dataset, tmp_path, save_strategy="steps", save_steps=1).train()
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"checkpoint-1 lacks weights: model\.language_model\.norm\.weight"):
        ours(dataset, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_the_choice_depends_on_the_seed_the_step_and_the_group_alone(prompts_of, tmp_path):
    def chosen(seed, step, calls=0):
        trainer = ours(prompts_of([3, 7]), tmp_path, {"probability": 0.5, "k": 1}, seed=seed)
        random.seed(calls)
        for _ in range(calls):
            trainer._choose([0.0, 1, 2, 3] * 8, [5.0] * 32)
        trainer.state.global_step = step
        return trainer._choose([0.0, 1, 2, 3] * 8, [5.0] * 32)

    assert chosen(0, 3) == chosen(0, 3, calls=4)
    assert len({tuple(sorted(chosen(seed, step))) for seed in (0, 1) for step in (0, 1)}) == 4
    # Of eight groups some are mutated and some not, so each draws for itself.
    assert 0 < len(chosen(0, 3)) < 8
