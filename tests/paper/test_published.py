"""The paper's numbers: transcribed from its Tables 2-6 a second time, so that a slip in either shows."""

import tomllib

import pytest
from pydantic import ValidationError

from helpers import ROOT
from rarl.paper.arms import PAPER_ARMS
from rarl.paper.published import PRINTED_COUNTS, PUBLISHED_TABLES, PublishedRow, PublishedTable, published

# Read off the paper, column by column: 1 image, and tau of lists of 2, 4 and 8. None is a dash.
AGE_3B = {
    "base": (6.95, 0.712, 0.704, 0.693),
    "sft": (5.51, 0.771, 0.756, 0.748),
    "rarl": (4.02, 0.843, 0.831, 0.806),
}
COUNT_3B = {
    "base": (31.36, 0.744, 0.753, 0.740),
    "sft": (66.97, 0.765, 0.774, 0.764),
    "rarl": (68.73, 0.831, 0.824, 0.797),
}
LOOKS_3B = {
    "base": (0.527, 0.656, 0.677, 0.634),
    "sft": (0.755, 0.770, 0.801, 0.806),
    "rarl": (0.783, 0.840, 0.832, 0.821),
}
FIRST_STAGE = (4.34, 0.821, 0.802, 0.795)
SMALL, LARGE = "Qwen2.5-VL-3B", "Qwen2.5-VL-7B"


def of(model, *rows):
    """A model's rows, the first of which bears its name."""
    names = (model, "+ SFT", "+ RARL")
    return [
        (name, None if name == model else model, arm, row)
        for name, arm, row in zip(names, ("base", "sft", "rarl"), rows, strict=True)
    ]


def method(name, number):
    return (name, None, None, (number, None, None, None))


def ablation(base, *rest):
    arms = ("base", "regression", "ranking", "rarl")
    names = ("Baseline", "+ Regression", "+ Ranking", "+ RARL")
    return [(name, None, arm, row) for name, arm, row in zip(names, arms, (base, *rest), strict=True)]


PRINTED = {
    "table2": {
        ("UTKFace", "mae"): [
            method("MiVOLO", 4.23),
            method("RankingCLIP", 3.83),
            *of(SMALL, *AGE_3B.values()),
            *of(LARGE, (6.14, 0.77, 0.75, 0.75), (5.02, 0.783, 0.778, 0.774), (3.81, 0.921, 0.905, 0.852)),
        ]
    },
    "table3": {
        ("UTKFace", "mae"): ablation(
            AGE_3B["base"], FIRST_STAGE, (None, 0.814, 0.823, 0.781), AGE_3B["rarl"]
        ),
        ("COCO-ReM", "accuracy"): ablation(
            COUNT_3B["base"], (66.97, 0.802, 0.782, 0.779), (None, 0.804, 0.797, 0.784), COUNT_3B["rarl"]
        ),
        ("AVA", "srcc"): ablation(
            LOOKS_3B["base"], (0.766, 0.821, 0.814, 0.808), (None, 0.858, 0.842, 0.827), LOOKS_3B["rarl"]
        ),
    },
    "table4": {
        ("COCO-ReM", "accuracy"): [
            *of(SMALL, *COUNT_3B.values()),
            *of(
                LARGE,
                (39.46, 0.736, 0.732, 0.721),
                (65.01, 0.745, 0.772, 0.763),
                (71.80, 0.893, 0.871, 0.823),
            ),
        ]
    },
    "table5": {
        ("AVA", "srcc"): [
            method("RankingCLIP", 0.747),
            method("VILA-R", 0.774),
            *of(SMALL, *LOOKS_3B.values()),
            *of(
                LARGE,
                (0.643, 0.714, 0.723, 0.731),
                (0.771, 0.815, 0.813, 0.823),
                (0.803, 0.875, 0.883, 0.871),
            ),
        ]
    },
    "table6": {
        ("UTKFace", "mae"): [
            (SMALL, None, "base", AGE_3B["base"]),
            ("First stage", None, "regression", FIRST_STAGE),
            ("Second stage, w.o. RMO", None, "rarl_no_mutation", (4.17, 0.832, 0.825, 0.803)),
            ("Second stage, w. RMO", None, "rarl", AGE_3B["rarl"]),
        ]
    },
}


@pytest.mark.parametrize("name", PUBLISHED_TABLES)
def test_every_number_is_as_printed(name):
    table = published(name)
    found = {
        (part.dataset, part.metric): [(row.name, row.model, row.arm, row.values) for row in part.rows]
        for part in table.parts
    }
    assert found == PRINTED[name]


def test_the_tables_are_those_with_numbers():
    assert PUBLISHED_TABLES == ("table2", "table3", "table4", "table5", "table6")
    assert PRINTED_COUNTS == (1, 2, 4, 8)
    assert [published(name).title for name in PUBLISHED_TABLES] == [
        f"Table {number}" for number in range(2, 7)
    ]
    assert all(published(name).caption for name in PUBLISHED_TABLES)


@pytest.mark.parametrize("name", PUBLISHED_TABLES)
def test_every_row_with_an_arm_is_measured_by_it(name):
    table = published(name)
    assert set(table.arms) <= set(PAPER_ARMS)
    assert list(table.arms) == [arm for arm in PAPER_ARMS if arm in table.arms]  # in the order of the tables
    named = {row.arm for part in table.parts for row in part.rows} - {None}
    assert named <= set(table.arms)
    assert (table.arms[0], table.arms[-1]) == ("base", "rarl")


def test_arms_of_our_own_are_in_the_tables_they_explain():
    assert "sft_answer_only" in published("table2").arms  # the paper does not say what its SFT imitates
    assert "joint" in published("table3").arms
    assert published("table6").arms == ("base", "regression", "rarl_no_mutation", "rarl")


def test_one_number_stands_under_two_names_and_both_tables_say_so():
    def rows_with(name, number):
        rows = [row for part in published(name).parts for row in part.rows]
        return [row.name for row in rows if number in row.values]

    assert rows_with("table3", 66.97) == ["+ Regression"]
    assert rows_with("table4", 66.97) == ["+ SFT"]
    for name, other in (("table3", "Table 4"), ("table4", "Table 3")):
        [note] = [note for note in published(name).notes if "66.97" in note]
        assert other in note
        assert "+ SFT" in note
        assert "+ Regression" in note


def test_what_the_paper_leaves_open_is_said():
    assert any("does not name the model" in note for note in published("table3").notes)


def test_the_numbers_come_with_the_package():
    fields = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "paper/published.yaml" in fields["tool"]["setuptools"]["package-data"]["rarl"]


@pytest.mark.parametrize(
    "change",
    [{"colour": 3}, {"values": [1.0, 0.5, 0.5]}, {"values": [1.0, 0.5, 0.5, "0.5"]}, {"name": 3}, {"arm": 1}],
)
def test_a_row_that_is_not_as_it_should_be_is_refused(change):
    row = {"name": "a", "values": [1.0, 0.5, None, 1]}
    assert PublishedRow.model_validate(row).values == (1.0, 0.5, None, 1)
    with pytest.raises(ValidationError):
        PublishedRow.model_validate(row | change)


def test_a_table_does_not_change_once_it_is_read():
    table = published("table6")
    with pytest.raises(ValidationError, match="frozen"):
        table.name = "table7"
    with pytest.raises(ValidationError, match="parts"):
        PublishedTable.model_validate({"name": "table7", "caption": "", "arms": []})
