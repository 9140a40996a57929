"""The line that a person sees for TRL's logs, and the progress bar's callback over a run."""

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from helpers.training import cpu_arguments
from rarl.training.callbacks import ProgressLines, progress_line, validation_line

GRPO = {
    "loss": 0.0123,
    "grad_norm": 1.5,
    "reward": 3.2,
    "rewards/regression_reward/mean": 0.7,
    "rewards/ranking_reward/mean": 1.5,
    "rewards/format_reward/mean": 1.0,
    "policy/reward": 2.914,
    "policy/reward_std": 1.0,
    "policy/rewards/regression_reward": 0.640,
    "policy/rewards/ranking_reward": 1.296,
    "policy/rewards/format_reward": 0.978,
    "mutation/fraction": 0.08,
    "mutation/stagnant_before": 0.12,
    "mutation/stagnant_after": 0.04,
    "kl": 0.0213,
    "entropy": 0.512,
    "policy/kl": 0.0121,
    "policy/entropy": 0.342,
}


def test_the_line_of_a_mutated_run_shows_the_policys_own_numbers():
    assert progress_line(GRPO) == (
        "reward 2.914  reg 0.640  rank 1.296  format 0.978  stagnant 12%→4%  mutated 8%  "
        "KL 0.0121  entropy 0.342"
    )


def test_the_line_of_the_stock_trainer():
    log = {key: value for key, value in GRPO.items() if not key.startswith(("policy/", "mutation/"))}
    assert (
        progress_line(log)
        == "loss 0.012  reward 3.200  reg 0.700  rank 1.500  format 1.000  KL 0.0213  entropy 0.512"
    )


def test_the_line_of_sft():
    assert (
        progress_line({"loss": 1.5, "entropy": 0.25, "mean_token_accuracy": 0.9})
        == "loss 1.500  entropy 0.250"
    )


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_reward_that_no_response_has_is_a_dash(value):
    """One-image prompts have no ranking reward."""
    assert " rank -  " in progress_line(GRPO | {"policy/rewards/ranking_reward": value})


def test_what_was_not_logged_is_left_out():
    assert progress_line({}) == ""
    assert "KL" not in progress_line({key: value for key, value in GRPO.items() if not key.endswith("kl")})


VALIDATION = {
    "validation/mae": 0.87,
    "validation/accuracy": 0.5,
    "validation/within_one": 0.75,
    "validation/srcc": 0.9,
    "validation/plcc": 0.9,
    "validation/tau2": 0.66,
    "validation/tau2_values": 0.7,
    "validation/tau8": 0.412,
    "validation/parsed": 1.0,
    "validation/valid": 0.9314,
    "validation/score": 2.914,
    "epoch": 0.5,
    "step": 50,
}


def test_the_line_of_a_validation():
    wanted = "validation  score 2.914  mae 0.870  tau2 0.660  tau8 0.412  parsed 1.000  valid 0.931"
    assert validation_line(VALIDATION) == wanted


def test_the_line_of_a_validation_of_lists_alone():
    log = {key: value for key, value in VALIDATION.items() if key[11:] in ("tau8", "score")}
    assert validation_line(log) == "validation  score 2.914  tau8 0.412"


@pytest.fixture
def shown():
    return io.StringIO()


def run(shown, state):
    lines = ProgressLines("rarl", Console(file=shown, width=200))
    lines.on_train_begin(None, state, None)
    for step in range(1, 3):
        state.global_step = step
        lines.on_step_end(None, state, None)
        lines.on_log(None, state, None, logs=GRPO)
    lines.on_log(None, state, None, logs={"train_runtime": 1.0})
    lines.on_train_end(None, state, None)


def test_one_line_for_each_log(shown):
    run(shown, SimpleNamespace(is_world_process_zero=True, max_steps=280, global_step=0))
    lines = [text for text in shown.getvalue().splitlines() if text.startswith("rarl")]
    assert len(lines) == 2
    assert lines[0].startswith("rarl   1/280  reward 2.914  ")
    assert lines[1].startswith("rarl   2/280  reward 2.914  ")
    assert lines[1].endswith(" s/step")


def test_the_time_of_a_validation_is_no_part_of_a_step(shown, monkeypatch):
    """Two steps of 3 seconds each, a validation of 100 after each and one of 50 before the first."""
    now = [1000.0]
    monkeypatch.setattr("rarl.training.callbacks.time", SimpleNamespace(monotonic=lambda: now[0]))
    lines = ProgressLines("rarl", Console(file=shown, width=200))
    state = SimpleNamespace(is_world_process_zero=True, max_steps=9, global_step=0)
    lines.on_train_begin(None, state, None)
    now[0] += 50
    lines.on_log(None, state, None, logs=VALIDATION)
    for step in (1, 2):
        now[0] += 3
        state.global_step = step
        lines.on_step_end(None, state, None)
        now[0] += 100
        lines.on_log(None, state, None, logs=VALIDATION)
        lines.on_log(None, state, None, logs=GRPO)  # transformers logs when the callbacks are through
    lines.on_train_end(None, state, None)
    said = [text.split("  ") for text in shown.getvalue().splitlines() if text.startswith("rarl")]
    assert [words[:2] for words in said] == [
        ["rarl 0/9", "validation"],
        ["rarl 1/9", "validation"],
        ["rarl 1/9", "reward 2.914"],
        ["rarl 2/9", "validation"],
        ["rarl 2/9", "reward 2.914"],
    ]
    assert [words[-1] for words in said if words[1] != "validation"] == ["3.00 s/step"] * 2


def test_only_the_first_process_writes(shown):
    run(shown, SimpleNamespace(is_world_process_zero=False, max_steps=280, global_step=0))
    assert shown.getvalue() == ""


def test_every_label_is_a_metric_that_the_trainer_logs(prompts_of, tmp_path):
    """The names in PROGRESS_COLUMNS are RARLTrainer's and TRL's own."""
    from rarl.models.loading import load_model, load_processor
    from rarl.training.trainer import RARLConfig, RARLTrainer

    shown = io.StringIO()
    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}
    args = RARLConfig(**cpu_arguments(tmp_path, max_steps=1, **batch))
    RARLTrainer(
        load_model("tiny", training=True),
        args=args,
        train_dataset=prompts_of([3, 7]),
        processing_class=load_processor("tiny"),
        callbacks=[ProgressLines("rarl", Console(file=shown, width=300))],
    ).train()
    [text] = [text for text in shown.getvalue().splitlines() if text.startswith("rarl 1/1")]
    for label in ("reward", "reg", "rank", "format", "stagnant", "mutated", "KL", "entropy"):
        assert f"  {label} " in text
