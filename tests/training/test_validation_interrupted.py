"""Validation in an arm that is interrupted, and in two processes: it ends as if nothing had happened."""

import json
import shutil
import sys

import pytest

from helpers.training import log
from helpers.validated import ASKED, SFT_ALONE, STAGE, Scores, model_bytes, steps_of, train, validated
from rarl.training import callbacks as validation
from rarl.training.callbacks import (
    SCORE_KEY,
    ProgressLines,
    ValidationCallback,
)
from rarl.training.config import config_from


def stop_at(monkeypatch, event, step, times=1):
    """Ctrl-C at this event of the trainer in that step, so many times."""
    left = [times]

    def stop(lines, args, state, control, **kwargs):
        if state.global_step == step and left[0]:
            left[0] -= 1
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLines, event, stop)


RISING = {0: 1.0, 2: 3.0, 4: 4.0, 5: 2.5}
FALLING = {0: 1.0, 2: 3.0, 4: 2.0, 5: 2.5}


@pytest.fixture(scope="module")
def whole(validated_config_in, tmp_path_factory):
    """`whole(keep, scores)`: the arm's folder of a run that was not interrupted."""
    folders = {}
    for keep, by_step in (("best", RISING), ("best", FALLING), ("last", FALLING)):
        root = tmp_path_factory.mktemp("whole")
        with pytest.MonkeyPatch.context() as patch:
            known = Scores(by_step)
            patch.setattr(ValidationCallback, "_measured", lambda asked, known=known: known(asked))
            folders[keep, by_step[4]] = train(validated_config_in(root, validation={**ASKED, "keep": keep}))
    return lambda keep, by_step: folders[keep, by_step[4]]


def assert_same_end(folder, reference):
    assert model_bytes(folder) == model_bytes(reference)
    assert steps_of(log(folder)) == steps_of(log(reference))
    assert validated(folder) == validated(reference)
    assert (folder / "groups.jsonl").read_text() == (reference / "groups.jsonl").read_text()
    records = [json.loads((where / "training.json").read_text()) for where in (folder, reference)]
    assert records[0]["step"] == records[1]["step"]
    assert [path.name for path in folder.parent.iterdir()] == ["rarl"]


@pytest.mark.parametrize(("keep", "step"), [("best", 1), ("best", 5), ("last", 3)])
def test_interrupted_at_a_checkpoint_the_end_is_the_same(
    validated_config_of, scores, monkeypatch, whole, step, keep
):
    scores(FALLING)
    config = validated_config_of(validation={**ASKED, "keep": keep})
    with monkeypatch.context() as patch:
        stop_at(patch, "on_save", step)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert (config.output / f"checkpoints/rarl/checkpoint-{step}").is_dir()
    folder = train(config)
    assert_same_end(folder, whole(keep, FALLING))
    # Nobody has measured all of it.
    assert json.loads((folder / "training.json").read_text())["seconds"] is None


@pytest.mark.parametrize("step", [0, 4])
def test_killed_between_the_validation_and_the_checkpoint(
    validated_config_of, scores, monkeypatch, whole, step
):
    """The step is in no checkpoint, but its best model has been saved already."""
    scores(RISING)
    config = validated_config_of(validation={**ASKED, "keep": "best"})
    validate = ValidationCallback._validate

    def stop(asked, state, control):
        validate(asked, state, control)
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ValidationCallback, "_validate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (config.output / f"checkpoints/rarl/checkpoint-{step}").exists()
    assert_same_end(train(config), whole("best", RISING))


def test_killed_while_the_best_takes_its_place(validated_config_of, scores, monkeypatch, whole):
    """At that moment the former best is gone, and the new one doesn't have its name yet."""
    scores(RISING)
    config = validated_config_of(validation={**ASKED, "keep": "best"})

    def half(temporary, folder):
        if folder.exists():
            shutil.rmtree(folder)
            raise KeyboardInterrupt
        temporary.rename(folder)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "finish", half)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (config.output / "checkpoints/rarl/best").exists()
    assert_same_end(train(config), whole("best", RISING))


def test_adapters_and_sft_interrupted_keep_the_best(validated_config_of, scores, monkeypatch):
    scores(FALLING)
    changes = {**SFT_ALONE, "lora": {"r": 4, "dropout": 0.1}, "validation": {**ASKED, "keep": "best"}}
    whole, parts = (
        train(validated_config_of("whole", **changes), "sft"),
        validated_config_of("parts", **changes),
    )
    with monkeypatch.context() as patch:
        stop_at(patch, "on_save", 3)
        with pytest.raises(KeyboardInterrupt):
            train(parts, "sft")
    folder = train(parts, "sft")
    assert model_bytes(folder) == model_bytes(whole)
    assert validated(folder) == validated(whole)


def test_two_processes_ask_once_and_keep_the_best(validated_config_of, tmp_path, in_two_processes):
    settings = {**ASKED, "every": 1, "keep": "best"}
    changes = {"stages": [{**STAGE, "max_steps": 2}], "validation": settings}
    pair, one = validated_config_of("pair", **changes), validated_config_of("one", **changes)
    pair.output.mkdir()
    (tmp_path / "pair.json").write_text(json.dumps(pair.to_dict()))
    alone = in_two_processes(__file__, tmp_path / "pair.json", alone=lambda: train(one))
    folder = pair.output / "rarl"
    assert [line["step"] for line in validated(folder)] == [0, 1, 2]
    assert validated(folder)[0] == validated(alone)[0]  # of the same model, by one process
    assert [line["step"] for line in log(folder) if "loss" in line] == [1, 2]
    kept = json.loads((folder / "training.json").read_text())["step"]
    found = [line[SCORE_KEY] for line in validated(folder)]
    assert kept == found.index(max(found))
    assert model_bytes(folder)
    assert [path.name for path in pair.output.iterdir()] == ["rarl"]


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        train(config_from(json.load(file), "pair"))
