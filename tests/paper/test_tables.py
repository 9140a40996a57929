"""A grid as texts: which rows and columns, how numbers and intervals are written, what the notes say."""

import pytest

from helpers.grids import grid_entry, results_of
from rarl.method.tasks import AESTHETICS, COUNT, DIGITS
from rarl.paper.published import published
from rarl.paper.tables import differences_table, measured_table, published_tables


def test_the_measured_arms():
    table = measured_table(results_of(), DIGITS, published("table6"))
    assert table.header == ("Methods", "1-img↓", "2-imgs↑", "8-imgs↑", "parsed", "valid")
    assert table.rows == (
        ("embedded base", "1.33\n1.15–1.51", "0.800\n0.40–1.00", "0.179\n-0.03 – 0.39", "100.0", "99.1"),
        ("+ Regression", "1.00\n0.50–1.50", "-0.250\n-0.50 – -0.12", "-", "-", "-"),
        ("+ RARL, no RMO", "-", "-", "-", "-", "-"),
        ("+ RARL", "-", "-", "-", "-", "-"),
    )
    assert table.title == "Measured: digits, test split, embedded base (Table 6's arms)"


def test_what_the_numbers_are_is_said_below():
    notes = measured_table(results_of(), DIGITS, published("table6")).notes
    text = " ".join(notes)
    assert "MAE" in notes[0]
    assert "Kendall's tau" in notes[0]
    assert "seed 0" in notes[0]
    assert "95 % interval (bootstrap over replies)" in notes[0]
    assert "+ Regression 200, + RARL, no RMO 600, + RARL 600" in text
    assert "Not finished yet: seed 0 rarl_no_mutation, seed 0 rarl." in text


def test_several_seeds_are_named_and_so_is_their_interval():
    arms = {arm: {"mae": grid_entry(1, 0, 2, seeds=3)} for arm in ("base", "rarl")}
    results = results_of(seeds=[0, 1, 7], missing=[], arms=arms)
    notes = measured_table(results, DIGITS, published("table6")).notes
    assert "the seeds 0, 1, 7" in notes[0]
    assert "Student's t" in notes[0]
    assert "bootstrap" not in notes[0]
    assert not any("Not finished" in note for note in notes)


def test_arms_that_differ_in_prompts_or_learning_rates_are_told_apart():
    prompts = {"base": [], "regression": [1600], "rarl_no_mutation": [1600, 3200], "rarl": [1600, 3200]}
    rates = {"base": [], "regression": [1e-4], "rarl_no_mutation": [1e-4, 1e-4], "rarl": [1e-4, 3e-4]}
    [note] = [
        note
        for note in measured_table(
            results_of(prompts=prompts, learning_rates=rates), DIGITS, published("table6")
        ).notes
        if "learning rates" in note
    ]
    assert note == (
        "The arms differ in prompts and learning rates since the base: + Regression 1,600 at 0.0001; "
        "+ RARL, no RMO 4,800 at 0.0001; + RARL 1,600 at 0.0001, then 3,200 at 0.0003."
    )


def test_arms_of_equal_prompts_and_rates_need_no_note():
    prompts = {"base": [], "regression": [4800], "rarl_no_mutation": [1600, 3200], "rarl": [1600, 3200]}
    rates = {"base": [], "regression": [1e-4], "rarl_no_mutation": [1e-4, 1e-4], "rarl": [1e-4, 1e-4]}
    alike = measured_table(results_of(prompts=prompts, learning_rates=rates), DIGITS, published("table6"))
    assert alike.notes == measured_table(results_of(), DIGITS, published("table6")).notes  # of before


@pytest.mark.parametrize(
    ("task", "arrow", "text", "name"),
    [
        (COUNT, "1-img↑", "38.75\n33.7–43.2", "accuracy in %"),
        (AESTHETICS, "1-img↑", "0.687\n0.60–0.76", "SRCC"),
    ],
)
def test_the_metric_of_one_image_is_the_task_s(task, arrow, text, name):
    table = measured_table(results_of(task=task.name), task, published("table6"))
    assert table.header[1] == arrow
    assert table.rows[0][1] == text
    assert name in table.notes[0]


def test_a_grid_of_which_nothing_is_measured_yet_has_its_rows():
    table = measured_table(results_of(arms={}, lists={}), DIGITS, published("table6"))
    assert [row[0] for row in table.rows] == ["embedded base", "+ Regression", "+ RARL, no RMO", "+ RARL"]
    assert all(set(row[1:]) == {"-"} for row in table.rows)
    assert differences_table(results_of(arms={}, lists={}), DIGITS) is None


def test_the_differences_have_their_sign():
    found = {
        "base": {"mae": grid_entry(-0.27, -0.42, 0.12), "tau2": grid_entry(0.2, 0.1, 0.3)},
        "regression": {"mae": grid_entry(0.0, 0.0, 0.0), "tau8": grid_entry(-0.05, -0.2, -0.01)},
        "rarl_no_mutation": {},
    }
    table = differences_table(results_of(differences=found), DIGITS)
    assert table.title == "Measured: + RARL minus each of the others"
    assert table.header == ("Arms", "1-img↓", "2-imgs↑", "8-imgs↑")
    assert [row[0] for row in table.rows] == ["vs. embedded base", "vs. Regression"]
    assert table.rows[0][1] == "-0.27\n-0.42 – +0.12"
    assert table.rows[0][2].startswith("+0.200\n+0.10")
    assert table.rows[0][3] == "-"
    assert table.rows[1][1] == "+0.00\n+0.00 – +0.00"
    assert table.rows[1][3].startswith("-0.050\n-0.20")
    assert "paired bootstrap" in table.notes[0]


def test_the_differences_over_seeds_say_so():
    found = {"base": {"mae": grid_entry(-0.27, -0.42, 0.12, seeds=2)}}
    table = differences_table(results_of(seeds=[0, 1], differences=found), DIGITS)
    assert "Student's t" in table.notes[0]
    assert "bootstrap" not in table.notes[0]


def test_where_some_arms_have_one_seed_and_others_more_both_intervals_are_told():
    arms = {"base": {"mae": grid_entry(1, 0, 2, seeds=2)}, "regression": {"mae": grid_entry(1, 0, 2)}}
    results = results_of(seeds=[0, 1], arms=arms, differences={"base": arms["regression"]})
    note = measured_table(results, DIGITS, published("table6")).notes[0]
    assert "(Student's t over seeds; bootstrap over replies where one seed alone is finished)" in note
    assert "(paired bootstrap over replies)" in differences_table(results, DIGITS).notes[0]


# ── what was printed ─────────────────────────────────────────────────────────────────────────────────────


def test_a_printed_table_as_it_was_printed():
    [table] = published_tables(published("table6"))
    assert table.title.startswith("Published: UTKFace, Table 6 of arXiv 2601.20585")
    assert table.header == ("Methods", "1-img↓", "2-imgs↑", "4-imgs↑", "8-imgs↑")
    assert table.rows == (
        ("Qwen2.5-VL-3B", "6.95", "0.712", "0.704", "0.693"),
        ("First stage", "4.34", "0.821", "0.802", "0.795"),
        ("Second stage, w.o. RMO", "4.17", "0.832", "0.825", "0.803"),
        ("Second stage, w. RMO", "4.02", "0.843", "0.831", "0.806"),
    )
    assert any("not measured here" in note for note in table.notes)


def test_each_dataset_is_a_table_and_dashes_stay():
    tables = published_tables(published("table3"))
    assert [table.title.split(",")[0] for table in tables] == [
        "Published: UTKFace",
        "Published: COCO-ReM",
        "Published: AVA",
    ]
    assert [table.header[1] for table in tables] == ["1-img↓", "1-img↑", "1-img↑"]
    assert tables[0].rows[2] == ("+ Ranking", "-", "0.814", "0.823", "0.781")
    assert tables[1].rows[1] == ("+ Regression", "66.97", "0.802", "0.782", "0.779")
    assert tables[1].rows[3][1] == "68.73"
    assert tables[2].rows[3] == ("+ RARL", "0.783", "0.840", "0.832", "0.821")
    assert all("not measured here" in table.notes[0] for table in tables)
    # What is said of the whole table stands once, below the last.
    assert [any("66.97" in note for note in table.notes) for table in tables] == [False, False, True]


def test_printed_zeros_are_printed():
    [table] = published_tables(published("table4"))
    rows = {(place, row[0]): row for place, row in enumerate(table.rows)}
    assert rows[0, "Qwen2.5-VL-3B"][4] == "0.740"
    assert rows[5, "+ RARL"][1] == "71.80"


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5", "table6"])
def test_measured_and_printed_numbers_never_share_a_table(name):
    """Another task, model and test split are not the same experiment."""
    for table in published_tables(published(name)):
        assert table.title.startswith("Published")
        assert "\n" not in "".join(cell for row in table.rows for cell in row)  # no intervals of ours
    assert measured_table(results_of(), DIGITS, published(name)).title.startswith("Measured")
