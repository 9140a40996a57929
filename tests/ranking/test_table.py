"""A ranking as it is printed, shown in a notebook, and saved; and its contact sheet."""

import json

import pytest
from PIL import Image
from pyarrow import parquet

from rarl.data.images import open_image
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import AGE, Task
from rarl.ranking.measured import Distribution, Measured
from rarl.ranking.sheet import check_sheet, draw_sheet
from rarl.ranking.table import COLUMNS, Ranking, ranking_of, shown


@pytest.fixture
def ranking() -> Ranking:
    measured = {
        "b.png": Measured(31.0, (25.0, 35.5), mean=30.0),
        "<a>.png": Measured(None, problem="the image is damaged"),
        "c.png": Measured(7.25),
        "d.png": Measured(30.0),
    }
    return ranking_of(AGE, measured.items())


ROWS = [
    (1, "c.png", 7.25, 7.25, None, None, None),
    (2, "b.png", 31.0, 30.0, 25.0, 35.5, None),
    (2, "d.png", 30.0, 30.0, None, None, None),
    (None, "<a>.png", None, None, None, None, "the image is damaged"),
]


def test_rows(ranking):
    assert [tuple(row.to_dict().values()) for row in ranking] == ROWS
    assert len(ranking) == 4
    assert [row.image for row in ranking[1:3]] == ["b.png", "d.png"]
    assert ranking[-1].problem == "the image is damaged"


def test_it_prints_as_a_table(ranking):
    lines = str(ranking).splitlines()
    assert "facial age" in lines[1]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[3:-1]]
    assert cells == [
        ["1", "c.png", "7.25", "7.25", ""],
        ["2", "b.png", "31", "30", "25 to 35.5"],
        ["2", "d.png", "30", "30", ""],
        ["-", "<a>.png", "- (the image is damaged)", "-", ""],
    ]


def test_in_a_notebook_names_are_text_and_long_rankings_are_cut(ranking):
    text = ranking._repr_html_()
    assert "&lt;a&gt;.png" in text
    assert "<a>" not in text
    assert text.count("<tr>") == 5
    long = ranking_of(AGE, ((f"{n}.png", Measured(float(n))) for n in range(150)))
    assert "and 50 more" in long._repr_html_()


def test_as_a_table_of_pandas(ranking):
    frame = ranking.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["value"].mean() == pytest.approx((7.25 + 31 + 30) / 3)
    assert frame["rank"].isna().tolist() == [False, False, False, True]
    assert frame["rank"].dtype == "Int64"
    assert ranking_of(AGE, []).to_pandas().empty


def test_saved(ranking, tmp_path):
    ranking.save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "rank,file,value,mean,low,high,problem",
        "1,c.png,7.25,7.25,,,",
        "2,b.png,31,30,25,35.5,",
        "2,d.png,30,30,,,",
        ",<a>.png,,,,,the image is damaged",
    ]
    ranking.save(tmp_path / "a.parquet")
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [tuple(row.values()) for row in rows] == ROWS
    ranking.save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["task"]["rule"] == "facial age"
    assert [tuple(row.values()) for row in document["ranking"]] == ROWS
    with pytest.raises(ConfigError, match=r"a\.xlsx: a ranking is saved as \.csv, \.parquet, \.json"):
        ranking.save(tmp_path / "a.xlsx")


def test_a_distribution_has_a_mean_and_a_median():
    distribution = Distribution((1.0, 2.0, 6.0), (0.25, 0.25, 0.5))
    assert (distribution.mean, distribution.median) == (3.75, 2.0)
    measured = Measured(2.0, (1.0, 6.0), distribution, mean=3.75)
    assert (measured.mean, measured.median) == (3.75, 2.0)
    assert (Measured(4.0).mean, Measured(4.0).median) == (4.0, 4.0)


def test_a_contact_sheet_has_the_images_in_order(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    for name, colour in colours.items():
        Image.new("RGB", (300, 200), colour).save(tmp_path / f"{name}.png")
    values = {"blue": 3.0, "red": 1.0, "gone": 2.0, "green": None}
    ranking = ranking_of(AGE, ((str(tmp_path / f"{k}.png"), Measured(v)) for k, v in values.items()))
    draw_sheet(ranking, tmp_path / "sheet.png")
    sheet = open_image(tmp_path / "sheet.png")
    centres = [sheet.getpixel((8 + place * 168 + 80, 88)) for place in range(3)]
    assert centres == [colours["red"], (255, 255, 255), colours["blue"]]
    with pytest.raises(DataError, match="no image has a value"):
        draw_sheet(ranking[3:], tmp_path / "none.png")
    with pytest.raises(ConfigError, match=r"\.png or \.jpg"):
        check_sheet(tmp_path / "sheet.gif")


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (3.0, 1, "3"),
        (0.0024457, 1, "0"),
        (-0.0024457, 1, "0"),
        (4.5678, 1, "4.57"),
        (4.5678, 0.5, "4.568"),
        (34.0, 10, "34"),
        (None, 1, "-"),
    ],
)
def test_a_value_is_shown_to_a_hundredth_of_the_step(value, step, text):
    task = Task("t", "x", low=-10, high=100, step=step, delta=20)
    assert shown(value, task) == text
