"""Runs of SFT and two stages, and arms that are validated while they train, shared by
several test files. No test changes a run that others share: it works on a copy."""

import io
import shutil

import pytest
from rich.console import Console

from helpers.training import run_config


@pytest.fixture(scope="module", autouse=True)
def _no_garbage(imported_is_no_garbage):
    """Nearly every module here trains."""


# ── a run as a whole ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def run_digits(few_digits):
    """Few digits: a quick evaluation, and every training image is used more than once."""
    return few_digits(train=24, validation=10, test=10)


@pytest.fixture(scope="session")
def run_config_of(run_digits):
    """`run_config_of(output, seed=1)`: SFT and two stages, the second with mutation; a checkpoint each
    step."""
    stages = [
        {
            "name": "regression",
            "images": [1],
            "weights": {"regression": 1, "ranking": 0, "format": 1},
            "max_steps": 2,
        },
        {
            "name": "rarl",
            "images": [1, 2, 4],
            "max_steps": 4,
            "mutation": {"k": 2, "probability": 0.8},
            # Two micro-batches of one generation: the order of draws must not depend on the process.
            "trainer": {"gradient_accumulation_steps": 2},
        },
    ]
    others = {"sft": {"trainer": {"save_steps": 2}}, "evaluation": {"images": [1, 2], "lists": 5}}

    def make(output, trainer=None, **changes):
        # A rate that falls: a run that goes on must know where it was.
        trainer = {"lr_scheduler_type": "linear", **(trainer or {})}
        return run_config(run_digits.root, output, trainer=trainer, **({"stages": stages} | others | changes))

    return make


@pytest.fixture(scope="session")
def whole_run(run_config_of, tmp_path_factory):
    """A run that was not interrupted: its configuration, its return value, the watcher, and what it
    printed."""
    from helpers.whole_runs import Watched
    from rarl.training import arms
    from rarl.training.run import train_and_evaluate

    config = run_config_of(tmp_path_factory.mktemp("runs") / "whole")
    watched, text = Watched(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "_fit", watched.fit)
        metrics = train_and_evaluate(config, resume=False, console=Console(file=text, width=200))
    return config, metrics, watched, text.getvalue()


@pytest.fixture
def copy_of_run(whole_run, run_config_of, tmp_path):
    """`copy_of_run("rarl")`: the configuration of a copy of the whole run, without that arm's model."""

    def make(*without, results=True):
        config = run_config_of(tmp_path / "copy")
        shutil.copytree(whole_run[0].output, config.output)
        for name in without:
            shutil.rmtree(config.output / name)
        if not results:
            for name in ("metrics.json", "predictions.jsonl"):
                (config.output / name).unlink()
        return config

    return make


@pytest.fixture
def interrupt_at(monkeypatch):
    """`interrupt_at("rarl", 2)`: Ctrl-C after that arm has saved that step, or with `saved=False` within the
    step."""
    from rarl.training.callbacks import ProgressLines

    def arrange(arm, step, saved=True):
        def stop(lines, args, state, control, **kwargs):
            if lines._arm == arm and state.global_step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(ProgressLines, "on_save" if saved else "on_substep_end", stop)

    return arrange


@pytest.fixture
def no_training(monkeypatch):
    """A test in which nothing may be trained."""
    from rarl.training import run

    def refuse(*args, **kwargs):
        pytest.fail("something was trained")

    monkeypatch.setattr(run, "train_sft", refuse)
    monkeypatch.setattr(run, "train_stage", refuse)


# ── an arm that is validated ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def validated_digits(few_digits):
    return few_digits(train=24, validation=12, test=4)


@pytest.fixture(scope="session")
def validated_config_in(validated_digits):
    """`validated_config_in(folder, validation={...})`: one stage of five steps, a checkpoint each step."""
    from helpers.validated import ASKED, STAGE

    # Without a KL, and so without a reference model.
    keys = {"prompts_per_step": 1, "learning_rate": 2e-3, "beta": 0.0, "max_completion_length": 48}
    evaluation = {"images": [2], "lists": 2, "max_new_tokens": 16}
    others = {"seed": 3, "validation": ASKED, "evaluation": evaluation}

    def make(output, **changes):
        sections = {"stages": [STAGE], "trainer": keys} | others | changes
        return run_config(**({"data": validated_digits.root, "output": output} | sections))

    return make


@pytest.fixture
def validated_config_of(validated_config_in, tmp_path):
    """`validated_config_of("run", validation={...})`: the same in a folder of this test."""
    return lambda name="run", **changes: validated_config_in(tmp_path / name, **changes)


@pytest.fixture
def scores(monkeypatch):
    """`scores({0: 1.0, ...})`: the score of every step, from now on."""
    from helpers.validated import Scores
    from rarl.training.callbacks import ValidationCallback

    def given(by_step):
        known = Scores(by_step)
        monkeypatch.setattr(ValidationCallback, "_measured", lambda asked: known(asked))
        return known

    return given
