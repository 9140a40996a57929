"""The report of a grid: what was measured stands apart from what was published."""

import json
import re
import shutil

import pytest

from helpers.grids import grid_entry, results_of
from helpers.runs import make_cell, make_collection
from rarl.cli import main

ARMS = ("base", "regression", "rarl_no_mutation", "rarl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One seed of the arms of Table 6; MAE 1.5, 1.25, 1.0 and 0.75."""
    out = tmp_path_factory.mktemp("grids") / "grid"
    data = make_collection(out / "data").root
    for arm in ARMS:
        make_cell(out, arm, data)
    found = {
        arm: {"mae": grid_entry(1.5 - place / 4, 0.5, 2.0), "tau2": grid_entry(0.5, 0.25, 0.75)}
        for place, arm in enumerate(ARMS)
    }
    results = results_of(
        task="shades",
        model="grey-eyes",
        lists={"2": {"n": 3, "tie_rate": 0.0}},
        steps={"base": 0, "regression": 20, "rarl_no_mutation": 60, "rarl": 60},
        arms=found,
        differences={arm: {"mae": grid_entry(-0.5, -0.75, -0.25)} for arm in ARMS[:-1]},
        missing=[],
    )
    (out / "table6").mkdir()
    (out / "table6/results.json").write_text(json.dumps(results))
    return out


@pytest.fixture
def grid(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "grid")


def report(folder):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder)])
    return stopped.value.code


def captions(page):
    return re.findall("<caption>(.*?)</caption>", page)


def rows(page, caption):
    table = page.split(f"<caption>{caption}</caption>")[1].split("</table>")[0]
    return [
        [re.sub("<[^>]*>", " ", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall("<tr>(.*?)</tr>", table)
    ]


MEASURED = "Measured: shades, test split, grey-eyes (Table 6&#39;s arms)"
DIFFERENCES = "Measured: + RARL minus each of the others"
PUBLISHED = "Published: UTKFace, Table 6 of arXiv 2601.20585"


@pytest.mark.parametrize("where", ["", "table6"])
def test_the_grid_s_folder_and_the_table_s_give_one_page(capsys, grid, where):
    assert report(grid / where) == 0
    assert capsys.readouterr().out == f"wrote {grid}/table6/report.html and report.md\n"
    page = (grid / "table6/report.html").read_text(encoding="utf-8")
    assert captions(page)[0] == MEASURED
    assert set(captions(page)[:3]) == {MEASURED, DIFFERENCES, PUBLISHED}
    assert "<h1>Table 6 on shades: grey-eyes</h1>" in page
    assert not (grid / "report.html").exists()


def test_measured_and_published_numbers_are_in_tables_of_their_own(grid):
    report(grid)
    page = (grid / "table6/report.html").read_text(encoding="utf-8")
    measured, printed = rows(page, MEASURED), rows(page, PUBLISHED)
    assert measured[0] == ["Methods", "1-img↓", "2-imgs↑", "parsed", "valid"]
    assert measured[4][:3] == ["+ RARL", "0.75 0.50–2.00", "0.500 0.25–0.75"]
    assert rows(page, DIFFERENCES)[1][:2] == ["vs. grey-eyes", "-0.50 -0.75 – -0.25"]
    assert printed[0] == ["Methods", "1-img↓", "2-imgs↑", "4-imgs↑", "8-imgs↑"]
    assert printed[4] == ["Second stage, w. RMO", "4.02", "0.843", "0.831", "0.806"]
    for number in ("4.02", "0.843"):
        assert number not in [cell for row in measured for cell in row]
    # The first seed's cells follow as one run.
    assert [row[0] for row in rows(page, "shades, test split, seed 0")] == [
        "Methods",
        "grey-eyes",
        "+ Regression",
        "+ RARL, no RMO",
        "+ RARL",
    ]
    assert "Not finished" not in page
    markdown = (grid / "table6/report.md").read_text(encoding="utf-8")
    assert PUBLISHED in re.findall("^## (.*)$", markdown, re.MULTILINE)
    assert "| Second stage, w. RMO | 4.02 | 0.843 | 0.831 | 0.806 |" in markdown


def test_a_cell_that_is_missing_is_named(grid):
    shutil.rmtree(grid / "seed-0/rarl")
    file = grid / "table6/results.json"
    results = json.loads(file.read_text())
    del results["arms"]["rarl"]
    results |= {"missing": ["seed 0 rarl"], "differences": {}}
    file.write_text(json.dumps(results))
    assert report(grid) == 0
    page = (grid / "table6/report.html").read_text(encoding="utf-8")
    assert '<p class="note">Not finished yet: seed 0 rarl.</p>' in page
    assert rows(page, MEASURED)[4] == ["+ RARL", "-", "-", "-", "-"]
    assert DIFFERENCES not in captions(page)
    assert "Not finished yet: seed 0 rarl." in (grid / "table6/report.md").read_text(encoding="utf-8")


def test_the_first_seed_that_has_cells_is_shown(grid):
    (grid / "seed-0").rename(grid / "seed-3")
    file = grid / "table6/results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seeds": [0, 3], "missing": ["seed 0 base"]}))
    assert report(grid) == 0
    page = (grid / "table6/report.html").read_text(encoding="utf-8")
    assert "means over the seeds 0, 3" in page


def error_of(capsys, folder):
    assert report(folder) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in error
    assert error.count("\n") == 1
    return error


def test_a_grid_without_cells(capsys, grid):
    shutil.rmtree(grid / "seed-0")
    assert "no cell of this table was evaluated yet" in error_of(capsys, grid)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"table": "table9", "seeds": [0], "steps": {"base": 0}}'], ids=range(4)
)
def test_results_that_are_none(capsys, grid, text):
    (grid / "table6/results.json").write_text(text)
    assert "not the results of a grid" in error_of(capsys, grid)


def test_the_page_is_of_the_model_that_the_grid_names(grid):
    """Its cells' YAMLs may name a base by its folder, such as bases/0."""
    path = grid / "table6/results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "embedded base"}))
    assert report(grid) == 0
    assert "<h1>Table 6 on shades: embedded base</h1>" in (grid / "table6/report.html").read_text("utf-8")
