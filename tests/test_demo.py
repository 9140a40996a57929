"""`rarl demo` with a few steps instead of hundreds: it leaves the run's folder, continues an interrupted
demo, and prints the table of a finished one again without training."""

import io
import json

import pytest
import yaml
from rich.console import Console

import rarl.demo
from rarl.demo import CONFIG, run_demo
from rarl.errors import ConfigError
from rarl.training import run as stages
from rarl.training.callbacks import ProgressLines
from rarl.training.config import config_from
from rarl.yaml_files import read_yaml_mapping

ARMS = ["sft", "regression", "rarl"]


@pytest.fixture(autouse=True)
def _short(tmp_path, monkeypatch):
    """The demo's own configuration, with fewer steps, prompts, responses and lists, also in validation."""
    mapping = read_yaml_mapping(CONFIG)
    for stage in mapping["stages"]:
        stage["max_steps"] = 2
    mapping["trainer"] |= {"prompts_per_step": 2, "num_generations": 4, "logging_steps": 1, "save_steps": 1}
    mapping["validation"] |= {"prompts": 2}
    mapping["evaluation"] |= {"images": [2], "lists": 4, "position_lists": 2}
    short = tmp_path / "demo.yaml"
    short.write_text(yaml.safe_dump(mapping))
    monkeypatch.setattr(rarl.demo, "CONFIG", short)


def demo(out, seed=0):
    """Runs the demo; returns its return value and what it printed."""
    text = io.StringIO()
    return run_demo(out, seed, Console(file=text, width=160)), text.getvalue()


def table(text):
    return text[text.index("digits, test split") :]


def steps(text):
    return [line.split("  ")[0] for line in text.splitlines() if line.endswith(" s/step")]


def test_the_demo_leaves_a_run_and_a_second_call_its_table(tmp_path, monkeypatch):
    out = tmp_path / "runs/demo"
    metrics, text = demo(out)
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders == {"base", "data", *ARMS}
    for name in ("base", *ARMS):
        assert (out / name / "model.safetensors").is_file()
    for name in ("config.yaml", "metrics.json", "predictions.jsonl", "report.html", "report.md"):
        assert (out / name).is_file()
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert list(metrics["arms"]) == ["base", *ARMS]
    for row in ("embedded base", "+ SFT", "+ Regression", "+ RARL"):
        assert row in table(text)
    assert str(out) in text.replace("\n", "")
    assert len(steps(text)) == 4 + 2 + 2

    def refuse(*args, **kwargs):
        pytest.fail("something ran")

    for name in ("train_sft", "train_stage", "evaluate"):
        monkeypatch.setattr(stages, name, refuse)
    again, printed = demo(out)
    assert again == metrics
    assert table(printed) == table(text)
    assert steps(printed) == []
    with pytest.raises(ConfigError, match="seed: 0 before, 1 now"):
        demo(out, seed=1)


def test_an_interrupted_demo_continues(tmp_path, monkeypatch):
    def stop(lines, args, state, control, **kwargs):
        if lines._arm == "regression" and state.global_step == 1:
            raise KeyboardInterrupt

    out = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, "on_save", stop)
        with pytest.raises(KeyboardInterrupt):
            demo(out)
    metrics, text = demo(out)
    assert steps(text) == ["regression 2/2", "rarl 1/2", "rarl 2/2"]
    assert list(metrics["arms"]) == ["base", *ARMS]


def test_a_base_is_not_taken_for_that_of_another_seed(tmp_path, monkeypatch):
    """It was interrupted when it had its base and nothing else."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    out = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr(rarl.demo, "prepare_digits", stop)
        with pytest.raises(KeyboardInterrupt):
            demo(out)
    assert (out / "base").is_dir()
    with pytest.raises(ConfigError, match="seed: 0 before, 1 now"):
        demo(out, seed=1)


def test_another_seed_builds_its_own_base(tmp_path, monkeypatch):
    """Building is tested with `pretraining`; here only its seed and its folder are."""
    asked = []

    def build(out, seed, console):
        asked.append((out, seed))
        raise KeyboardInterrupt

    monkeypatch.setattr(rarl.demo, "make_base", build)
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "demo", seed=2)
    assert asked == [(tmp_path / "demo/base", 2)]


def test_the_demo_is_the_method_as_it_is_described():
    """It has the baseline, stage 1 with regression alone, and stage 2 with all rewards and mutation."""
    config = config_from(read_yaml_mapping(CONFIG), "demo.yaml")
    assert stages.trained_arms(config) == ARMS
    first, second = config.stages
    assert (first.images, first.weights.in_order, first.mutation) == ([1], [1, 0, 1], None)
    assert (set(second.images), second.weights.in_order) == (set(range(1, 9)), [1, 1, 1])
    assert second.mutation is not None
    assert config.evaluation.split == "test"
