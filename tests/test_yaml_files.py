"""yaml_files.py: YAML of strangers, which is refused before it costs time or memory."""

import importlib
import os
from pathlib import Path

import pytest

from helpers import ROOT
from rarl.errors import ConfigError
from rarl.yaml_files import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aliases, 9 to the power of 11", "line 5, column 5: stands for more than 10,000 entries"),
        ("merges, 2 to the power of 40", "stands for more than 10,000 entries"),
        ("an alias within itself", "line 1, column 7: an alias stands within itself"),
        ("an integer of 18,000 digits", "value has 18000 digits"),
        ("an integer of 18,000 hexadecimal digits", "a number of more than 18 digits"),
        ("18,000 brackets", "more than 50 brackets in each other"),
        ("18,000 dashes", "recursion"),
        ("a megabyte of text", "has 1,048,623 characters, more than 20,000"),
        ("one anchor 2,000 times", "found duplicate anchor 'a'"),
        ("a tag that runs code", "could not determine a constructor"),
    ],
)
def test_a_text_that_stands_for_too_much_is_refused(name, said, monkeypatch) -> None:
    """All of them are in `reliability/bombs.py`."""
    monkeypatch.syspath_prepend(ROOT / "reliability")
    text = importlib.import_module("bombs").BOMBS[name]
    with pytest.raises(ConfigError, match=f"^x.yaml:? ?.*{said}"):
        parse_yaml(text, "x.yaml")


def test_aliases_and_merges_that_people_write_are_read() -> None:
    text = "a: &a {x: 1, y: [2, 3]}\nb: {<<: *a, x: 4}\nc: [*a, *a]\n"
    plain = {"x": 1, "y": [2, 3]}
    assert parse_yaml(text, "x.yaml") == {"a": plain, "b": {"x": 4, "y": [2, 3]}, "c": [plain, plain]}


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="is no file"):
        read_yaml(tmp_path / "a.yaml")
