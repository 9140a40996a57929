"""A run that is interrupted anywhere and then continued ends with the weights and numbers of one that is
not."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

import rarl.evaluation.evaluate
from helpers.whole_runs import (
    ARMS,
    assert_same_run,
    continued,
)
from rarl.signals import Stopped
from rarl.training import run as stages
from rarl.training.callbacks import ProgressLines


@pytest.mark.parametrize("step", [1, 4])
def test_a_stage_interrupted_at_a_checkpoint_ends_the_same(
    whole_run, copy_of_run, interrupt_at, monkeypatch, step
):
    """At the last step nothing is left to train, but the folder must still be written."""
    config = copy_of_run("rarl")
    interrupt_at("rarl", step)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    assert (config.output / f"checkpoints/rarl/checkpoint-{step}").is_dir()
    assert not (config.output / "rarl").exists()
    metrics = continued(config)
    assert metrics == whole_run[1]
    assert_same_run(config.output, whole_run[0].output)


def test_a_stage_interrupted_between_its_micro_batches_ends_the_same(
    whole_run, copy_of_run, interrupt_at, monkeypatch
):
    config = copy_of_run("rarl")
    interrupt_at("rarl", 2, saved=False)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_the_run_ends_the_same(
    whole_run, copy_of_run, monkeypatch, number, code, capfd
):
    """It comes within step 2, between its micro-batches."""
    config = copy_of_run("rarl")

    def send(lines, args, state, control, **kwargs):
        if lines._arm == "rarl" and state.global_step == 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressLines, "on_substep_end", send)
    monkeypatch.setattr(ProgressLines, "on_save", _no_other_checkpoint)
    with pytest.raises(Stopped) as stopped:
        continued(config)
    monkeypatch.undo()
    assert stopped.value.code == code
    assert str(stopped.value).endswith("; a checkpoint of step 2 of rarl is saved")
    assert "a checkpoint is saved after this step" in capfd.readouterr().err
    assert (config.output / "checkpoints/rarl/checkpoint-2/digests.json").is_file()
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


def _no_other_checkpoint(lines, args, state, control, **kwargs):
    assert state.global_step <= 2


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    whole_run, copy_of_run, interrupt_at, monkeypatch, caplog
):
    config = copy_of_run("rarl")
    interrupt_at("rarl", 3, saved=False)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    weights = config.output / "checkpoints/rarl/checkpoint-3/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    continued(config)
    assert "checkpoint-3 is not whole (model.safetensors is not what was written): passed over" in caplog.text
    assert_same_run(config.output, whole_run[0].output)


def test_sft_interrupted_ends_the_same(whole_run, copy_of_run, interrupt_at, monkeypatch):
    config = copy_of_run("sft")
    interrupt_at("sft", 4)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


def remove(name):
    return lambda checkpoint: (checkpoint / name).unlink()


def cut(checkpoint):
    file = checkpoint / "trainer_state.json"
    file.write_text(file.read_text()[:100])


@pytest.mark.parametrize("damage", [remove("optimizer.pt"), cut], ids=["optimizer", "state"])
def test_half_a_checkpoint_is_passed_over(whole_run, copy_of_run, interrupt_at, monkeypatch, damage, caplog):
    config = copy_of_run("rarl")
    interrupt_at("rarl", 3)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    damage(config.output / "checkpoints/rarl/checkpoint-3")
    continued(config)
    assert "checkpoint-3 is not whole" in caplog.text
    assert_same_run(config.output, whole_run[0].output)


def test_an_interrupted_bar_leaves_the_terminal_as_it_was(copy_of_run, interrupt_at):
    config = copy_of_run("rarl")
    interrupt_at("rarl", 1)
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyboardInterrupt):
        stages.train_and_evaluate(config, resume=True, console=console)
    text = console.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor is hidden, and shown again


def test_a_killed_process_continues_to_the_same_end(whole_run, run_config_of, tmp_path):
    config = run_config_of(tmp_path / "killed")
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "rarl", "train", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        reached = config.output / "checkpoints/rarl/checkpoint-1/trainer_state.json"
        deadline = time.monotonic() + 120
        while not reached.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (config.output / "sft").is_dir()
    assert not (config.output / "rarl").exists()

    output = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True, timeout=120)
    assert_same_run(config.output, whole_run[0].output)
    # If a checkpoint was being written, it is mentioned.
    assert all(line.endswith("passed over") for line in output.stderr.splitlines())
    lines = [line for line in output.stdout.splitlines() if line.startswith(tuple(ARMS))]
    assert lines, "the steps that were left"
    assert all(line.startswith("rarl ") and line.endswith(" s/step") for line in lines)
    table = output.stdout[output.stdout.index("digits, test split") :]
    assert [name for name in ("+ SFT", "+ Regression", "+ RARL") if table.count(name) == 1] == [
        "+ SFT",
        "+ Regression",
        "+ RARL",
    ]
    # Our lines and the table: no bars, no warnings, no empty lines in between.
    assert output.stdout.split("digits, test split")[0].strip().splitlines() == lines


def test_interrupted_between_training_and_evaluation(whole_run, copy_of_run, no_training):
    config = copy_of_run(results=False)
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


def test_interrupted_during_evaluation(whole_run, copy_of_run, no_training, monkeypatch):
    config = copy_of_run(results=False)
    calls = []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:  # three batches of the base, and one of sft
            raise KeyboardInterrupt
        return replies(*args, **kwargs)

    replies = rarl.evaluation.evaluate.greedy_replies
    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", stop)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    assert list(json.loads((config.output / "metrics.json").read_text())["arms"]) == ["base"]
    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", replies)
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


def test_interrupted_between_the_two_files_of_results(whole_run, copy_of_run, no_training, monkeypatch):
    config = copy_of_run(results=False)

    def stop(folder, metrics):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rarl.evaluation.evaluate, "write_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            continued(config)
    assert (config.output / "predictions.jsonl").is_file()
    assert not (config.output / "metrics.json").exists()
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


def test_checkpoints_of_a_finished_arm_do_not_stay(whole_run, copy_of_run, no_training):
    """It was killed when the arm's folder had its name and the checkpoints were still there."""
    config = copy_of_run()
    (config.output / "checkpoints/rarl/checkpoint-4").mkdir(parents=True)
    continued(config)
    assert_same_run(config.output, whole_run[0].output)


def test_half_a_model_folder_is_not_taken_for_one(whole_run, copy_of_run):
    """It was killed while the model was being written under its temporary name."""
    config = copy_of_run("rarl")
    half = config.output / ".rarl.unfinished"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    continued(config)
    assert_same_run(config.output, whole_run[0].output)
