"""Several values of one image: what each way makes of them, and that none is chosen in silence."""

from pathlib import Path

import pytest

from rarl.cli.arguments import comma_separated, parse_range, parse_several
from rarl.data import Several
from rarl.data.sources.folder import read_folder
from rarl.data.sources.scale import Scale
from rarl.errors import ConfigError, DataError

RATINGS = "image,rater,place,score\na.jpg,1,x,1\na.jpg,2,x,2\na.jpg,3,x,5\nb.jpg,1,y,4\nc.jpg,1,y,1\n"


def folder(root: Path, text: str = RATINGS) -> tuple[Path, Path]:
    for name in "abc":
        (root / f"{name}.jpg").touch()
    (root / "t.csv").write_text(text)
    return root, root / "t.csv"


@pytest.mark.parametrize(("several", "value"), [("mean", 2.67), ("median", 2), ("first", 1)])
def test_several_ratings_become_one_value(tmp_path: Path, several: Several, value: float) -> None:
    raw, table = folder(tmp_path)
    source = read_folder(raw, Scale("x"), table, several=several)
    assert [(row.name, row.value) for row in source.images] == [("a.jpg", value), ("b.jpg", 4), ("c.jpg", 1)]
    # Who rated it differs from row to row, and where it is from does not.
    assert source.images[0].columns == {"place": "x", "ratings": 3}
    assert "5 rows for 3 images" in source.notes["several ratings of an image"]


@pytest.mark.parametrize("several", ["mean", "median", "first"])
def test_the_scale_is_that_of_the_ratings(tmp_path: Path, several: Several) -> None:
    """Of 1, 2, 5 and 4 and 1: no mean is 5, and the scale goes to 5 all the same."""
    raw, table = folder(tmp_path)
    task = read_folder(raw, Scale("x"), table, several=several).task
    assert (task.low, task.high) == (1, 5)


def test_without_the_option_several_values_are_refused(tmp_path: Path) -> None:
    raw, table = folder(tmp_path)
    with pytest.raises(DataError, match=r"line 3: a.jpg has another value in .* --several mean"):
        read_folder(raw, Scale("x"), table)
    raw, table = folder(tmp_path, "file,value,split\na.jpg,1,train\na.jpg,1,test\n")
    with pytest.raises(DataError, match="another split"):
        read_folder(raw, Scale("x"), table, several="mean")


def test_the_option_is_one_of_three() -> None:
    assert parse_several("median") == "median"
    with pytest.raises(ConfigError, match="--several max: must be one of mean, median, first"):
        parse_several("max")


def test_a_range_may_have_any_minus() -> None:
    assert parse_range("\N{MINUS SIGN}5\N{EN DASH}5") == (-5, 5)


def test_a_name_with_a_comma_stands_in_quotes(tmp_path: Path) -> None:
    order = comma_separated('"low, dry", medium,high', "--order")
    assert order == ["low, dry", "medium", "high"]
    raw, table = folder(tmp_path, 'file,value\na.jpg,"low, dry"\nb.jpg,high\n')
    source = read_folder(raw, Scale("x", names=tuple(order)), table)
    assert [row.value for row in source.images] == [0, 2]
    with pytest.raises(ConfigError, match="a name with a comma in it stands in quotes"):
        comma_separated('"low, dry', "--order")
    with pytest.raises(DataError, match="a name with a comma in it stands in quotes"):
        read_folder(raw, Scale("x"), table)
