"""What RARLTrainer relies on in TRL 1.16's private methods: one contract test for each seam, so that an
upgrade fails here and says so."""

import inspect
import math
import shutil

import pytest
import torch
from trl import GRPOTrainer

from helpers.grpo import (
    PERFECT,
    TOKENIZER,
    WRONG,
    Batch,
    ours,
    script,
    stock,
    text_of,
    unchanged,
)
from rarl.models.loading import load_model


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_generate", ["self", "prompts"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_log_metric", ["self", "name", "value"]),
        ("_log_completion_extra", ["self", "column", "values"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        ("_tokenize_prompts", ["self", "prompts"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        ("log", ["self", "logs", "start_time"]),
        ("_save_optimizer_and_scheduler", ["self", "output_dir"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        # Only the tests use this one:
        (
            "_generate_single_turn",
            ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
        ),
    ],
)
def test_seam_names_and_parameters(method, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


def test_seam_generate_returns_eight(prompts_of, tmp_path, monkeypatch):
    results = []
    original = GRPOTrainer._generate
    monkeypatch.setattr(
        GRPOTrainer, "_generate", lambda self, prompts: results.append(original(self, prompts)) or results[-1]
    )
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    batch = Batch(trainer)
    [(prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images)] = (
        results
    )
    assert [len(each) for each in (prompt_ids, completion_ids, completions, images)] == [8] * 4
    assert all(isinstance(token, int) for ids in completion_ids for token in ids)
    assert [completion[0]["role"] for completion in completions] == ["assistant"] * 8
    assert [completion[0]["content"] for completion in completions] == [
        text_of(ids) for ids in completion_ids
    ]
    assert (tool_mask, logprobs, extra_fields, tool_images) == (None, None, {}, [])
    # Everything after works on what it returned.
    assert batch.ids == completion_ids
    # The rows of a group are consecutive, and the inputs have the dataset's columns.
    assert [row["values"] for row in batch.inputs] == [[3, 7]] * 4 + [[1, 9]] * 4
    assert {"rule", "step", "delta", "range", "images", "prompt"} <= batch.inputs[0].keys()


def test_seam_scoring_calls_generate_and_is_called_by_prepare_inputs(prompts_of, tmp_path, monkeypatch):
    script(monkeypatch, [WRONG] * 8)
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    calls = []
    for name in ("_generate_and_score_completions", "_generate"):
        original = getattr(trainer, name)

        def record(argument, name=name, original=original):
            calls.append((name, len(argument)))
            return original(argument)

        setattr(trainer, name, record)
    trainer.model.train()
    trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    assert calls == [("_generate_and_score_completions", 8), ("_generate", 8)]


def test_seam_rewards_are_given_the_trainers_log_functions(prompts_of, tmp_path):
    """They are read from `self` at each call; that is how the policy's metrics are kept apart."""
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    logged, extras = {}, {}
    trainer._log_metric = logged.__setitem__
    trainer._log_completion_extra = extras.__setitem__

    def extra(completions, log_extra, **columns):
        log_extra("column", [1] * len(completions))
        return [0.5] * len(completions)

    trainer.reward_funcs[2] = extra
    completions = [[{"role": "assistant", "content": PERFECT}]] * 8
    parts = trainer._calculate_rewards(inputs, [row["prompt"] for row in inputs], completions, [[1]] * 8)
    assert parts.shape == (8, 3)
    assert parts.dtype == torch.float32
    assert parts[:4].tolist() == [[1, 3, 0.5]] * 4
    assert set(logged) == {"r_len", "r_consis", "r_acc"}
    assert extras == {"column": [1] * 8}
    assert trainer.reward_func_names == ["regression_reward", "ranking_reward", "format_reward"]
    assert trainer.reward_weights.tolist() == [1, 1, 1]


def test_seam_pending_metrics_are_flushed_into_the_modes_metrics(prompts_of, tmp_path):
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    trainer._log_metric("policy/r_len", 0.25)
    trainer._log_metric("policy/r_len", 0.75)
    Batch(trainer)
    assert trainer._metrics["train"]["policy/r_len"] == [0.5]
    trainer._metrics["train"]["a"].append(1.0)  # a list for every name
    trainer._metrics["train"]["nan"].append(math.nan)
    trainer.log({})
    assert trainer.state.log_history[-1]["a"] == 1
    assert trainer.state.log_history[-1]["nan"] is None


def test_seam_attributes(prompts_of, tmp_path):
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    assert trainer._step == 0
    assert trainer.num_generations == 4
    assert trainer.max_completion_length == 64
    assert trainer._tokenizer.eos_token_id == TOKENIZER.eos_token_id
    assert trainer.accelerator.process_index == 0


def test_seam_the_image_token_is_never_sampled(prompts_of, tmp_path):
    """A response with an image's placeholder would have no image for it, so TRL keeps it out."""
    trainer = unchanged(prompts_of([3, 7]), tmp_path)
    assert trainer.generation_config.suppress_tokens == [trainer.model.config.image_token_id]


def test_seam_the_kl_reference_is_loaded_from_where_the_model_was(prompts_of, tiny, tmp_path):
    """That makes each stage's own start its reference."""
    start = tmp_path / "stage"
    shutil.copytree(tiny, start)
    model = load_model(start)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(start)
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path, model=str(start), beta=0.01)
    reference = trainer.ref_model.state_dict()
    assert all(torch.equal(weight, reference[name]) for name, weight in trainer.model.state_dict().items())
    base = load_model(tiny).state_dict()
    assert not any(torch.equal(weight, base[name]) for name, weight in reference.items() if weight.any())


def test_seam_the_state_counts_optimizer_steps(prompts_of, tmp_path):
    """The seed of a draw: `global_step`, and the generation's place in the accumulation cycle."""
    trainer = ours(
        prompts_of([3, 7], [1, 9], [2, 8], [0, 4]),
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=1,
        max_completion_length=8,
    )
    places = []
    original = trainer._choose

    def record(*rewards):
        places.append((trainer.state.global_step, trainer._step % 2))
        return original(*rewards)

    trainer._choose = record
    trainer.train()
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
