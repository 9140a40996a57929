"""How a ranker asks: as the model's `scoring.json` says, or as a person does; and that it says so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rarl.cli import main
from rarl.errors import ConfigError
from rarl.method.replies import Reply, parse, reference_reply
from rarl.method.tasks import AGE, DIGITS, Task
from rarl.models.loading import BASE_FOLDER
from rarl.ranking.ranker import Ranker
from rarl.ranking.table import Ranked, Ranking
from rarl.scoring.scoring import Scoring, scoring_for, write_scoring

CHOSEN = Scoring(
    "mean", temperatures={"mean": 2.0}, lengths=(2, 3), listed=(3,), split="validation", images=50
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, as a folder that was trained on digits and says how it scores."""
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(BASE_FOLDER, folder)
    (folder / "task.yaml").write_text(json.dumps(DIGITS.to_dict()))
    write_scoring(folder, CHOSEN)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(path)
    return paths


def test_a_model_is_asked_as_its_folder_says_for_its_own_task_alone(model: Path) -> None:
    assert scoring_for(model, DIGITS) == CHOSEN
    assert scoring_for(model, AGE) == scoring_for("tiny", DIGITS)
    assert scoring_for("tiny", DIGITS).listed == tuple(range(2, 9))
    assert scoring_for(model, DIGITS, "values").listed == ()
    assert scoring_for(model, DIGITS, "listed").listed == (2, 3)


def test_a_method_that_the_task_is_too_fine_for_is_refused(model: Path) -> None:
    fine = Task("fine", "weight", low=0, high=1_000_000, step=1, delta=10)
    with pytest.raises(ConfigError, match="method mean: weight has too many values"):
        scoring_for(model, fine, "mean")
    with pytest.raises(ConfigError, match="unknown method 'meen'; did you mean 'mean'"):
        scoring_for(model, DIGITS, "meen")


def test_means_have_distributions_and_intervals(model: Path, photos: list[Path]) -> None:
    for score in Ranker(model).score(photos):
        assert score.distribution is not None
        assert score.interval is not None
        assert list(score.distribution.values) == list(range(10))
        assert sum(score.distribution.probabilities) == pytest.approx(1)
        assert score.value == score.median == score.distribution.median
        assert score.mean == pytest.approx(score.distribution.mean)
        assert score.interval[0] <= score.median <= score.interval[1]


def test_lists_are_asked_for_where_the_folder_says_so(model: Path, photos: list[Path]) -> None:
    ranker = Ranker(model)
    assert {row.method for row in ranker.rank(photos[:2])} == {"values"}
    asked = []
    ranker._listed = lambda *arguments: asked.append(len(arguments[0]))  # type: ignore[assignment, method-assign]
    ranker.rank(photos)
    assert asked == [3]


def test_the_command_says_how_it_asks_and_rows_of_another_method_are_refused(
    model: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rank", str(model), *map(str, photos), "--out", str(tmp_path / "s.json")]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    said = capsys.readouterr().err
    assert "values are medians over whole replies, sorted by means, with intervals at temperature 2" in said
    assert "chosen on 50 images of validation" in said
    rows = json.loads((tmp_path / "s.json").read_text())["ranking"]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--method", "greedy"])
    assert stopped.value.code != 0
    assert 'another option, {"method": "mean"' in capsys.readouterr().err


def test_rows_after_sampled_reasonings_are_known_from_others(
    model: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    write_scoring(folder, replace(CHOSEN, reasoning="free", sampled=2))
    with pytest.raises(SystemExit) as stopped:
        main(["rank", str(folder), *map(str, photos[:2]), "--out", str(tmp_path / "s.json")])
    assert stopped.value.code == 0
    assert "after 2 sampled reasonings each" in capsys.readouterr().err
    with open(tmp_path / "s.json.rows.jsonl") as rows:
        assert json.loads(rows.readline())["options"] == {"method": "mean", "temperature": 2.0, "sampled": 2}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("listed", "the order is that of the model's own list (chosen on 50"),
        ("no ranking", "no ranking of all images, so each was scored alone; values are medians"),
    ],
)
def test_the_command_says_whose_order_it_is(
    model: Path,
    photos: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reply: str,
    said: str,
) -> None:
    def listed(self: Ranker, pictures: list[str], names: list[str], descending: bool) -> Ranking | None:
        rows = [Ranked(place, name, 1.0, "listed") for place, name in enumerate(names, start=1)]
        return Ranking(DIGITS, rows) if reply == "listed" else None

    monkeypatch.setattr(Ranker, "_listed", listed)
    with pytest.raises(SystemExit):
        main(["rank", str(model), *map(str, photos)])
    assert said in capsys.readouterr().err


def side_by_side(
    self: Ranker, questions: list[Any], groups: list[list[Image.Image]], hasty: bool = False
) -> list[Reply | None]:
    """Replies of a model that sees how bright images are, from 0 to 9, and of one alone nothing."""
    asked = getattr(self, "asked", [])
    asked.append([len(group) for group in groups])
    self.asked = asked  # type: ignore[attr-defined]
    bright = [[image.getpixel((0, 0))[0] // 25 for image in group] for group in groups]  # type: ignore[index]
    return [parse(reference_reply([5.0] if len(some) == 1 else some, 1)) for some in bright]


@pytest.fixture
def greys(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"grey{value}.png" for value in (8, 2, 6, 0, 4)]
    for path, value in zip(paths, (8, 2, 6, 0, 4), strict=True):
        Image.new("RGB", (28, 28), (value * 25,) * 3).save(path)
    return paths


def test_windows_of_a_length_that_the_model_knows(
    model: Path, greys: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranker, "_replies", side_by_side)
    ranker = Ranker(model, method="windows")
    ranker.scoring = replace(ranker.scoring, method="greedy")
    ranking = ranker.rank(greys)
    assert ranker.asked == [[1] * 5, [3, 3]]  # type: ignore[attr-defined]
    assert [str(row.image)[-5] for row in ranking] == ["0", "2", "4", "6", "8"]
    assert [row.value for row in ranking] == [2.5, 3.5, 4.5, 5.5, 6.5]  # halfway between 5 and its own
    assert {row.method for row in ranking} == {"windows"}
    # Two make a window, one of no length that it knows; none is asked where values decide.
    for count, windows in ((2, [[2]]), (1, [])):
        ranker.asked = []  # type: ignore[attr-defined]
        ranker.rank(greys[:count])
        assert ranker.asked[1:] == windows  # type: ignore[attr-defined]
    ranker.scoring = replace(ranker.scoring, windows=(), others="values")
    assert {row.method for row in ranker.rank(greys)} == {"values"}


def test_an_image_that_can_not_be_shown_is_in_no_window(
    model: Path, greys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranker, "_replies", side_by_side)
    ranker = Ranker(model, method="windows", batch_size=2)
    ranker.scoring = replace(ranker.scoring, method="greedy")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    ranking = ranker.rank([broken, *greys], descending=True)
    assert [row.rank for row in ranking] == [1, 2, 3, 4, 5, None]
    assert ranking[0].value == 6.5
    assert ranking[-1].problem is not None
    assert {length for batch in ranker.asked for length in batch} == {1, 3}  # type: ignore[attr-defined]


@pytest.mark.parametrize("gone", [1, 5])
def test_a_file_that_vanishes_after_it_was_scored_keeps_its_value(
    model: Path, greys: list[Path], monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    monkeypatch.setattr(Ranker, "_replies", side_by_side)
    ranker = Ranker(model, method="windows", workers=0)
    ranker.scoring = replace(ranker.scoring, method="greedy")
    scores = ranker.score(greys)
    for path in greys[:gone]:
        path.unlink()
    ranking = ranker.rank_by_values(greys, scores)
    assert {row.value for row in ranking if row.image in map(str, greys[:gone])} == {5.0}
    assert None not in [row.value for row in ranking]
    assert len({row.value for row in ranking}) == (1 if gone == 5 else 4)


def test_a_list_of_another_length_is_not_asked_for_when_an_image_is_missing(
    model: Path, greys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranker, "_replies", side_by_side)
    ranker = Ranker(model, method="listed")
    ranker.scoring = replace(ranker.scoring, method="greedy", listed=(3,))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    assert {row.method for row in ranker.rank([broken, *greys[:2]])} == {"values"}
    assert ranker.asked == [[1, 1]]  # type: ignore[attr-defined]


def test_the_command_ranks_by_windows(
    model: Path, greys: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["rank", str(model), *map(str, greys), "--method", "windows", "--json"])
    assert stopped.value.code == 0
    said = capsys.readouterr()
    assert "the order is by values joined with those in lists of 3" in said.err
    rows = json.loads(said.out)["ranking"]
    assert {row["method"] for row in rows} == {"windows"}
    assert [row["value"] for row in rows] == sorted(row["value"] for row in rows)


@pytest.mark.parametrize(("count", "more"), [(1, []), (3, ["--out", "s.csv"])])
def test_windows_that_can_not_be_asked_are_refused(
    model: Path, greys: list[Path], capsys: pytest.CaptureFixture[str], count: int, more: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["rank", str(model), *map(str, greys[:count]), "--method", "windows", *more])
    assert stopped.value.code != 0
    assert f"a list has 2 images or more here, and no --out; these are {count}" in capsys.readouterr().err
