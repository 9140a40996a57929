"""The simulation of coverage at a small size: the intervals hold, and would not with lists that share images
and plain percentiles."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("coverage")


def test_intervals_of_lists_hold_and_did_not_before(coverage):
    """400 evaluations of 12 lists of 8 from 100 images: 95 %, give or take three deviations of 1.1 %."""
    coverage.check_against_rarl()
    true = coverage.true_numbers(np.random.default_rng(0), images=80_000)
    assert true["mae"] == pytest.approx(1, abs=0.1)
    assert true["tau2"] == pytest.approx(0.75, abs=0.02)
    now, before = coverage.simulate(100, 400, true, metrics=["tau8"])["tau8"]
    assert (now.lists, before.lists) == (12, 200)
    assert 0.915 <= now.coverage <= 0.98
    assert 0.02 <= now.differing <= 0.085
    assert before.coverage < 0.7
    assert before.differing > 0.3


def test_the_table_in_markdown():
    options = ["--images", "40", "--evaluations", "2", "--population", "4000"]
    command = [sys.executable, str(BENCHMARKS / "coverage.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["MAE", "τ2", "τ4", "τ8"]
    assert {line.count("|") for line in lines} == {8}
    assert lines[5].split(" | ")[2] == "5"
