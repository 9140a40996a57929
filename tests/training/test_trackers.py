"""Trackers are checked before a run, told its name, and ended with each arm; TensorBoard's files outlive the
checkpoints."""

from types import SimpleNamespace
from typing import Any

import pytest

from helpers.training import quiet, run_config
from rarl.errors import ConfigError
from rarl.training import run as stages
from rarl.training.config import check_trainer_fields
from rarl.training.trackers import follow, leave, tracker_arguments, tracker_problem

STAGE = {"name": "first", "images": [2], "max_steps": 1}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard", "wandb"]
    )


@pytest.mark.parametrize("names", [None, "none", "all", [], "wandb", ["wandb", "tensorboard"]])
def test_trackers_that_can_be_had(installed: None, names: Any) -> None:
    assert tracker_problem(names) is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("trackio", "trackio is not installed: pip install trackio"),
        (["wandb", "mlflow"], "mlflow is not installed: pip install mlflow"),
        ("tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
        ("?", "unknown tracker '?'; there are "),
    ],
)
def test_trackers_that_can_not(installed: None, names: Any, said: str) -> None:
    assert str(tracker_problem(names)).startswith(said)


@pytest.mark.parametrize("section", ["trainer", "stages[0].trainer", "sft.trainer"])
def test_each_section_is_checked_before_a_run(installed: None, tmp_path: Any, section: str) -> None:
    wrong = {"report_to": ["trackio"]}
    config = run_config(
        None,
        tmp_path / "run",
        [{**STAGE, **({"trainer": wrong} if section == "stages[0].trainer" else {})}],
        wrong if section == "trainer" else {},
        **({"sft": {"max_steps": 1, "trainer": wrong}} if section == "sft.trainer" else {}),
    )
    with pytest.raises(ConfigError) as refused:
        check_trainer_fields(config)
    assert str(refused.value) == f"{section}.report_to: trackio is not installed: pip install trackio"


def test_each_arm_is_followed_under_its_name_and_ended(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    ended: list[bool] = []

    class TensorBoardCallback:
        logging_dir = None

    class WandbCallback:
        _wandb = SimpleNamespace(finish=lambda: ended.append(True))

    board = TensorBoardCallback()
    trainer = SimpleNamespace(
        callback_handler=SimpleNamespace(callbacks=[board, WandbCallback()]),
        args=SimpleNamespace(project="rarl"),
    )
    follow(trainer, tmp_path / "faces", "sft")
    assert board.logging_dir == str(tmp_path / "faces" / "tensorboard" / "sft")
    assert tracker_arguments(tmp_path / "faces", "sft") == {"run_name": "faces/sft", "project": "rarl"}
    leave(trainer)
    assert ended == [True]


def test_the_files_of_tensorboard_are_in_the_run(digits: Any, tmp_path: Any) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = run_config(
        digits.root, tmp_path / "run", [STAGE], {"report_to": "tensorboard", "max_completion_length": 16}
    )
    stages.train_arms(config, digits, quiet())
    events = EventAccumulator(str(config.output / "tensorboard" / "first"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/reward")] == [1]
    assert sorted(path.name for path in config.output.iterdir()) == ["first", "tensorboard"]
