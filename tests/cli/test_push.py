"""`rarl train --push-to-hub`: asked before anything is trained, done when all is measured, with the card."""

from pathlib import Path
from typing import Any

import pytest

from helpers.runs import make_run
from rarl.cli import main
from rarl.errors import ConfigError
from rarl.evaluation.results import load_metrics
from rarl.models.folders import hub


def train(run: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["train", str(run / "config.yaml"), "--resume", *options])
    return int(leaving.value.code or 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is finished, but for its last evaluation, which stands still."""
    made = make_run(tmp_path / "run", model="tiny")

    def finished(*given: Any, **rest: Any) -> dict[str, Any]:
        return load_metrics(made / "metrics.json")

    monkeypatch.setattr("rarl.training.run.train_and_evaluate", finished)
    return made


def test_the_last_model_is_uploaded_with_its_card(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def push(folder: Path, repository: str) -> str:
        assert (folder / "README.md").is_file()
        asked.append(f"{folder.name} to {repository}")
        return "https://hub/ada/shades"

    monkeypatch.setattr(hub, "check_push", asked.append)
    monkeypatch.setattr(hub, "push", push)
    assert train(run, "--push-to-hub", "ada/shades") == 0
    assert asked == ["ada/shades", "rarl to ada/shades"]
    assert capsys.readouterr().out.endswith("uploaded to https://hub/ada/shades\n")


def test_nothing_runs_where_it_could_not_be_uploaded(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(repository: str) -> None:
        raise ConfigError("--push-to-hub: nobody is logged in")

    monkeypatch.setattr(hub, "check_push", refuse)
    assert train(run, "--push-to-hub", "ada/shades") == 2
    assert capsys.readouterr().err == "error: --push-to-hub: nobody is logged in\n"
    assert not (run / "rarl" / "README.md").exists()


def test_without_it_there_are_cards_all_the_same(run: Path) -> None:
    assert train(run) == 0
    assert all((run / arm / "README.md").is_file() for arm in ("sft", "regression", "rarl"))
