"""A run as a whole, on the embedded base with a few steps: what it leaves, what each arm starts from and
sees, that a seed decides everything, and that two processes train one run."""

import io
import json
import os
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

from helpers.training import same, weights
from helpers.whole_runs import (
    ARMS,
    LEFT,
    METRICS,
    assert_same_run,
    contents,
    logs,
)
from rarl.models.loading import load_model
from rarl.scoring.scoring import read_scoring
from rarl.training import run as stages
from rarl.training.config import config_from, stage_groups


def test_a_run_leaves_its_models_its_results_and_nothing_else(whole_run):
    output = whole_run[0].output
    assert contents(output) == LEFT
    for arm in ARMS:
        names = {path.name for path in (output / arm).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "log.jsonl", "task.yaml"} <= names
        assert not any(name.startswith((".", "checkpoint", "optimizer")) for name in names)


def test_every_arm_is_a_folder_that_from_pretrained_loads(whole_run):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    for arm in ARMS:
        folder = whole_run[0].output / arm
        model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert same(weights(model), weights(load_model(folder)))
        assert AutoTokenizer.from_pretrained(folder).chat_template


def test_metrics_json_is_what_machines_read(whole_run):
    config, metrics, _, _ = whole_run
    saved = json.loads((config.output / "metrics.json").read_text())
    assert saved == metrics
    assert (saved["task"], saved["split"], saved["seed"]) == ("digits", "test", 0)
    assert list(saved["arms"]) == ["base", *ARMS]
    for entries in saved["arms"].values():
        assert entries.keys() == METRICS
        for entry in entries.values():
            assert entry.keys() == {"value", "low", "high", "n"}
            assert entry["low"] <= entry["value"] <= entry["high"]
        assert entries["mae"]["n"] == 10
        assert entries["tau2"]["n"] == 5
        assert entries["parsed"]["n"] == 15


def test_every_arm_says_how_it_scores(whole_run):
    """Of the stages before it too, an arm knows the lists; it is chosen on the ten images of validation."""
    scorings = {arm: read_scoring(whole_run[0].output / arm) for arm in ARMS}
    assert {arm: scoring.lengths for arm, scoring in scorings.items()} == {
        "sft": (2, 4),
        "regression": (),
        "rarl": (2, 4),
    }
    for scoring in scorings.values():
        assert (scoring.split, scoring.images, scoring.seed) == ("validation", 10, 0)
        assert scoring.measured.keys() >= {"greedy", "mean", "mean-fast"}


def test_every_arm_answers_the_same_prompts(whole_run):
    lines = [
        json.loads(line) for line in (whole_run[0].output / "predictions.jsonl").read_text().splitlines()
    ]
    asked = {arm: [line["ids"] for line in lines if line["arm"] == arm] for arm in ["base", *ARMS]}
    # The lists are there once more, in both rotations.
    assert sum(map(len, asked.values())) == len(lines) == 4 * (15 + 5 * 2)
    assert asked["base"] == asked["sft"] == asked["regression"] == asked["rarl"]


def test_each_arm_has_its_log_with_a_line_a_step(whole_run):
    for arm, steps in {"sft": 6, "regression": 2, "rarl": 4}.items():
        assert [line["step"] for line in logs(whole_run[0].output / arm)] == [*range(1, steps + 1), steps]
    assert logs(whole_run[0].output / "rarl")[0].keys() >= {"kl", "mutation/fraction", "policy/reward"}


def test_config_yaml_is_the_run_again(whole_run):
    config = whole_run[0]
    saved = yaml.safe_load((config.output / "config.yaml").read_text())
    assert config_from(saved, "saved") == config


def test_the_terminal_shows_a_line_a_step_and_nothing_else(whole_run):
    lines = whole_run[3].splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *(f"sft {step}/6" for step in range(1, 7)),
        *(f"regression {step}/2" for step in range(1, 3)),
        *(f"rarl {step}/4" for step in range(1, 5)),
    ]


def test_each_stage_starts_from_the_one_before(whole_run):
    config, _, watched, _ = whole_run
    base = weights(load_model("tiny"))
    assert same(watched.start["sft"], base)
    assert same(watched.start["regression"], base)
    assert same(watched.start["rarl"], weights(load_model(config.output / "regression")))
    for arm in ARMS:
        assert not same(watched.start[arm], weights(load_model(config.output / arm))), (
            f"{arm} learned nothing"
        )


def test_the_reference_of_the_kl_is_the_stages_own_start(whole_run):
    config, _, watched, _ = whole_run
    assert same(watched.reference["regression"], watched.start["regression"])
    assert same(watched.reference["rarl"], watched.start["rarl"])
    assert not same(watched.reference["rarl"], watched.reference["regression"])
    for arm in ("regression", "rarl"):
        first, *later = [log["kl"] for log in logs(config.output / arm) if "kl" in log]
        assert first == pytest.approx(0, abs=1e-6)
    assert max(later) > 1e-6  # of the last stage, whose groups have variance by mutation


def test_sft_sees_the_groups_of_all_stages_in_order_and_once_each(whole_run, run_digits):
    config, _, watched, _ = whole_run
    drawn = {stage.name: stage_groups(config, stage, run_digits.split("train")) for stage in config.stages}
    for name, groups in drawn.items():
        assert watched.ids[name] == [[row.id for row in group.rows] for group in groups]
    assert watched.ids["sft"] == watched.ids["regression"] + watched.ids["rarl"]
    assert len(watched.ids["sft"]) == 2 * (2 + 4)


def test_the_models_of_an_arm_are_gone_when_the_next_begins(whole_run):
    """Memory holds one policy and its reference, and no models of the arm before."""
    assert whole_run[2].alive == []


def test_the_same_seed_gives_the_same_run_and_another_seed_another(whole_run, run_config_of, tmp_path):
    first = whole_run[0].output
    again = run_config_of(tmp_path / "again")
    stages.train_and_evaluate(again, resume=False, console=Console(file=io.StringIO()))
    assert_same_run(again.output, first)
    assert (again.output / "metrics.json").read_text() == (first / "metrics.json").read_text()

    only = {"stages": again.to_dict()["stages"][:1], "sft": None, "evaluation": {"images": [2], "lists": 5}}
    other = run_config_of(tmp_path / "other", seed=1, **only)
    metrics = stages.train_and_evaluate(other, resume=False, console=Console(file=io.StringIO()))
    assert metrics["seed"] == 1
    trained = [weights(load_model(output / "regression")) for output in (first, other.output)]
    assert not same(*trained)


def test_two_processes_train_one_run(run_config_of, tmp_path):
    config = run_config_of(tmp_path / "two", evaluation={"images": [2], "lists": 3})
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*launcher, "-m", "rarl", "train", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        stdout, stderr = process.communicate(timeout=150)
    finally:
        process.terminate()  # torchrun ends its processes then; killed, it would leave them
        process.wait()
    assert process.returncode == 0, stderr
    assert contents(config.output) == LEFT
    assert list(json.loads((config.output / "metrics.json").read_text())["arms"]) == ["base", *ARMS]
    # Only the first process prints.
    steps = [line.split("  ")[0] for line in stdout.splitlines() if line.endswith(" s/step")]
    assert steps == [*(f"sft {i}/6" for i in range(1, 7)), "regression 1/2", "regression 2/2"] + [
        f"rarl {i}/4" for i in range(1, 5)
    ]
    assert stdout.count("digits, test split") == 1
    base = weights(load_model("tiny"))
    for arm in ARMS:
        assert not same(weights(load_model(config.output / arm)), base)
