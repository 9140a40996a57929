"""The trainer with one prompt pass for a group against the same trainer without: on the same responses it has
the same losses, metrics, gradients and weights, and a seed samples the same responses."""

import pytest
import torch

from helpers.sharing import (
    CHECKPOINTING,
    Steps,
    assert_same_steps,
    lora,
    on_and_off,
    recording,
    replaying,
    rows_of,
    stock_of,
    trainer_of,
)
from rarl.models.loading import load_model, load_processor
from rarl.training.trainer import REWARDS

ADDED = ("policy", "mutation", "groups", "effort")


def test_ten_steps_are_those_of_trl(dataset, tmp_path):
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        theirs = Steps(stock_of(dataset, tmp_path / "stock", max_steps=10))
        replaying(patch, calls)
        own = Steps(trainer_of(dataset, tmp_path / "on", "on", max_steps=10))
    assert len(own.gradients) == 10
    for log in own.logs:  # what RARLTrainer logs beside TRL's own
        for key in [key for key in log if key.startswith(ADDED)]:
            del log[key]
    assert_same_steps(own, theirs)
    assert own.logs[9]["kl"] > 1e-3
    start = load_model("tiny").state_dict()
    assert any((weight - start[name]).abs().max() > 1e-3 for name, weight in own.weights.items())


@CHECKPOINTING
@pytest.mark.parametrize(
    "given",
    [
        {"activation_checkpointing": True},
        {"num_iterations": 2, "max_steps": 4, "seed": 2},
        {"mask_truncated_completions": True, "max_completion_length": 32, "seed": 2},
        {"mutation_probability": 1.0, "max_completion_length": 80, "rewards": REWARDS},
        {"loss_type": "dapo", "pad_to_multiple_of": 16, "top_entropy_quantile": 0.5},
        {"beta": 0.0, "importance_sampling_level": "sequence", "scale_rewards": "batch"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_settings_give_the_same_steps(dataset, tmp_path, given):
    own, _, _ = on_and_off(dataset, tmp_path, **given)
    if "mask_truncated_completions" in given:
        assert 0 < own.logs[0]["completions/clipped_ratio"] < 1
    if "mutation_probability" in given:
        assert own.logs[0]["mutation/fraction"] > 0


def test_a_group_that_is_masked_whole(dataset, tmp_path, monkeypatch):
    """All of its responses were cut off, so its micro-batch scores nothing."""
    cut, whole = [[30] * 16] * 4, [[31, 32, 2], [33, 2], [34, 35, 36, 2], [37, 38, 39, 2]]
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    runs = []
    for shared in ("on", "off"):
        replaying(monkeypatch, [cut + whole])
        trainer = trainer_of(dataset, tmp_path, shared, mask_truncated_completions=True, **given)
        runs.append(Steps(trainer))
    assert_same_steps(*runs, metrics=False)


@pytest.mark.parametrize(("accumulation", "prompts"), [(2, 2), (4, 1)])
def test_accumulated_gradients_are_the_same(dataset, tmp_path, accumulation, prompts):
    """TRL shuffles rows over the micro-batches, so only their sum is the same."""
    size = {"per_device_train_batch_size": 4 * prompts, "gradient_accumulation_steps": accumulation}
    on_and_off(dataset, tmp_path, metrics=False, **size)


def test_an_accumulated_batch_is_reused(dataset, tmp_path):
    """The old log-probs are kept for each micro-batch."""
    size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    on_and_off(dataset, tmp_path, metrics=False, num_iterations=2, max_steps=4, seed=2, **size)


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_an_adapter_gives_the_same_steps(dataset, tmp_path, task):
    """The reference is the model without the adapter."""
    own, _, _ = on_and_off(dataset, tmp_path, lora=lora(task_type=task), learning_rate=0.2)
    assert own.trainer.ref_model is None
    assert own.logs[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert own.logs[1]["kl"] > 1e-3


@CHECKPOINTING
def test_an_adapter_with_checkpointing_and_accumulation(dataset, tmp_path):
    size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    on_and_off(dataset, tmp_path, metrics=False, lora=lora(), activation_checkpointing=True, **size)


def test_prompts_without_images_give_the_same_steps(texts, tmp_path):
    on_and_off(texts, tmp_path)


def test_the_log_probs_of_vllm_are_those_of_their_responses(dataset, tmp_path, monkeypatch, caplog):
    """vLLM generates the responses, and everything after that is shared."""
    calls = [[[31 + at] * (1 + at % 5) + [2] for at in range(8)]]
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    runs = []
    for shared in ("on", "off"):
        replaying(monkeypatch, calls, logprob=-9.5)
        trainer = trainer_of(
            dataset, tmp_path, shared, vllm_importance_sampling_mode="token_truncate", **given
        )
        trainer.use_vllm = True
        trainer._start_sharing()
        runs.append(Steps(trainer))
    assert_same_steps(*runs, metrics=False)
    ratio = "sampling/importance_sampling_ratio/mean"
    assert runs[0].logs[0][ratio] == pytest.approx(runs[1].logs[0][ratio], rel=1e-4)
    [record] = caplog.records
    assert record.getMessage().startswith("shared_prefix: vLLM generates, ")


def test_mixed_precision_is_that_of_the_stock_pass(dataset, tmp_path):
    kinds = {}
    for shared in ("on", "off"):
        trainer = trainer_of(dataset, tmp_path, shared, max_steps=1, bf16=True)
        seen = kinds[shared] = []
        for model in (trainer.model, trainer.ref_model):
            model.model.language_model.layers[1].mlp.register_forward_hook(
                lambda module, args, output, seen=seen: seen.append((torch.is_grad_enabled(), output.dtype))
            )
        trainer.train()
    assert set(kinds["on"]) == set(kinds["off"])
    assert (True, torch.bfloat16) in kinds["on"]


@pytest.mark.parametrize(
    ("column", "images"),
    [("image", [[0], [1], [2], [1]]), ("images", [[], [], [0], [2, 1]]), ("images", [[0, 1], [2], [], []])],
)
def test_batches_with_and_without_images(dataset, tmp_path, column, images):
    """The images may also be in a column `image` of one each."""
    on_and_off(rows_of(dataset, column, images), tmp_path)


def test_images_of_many_tokens(dataset, tmp_path):
    processor = load_processor("tiny")
    processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 10**6}
    rows = rows_of(dataset, "images", [[0], [2, 1]], size=(168, 112))
    own, _, _ = on_and_off(rows, tmp_path, processor=processor)
    assert own.logs[0]["num_tokens"] > 4 * 3 * (6 * 4)  # 24 for each of 3 images, in 4 responses


def test_a_prompt_without_images_beside_one_with_images(dataset, tmp_path):
    """TRL 1.16 can't read such a batch, so micro-batches are compared with the whole batch."""
    rows = rows_of(dataset, "images", [[0], [], [], [2, 1]])
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        whole = Steps(trainer_of(rows, tmp_path / "whole", "on"))
        replaying(patch, calls)
        size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        parts = Steps(trainer_of(rows, tmp_path / "parts", "on", **size))
    assert_same_steps(parts, whole, metrics=False)


def test_evaluation_between_steps_is_trls_own(dataset, tmp_path):
    """It has fewer responses per prompt than training, and cuts groups apart."""
    given = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2}
    given |= {"per_device_eval_batch_size": 6, "eval_dataset": dataset.select([2, 1, 0])}
    own, theirs, _ = on_and_off(dataset, tmp_path, **given)
    evaluated = [[log for log in run.logs if "eval_loss" in log] for run in (own, theirs)]
    assert len(evaluated[0]) == 2
    metrics = []
    for run in (own, theirs):  # sampled now
        torch.manual_seed(3)
        metrics.append(run.trainer.evaluate())
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], abs=1e-5)
    assert metrics[0]["eval_loss"] != 0


@CHECKPOINTING
@pytest.mark.parametrize("how", ["full", "lora", "checkpointing", "texts"])
def test_the_same_seed_samples_the_same(dataset, texts, tmp_path, monkeypatch, how):
    given = {
        "max_steps": 3,
        "per_device_train_batch_size": 24,
        "activation_checkpointing": how == "checkpointing",
        # An adapter's gradients are fifty times as large here, and at full rate rounding would turn a token.
        "learning_rate": 1e-5 if how == "lora" else 0.02,
    }
    runs = []
    for shared in ("off", "on"):
        calls = []
        with monkeypatch.context() as patch:
            recording(patch, calls)
            trainer = trainer_of(
                texts if how == "texts" else dataset,
                tmp_path,
                shared,
                lora=lora(init_lora_weights=False, task_type="CAUSAL_LM") if how == "lora" else None,
                **given,
            )
            trainer.train()
        runs.append(calls)
    assert runs[0] == runs[1]
    assert len({tuple(ids) for ids in runs[0][0]}) > 12
