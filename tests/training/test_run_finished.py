"""Continuing a finished run: nothing is trained or evaluated again, and what doesn't fit the run is
refused."""

import io
import json
import shutil
import time

import pytest
import yaml
from rich.console import Console

from helpers.whole_runs import (
    METRICS,
    continued,
    results,
)
from rarl.errors import ConfigError
from rarl.training import run as stages
from rarl.training.config import config_from


def test_a_finished_run_trains_and_evaluates_nothing_again(whole_run, copy_of_run, no_training, monkeypatch):
    config = copy_of_run()
    before = {path: path.stat().st_mtime_ns for path in config.output.rglob("*.json*")}
    monkeypatch.setattr(stages, "load_model", lambda name: pytest.fail("a model was loaded"))
    started = time.monotonic()
    assert continued(config) == whole_run[1]
    assert time.monotonic() - started < 10
    assert before == {path: path.stat().st_mtime_ns for path in config.output.rglob("*.json*")}


def test_a_finished_run_is_not_begun_again(copy_of_run, no_training):
    with pytest.raises(ConfigError, match="continue it with --resume"):
        stages.train_and_evaluate(copy_of_run(), resume=False, console=Console(file=io.StringIO()))


def test_what_another_command_trains_is_left_to_it(copy_of_run, no_training, other_command):
    """The run is not finished, so there would be something to do."""
    config = copy_of_run(results=False)
    shutil.rmtree(config.output / "rarl")
    other_command(config.output, "training")
    before = {
        path: path.stat().st_mtime_ns for path in config.output.rglob("*") if path.name != "config.yaml"
    }
    with pytest.raises(ConfigError, match=r"another command is at work here \(training\)"):
        continued(config)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_configuration_does_not_continue_a_run(copy_of_run, no_training):
    config = copy_of_run()
    plain = config.to_dict()
    plain["stages"][1]["mutation"]["k"] = 1
    plain["trainer"]["learning_rate"] = 2e-3
    with pytest.raises(ConfigError) as caught:
        continued(config_from(plain, "test"))
    assert "stages[1].mutation.k: 2 before, 1 now" in str(caught.value)
    assert "trainer.learning_rate: 0.001 before, 0.002 now" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_more_is_evaluated_where_more_is_asked_for(whole_run, copy_of_run, run_config_of, no_training):
    """`evaluation` may change; what was measured before stays as it was."""
    config = copy_of_run()
    more = config_from(config.to_dict() | {"evaluation": {"images": [1, 2, 4], "lists": 5}}, "test")
    metrics = continued(more)
    four = {"tau4", "tau4_values", "tau4_mean", "agreement4", "position_bias4", "tau4_lenient"}
    for arm, entries in metrics["arms"].items():
        assert entries.keys() == METRICS | four
        for name in ("mae", "tau2"):
            assert entries[name] == whole_run[1]["arms"][arm][name]
    assert yaml.safe_load((config.output / "config.yaml").read_text())["evaluation"]["images"] == [1, 2, 4]


def test_another_number_of_lists_is_refused_and_not_ignored(copy_of_run, no_training):
    config = copy_of_run()
    other = config_from(config.to_dict() | {"evaluation": {"images": [1, 2], "lists": 4}}, "test")
    with pytest.raises(ConfigError, match=r"evaluation.lists: .* on 5 lists, not 4: give as many"):
        continued(other)


def test_a_number_of_lists_is_the_same_if_the_images_allow_no_more(whole_run, copy_of_run, no_training):
    """Ten images are five pairs."""
    config = copy_of_run()
    other = config_from(config.to_dict() | {"evaluation": {"images": [1, 2], "lists": 200}}, "test")
    assert continued(other) == whole_run[1]


def test_a_removed_model_is_trained_again_and_its_results_go_first(whole_run, copy_of_run, monkeypatch):
    config = copy_of_run("regression")
    seen = []

    def train(*args):
        seen.append(json.loads((config.output / "metrics.json").read_text())["arms"].keys())
        seen.append({json.loads(line)["arm"] for line in results(config.output)[1]})
        return original(*args)

    original = stages.train_stage
    monkeypatch.setattr(stages, "train_stage", train)
    metrics = continued(config)
    assert seen == [{"base", "sft", "rarl"}, {"base", "sft", "rarl"}]  # and one stage alone was trained
    assert metrics == whole_run[1]
    model = "regression/model.safetensors"
    assert (config.output / model).read_bytes() == (whole_run[0].output / model).read_bytes()


def test_a_run_of_an_earlier_version_says_how_it_scores_and_is_not_evaluated_again(
    whole_run, copy_of_run, no_training
):
    config = copy_of_run()
    (config.output / "rarl/scoring.json").unlink()
    predictions = (config.output / "predictions.jsonl").read_bytes()
    assert continued(config) == whole_run[1]
    assert (config.output / "predictions.jsonl").read_bytes() == predictions
    again = (config.output / "rarl/scoring.json").read_text()
    assert again == (whole_run[0].output / "rarl/scoring.json").read_text()
