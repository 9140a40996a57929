"""The page about reliability has the rows that its script measures, and the script puts figures into it."""

import importlib
import re

import pytest

from helpers import ROOT


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "reliability")
    return importlib.import_module("run")


def test_every_row_of_the_page_is_measured_by_the_script(run):
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert [(name, run.ROWS[name][0]) for name, _ in rows] == rows


def test_a_figure_takes_the_place_of_the_one_before(run, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{run.BEGIN}\n{run.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(run, "PAGE", page)
    run.write_table({"yaml": (1, 2, 30.0), "kills": (3, 4, 60.0)})
    run.write_table({"yaml": (2, 2, 90.0)})
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"`(\w+)` .* (\d of \d) \| (.*) \|", text) == [
        ("kills", "3 of 4", "1.0 min"),
        ("yaml", "2 of 2", "1.5 min"),
    ]
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
