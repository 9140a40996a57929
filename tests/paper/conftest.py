"""What the tests of `rarl reproduce` share: few digits, a short recipe, and a grid that is finished."""

import shutil

import pytest
import yaml

from helpers.reproducing import RECIPE, command
from rarl.data.writing import write_collection
from rarl.method.tasks import DIGITS


@pytest.fixture(scope="session")
def small(digits, tmp_path_factory):
    """Few digits, and none to train a base on."""
    splits = {
        split: [(row.id, row.value, row.path.read_bytes()) for row in digits.split(split)[:size]]
        for split, size in {"train": 16, "validation": 6, "test": 6}.items()
    }
    return write_collection(tmp_path_factory.mktemp("collections") / "small", DIGITS, splits).root


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "short.yaml"
    file.write_text(yaml.safe_dump(RECIPE | {"output": "unused"}))
    return file


@pytest.fixture(scope="session")
def run(small, recipe):
    """`run("table6", out, "--seeds", "0,1")`: what the command prints; it must end well."""

    def call(table, out, *further):
        code, text, err = command(table, "--config", recipe, "--data", small, "--out", out, *further)
        assert code == 0, err
        return text

    return call


@pytest.fixture(scope="session")
def whole(run, tmp_path_factory):
    """A grid of two seeds that was not interrupted, and what was printed."""
    out = tmp_path_factory.mktemp("grids") / "whole"
    run("table6", out, "--seeds", "0")
    shutil.copytree(out / "table6", out.with_name("of-one-seed"))
    return out, run("table6", out, "--seeds", "0,1")


@pytest.fixture
def of_one_seed(whole):
    """`table6` as it is with seed 0 alone."""
    return whole[0].with_name("of-one-seed")


@pytest.fixture
def nothing_runs(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("something ran")

    for name in ("train_stage", "train_sft"):
        monkeypatch.setattr(f"rarl.paper.grid.{name}", refuse)
    for name in ("evaluate", "load_model"):
        monkeypatch.setattr(f"rarl.training.run.{name}", refuse)
    monkeypatch.setattr("rarl.paper.reproduce.make_base", refuse)
