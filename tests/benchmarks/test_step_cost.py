"""The benchmark of a step's cost, end to end at the smallest numbers: what it prints and writes, and what it
refuses. No timing is asserted."""

import importlib
import json
import subprocess
import sys

import pytest

from helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"
SMALL = [
    *("--images", "2", "--generations", "2", "--tokens", "16", "--new-tokens", "8"),
    *("--prompts", "1", "--repeats", "1", "--threads", "1"),
]


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "step_cost.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The lines of stdout, and the file."""
    file = tmp_path_factory.mktemp("benchmark") / "step_cost.json"
    done = run(*SMALL, "--out", file)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), file


@pytest.fixture
def step_cost(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("step_cost")


def test_the_last_line_is_one_object(measured):
    lines, file = measured
    [row] = json.loads(file.read_text())["rows"]
    assert json.loads(lines[-1]) == {
        "images": 2,
        "generations": 2,
        "step_ratio": row["ratios"]["step"],
        "memory_ratio": row["memory_ratio"],
        "max_logprob_difference": row["max_logprob_difference"],
        "stock_rounding": row["stock_rounding"],
    }


def test_a_row_says_what_was_measured(measured):
    _, file = measured
    results = json.loads(file.read_text())
    assert results["settings"].items() >= {"size": "tiny", "threads": 1, "repeats": 1, "prompts": 1}.items()
    assert results["settings"].keys() >= {
        "torch",
        "trl",
        "transformers",
        "rarl",
        "device_name",
        "model_parameters",
    }
    [row] = results["rows"]
    assert (row["images"], row["generations"], row["tokens"], row["new_tokens"]) == (2, 2, 16, 8)
    assert row["prompt_tokens"] == 58  # 2 x 16 of images, and Table 1 by the embedded tokenizer
    # Two sequences of 58 + 8, against 57 of the prompt and twice 8.
    assert row["token_bound"] == pytest.approx(132 / 73, abs=1e-3)
    assert row["image_passes"] == {"stock": 2, "ours": 1}
    assert 0 <= row["max_logprob_difference"] < 1e-4
    assert row["stock_rounding"] == 0
    for kind in ("stock", "ours"):
        side = row[kind]
        assert side["memory_mib"] > 0
        parts = [side[part]["median"] for part in ("generation", "reference", "update", "other")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(side["step"]["median"], abs=1e-5)  # of one step, so exactly
    assert row["ratios"].keys() == {"generation", "reference", "update", "step"}


def test_a_sweep_goes_on_from_its_file(measured, step_cost, tmp_path):
    lines, file = measured
    results = json.loads(file.read_text())
    copy = tmp_path / "sweep.json"
    points = step_cost.points(step_cost.parse([*SMALL, "--sweep", "--out", str(copy)]))
    assert len(points) == 1 + 4 + 3 + 1 + 3
    results["rows"] += [results["rows"][0] | point for point in points[1:]]
    copy.write_text(json.dumps(results))
    done = run(*SMALL, "--sweep", "--out", copy)
    assert done.returncode == 0, done.stderr
    assert json.loads(copy.read_text()) == results  # nothing was left to measure
    assert done.stdout.splitlines()[-1] == lines[-1]
    assert copy.with_suffix(".md").read_text().count("| stock |") == len(points)
    assert copy.with_suffix(".png").stat().st_size > 10_000


def test_a_file_of_other_settings_is_refused(measured, step_cost):
    _, file = measured
    options = step_cost.parse([*SMALL, "--sweep", "--seed", "1", "--out", str(file)])
    with pytest.raises(SystemExit, match="seed 0, not 1: move it away"):
        step_cost.open_results(file, step_cost.settings(options))
    broken = file.with_name("broken.json")
    broken.write_text("[]")
    with pytest.raises(SystemExit, match="no file of this benchmark"):
        step_cost.open_results(broken, step_cost.settings(options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "60"], "--tokens must be a square number such as 16 or 64, not 60"),
        (["--images", "0"], "--images must be at least 1, not 0"),
        (["--generations", "1"], "--generations must be at least 2, not 1"),
        (["--warmup", "0"], "--warmup must be at least 1, not 0"),
        (["--prompts", "8", "--micro-batch", "3"], "--micro-batch 3 must divide --prompts 8"),
        (["--size", "3b"], "--size 3b needs --device cuda"),
        (["--out", "rows.png"], "--out must end in .json, not rows.png"),
    ],
)
def test_an_impossible_argument_is_named(step_cost, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        step_cost.parse(["--out", str(tmp_path / "rows.json"), *arguments])
    assert message in capsys.readouterr().err
