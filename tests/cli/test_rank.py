"""`rarl rank` of many images: its table on disk, what is kept beside it, parts, and going on after a kill.
The first tests have a stand-in for the model; the last ones run the embedded model in processes of their
own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rarl.cli import main
from rarl.cli.arguments import parse_shard
from rarl.ranking.measured import Measured


def rarl(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as leaving:
        main(["rank", "tiny", *map(str, arguments)])
    return int(leaving.value.code or 0)


@pytest.fixture
def ranker(monkeypatch):
    """Measures images by the number in their names, each in a batch of its own, and keeps what it was
    asked."""
    import rarl.ranking.ranker

    class Ranker:
        asked: list[str] = []  # noqa: RUF012
        stops_at: str | None = None
        read_leniently = 0

        def __init__(self, model, task, **options):
            pass

        def measure_each(self, files):
            for place, file in enumerate(files):
                if Path(file).name == Ranker.stops_at:
                    raise KeyboardInterrupt
                Ranker.asked.append(Path(file).name)
                number = int(Path(file).stem)
                said = (
                    Measured(None, problem="the image is damaged") if number == 7 else Measured(number // 2)
                )
                yield [(place, said)]

    monkeypatch.setattr(rarl.ranking.ranker, "Ranker", Ranker)
    monkeypatch.setattr("rarl.models.loading.use_one_thread_for", lambda model: None)
    return Ranker


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    (folder / "more").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
    Image.new("RGB", (4, 4)).save(folder / "more" / "5.JPG", format="JPEG")
    (folder / "notes.txt").write_text("no image")
    return folder


def rows_of(file: str = "scores.csv") -> list[tuple[str, ...]]:
    with open(file, newline="") as lines:
        return [tuple(row.values()) for row in csv.DictReader(lines)]


def test_a_folder_becomes_a_table_in_which_ties_share_a_rank(capsys, photos, ranker):
    assert rarl(photos, "--out", "scores.csv", "--top", 2, "--descending") == 0
    out, err = capsys.readouterr()
    assert rows_of() == [
        ("1", "photos/4.png", "2", "2", "", "", ""),
        ("1", "photos/more/5.JPG", "2", "2", "", "", ""),
        ("3", "photos/2.png", "1", "1", "", "", ""),
        ("3", "photos/3.png", "1", "1", "", "", ""),
        ("5", "photos/0.png", "0", "0", "", "", ""),
        ("5", "photos/1.png", "0", "0", "", "", ""),
    ]
    assert out.count("photos/") == 2  # --top
    assert "passed over, no images: 1" in err
    assert "wrote scores.csv: 6 images" in err


def test_an_image_without_a_value_is_a_row_that_says_why(capsys, photos, ranker):
    Image.new("RGB", (4, 4)).save(photos / "7.png")
    assert rarl(photos, "--out", "scores.json") == 1
    document = json.loads(Path("scores.json").read_text())
    assert document["ranking"][-1] == {
        "rank": None,
        "file": "photos/7.png",
        "value": None,
        "mean": None,
        "low": None,
        "high": None,
        "problem": "the image is damaged",
    }
    assert "1 of 7 images got no value" in capsys.readouterr().err


def test_the_same_command_goes_on_where_it_was_interrupted(capsys, monkeypatch, photos, ranker):
    monkeypatch.setattr(sys, "argv", ["rarl", "rank", "tiny", "photos", "--out", "scores.csv"])
    ranker.stops_at = "3.png"
    assert rarl(photos, "--out", "scores.csv") == 130
    assert "continue with: rarl rank tiny photos --out scores.csv" in capsys.readouterr().err
    assert not Path("scores.csv").exists()
    ranker.stops_at = None
    for _ in range(2):  # the second time there is nothing left to measure
        assert rarl(photos, "--out", "scores.csv") == 0
    assert ranker.asked == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.JPG"]
    assert len(rows_of()) == 6


def test_a_changed_image_and_a_new_one_are_measured_again(photos, ranker):
    assert rarl(photos, "--out", "scores.csv") == 0
    ranker.asked.clear()
    Image.new("RGB", (40, 40)).save(photos / "1.png")
    Image.new("RGB", (4, 4)).save(photos / "6.png")
    (photos / "0.png").unlink()
    assert rarl(photos, "--out", "scores.csv") == 0
    assert ranker.asked == ["1.png", "6.png"]
    assert [row[1] for row in rows_of()] == [
        "photos/1.png",
        "photos/2.png",
        "photos/3.png",
        "photos/4.png",
        "photos/more/5.JPG",
        "photos/6.png",
    ]


def test_the_part_that_ends_last_joins_all(capsys, photos, ranker):
    assert rarl(photos, "--out", "scores.csv", "--shard", "2/2") == 0
    assert ranker.asked == ["1.png", "3.png", "5.JPG"]
    assert "of 6 images 3 are scored" in capsys.readouterr().err
    assert not Path("scores.csv").exists()
    assert rarl(photos, "--out", "scores.csv", "--shard", "1/2") == 0
    assert sorted(ranker.asked) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.JPG"]
    assert len(rows_of()) == 6


def test_the_command_without_a_part_scores_what_the_parts_left(photos, ranker):
    assert rarl(photos, "--out", "scores.csv", "--shard", "2/3") == 0
    assert rarl(photos, "--out", "scores.csv") == 0
    assert ranker.asked == ["1.png", "4.png", "0.png", "2.png", "3.png", "5.JPG"]
    assert len(rows_of()) == 6


def test_a_process_of_torchrun_has_a_part_and_the_first_one_joins(monkeypatch, photos, ranker):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    Image.new("RGB", (4, 4)).save(photos / "7.png")  # which has no value
    assert rarl(photos, "--out", "scores.csv") == 0  # torchrun would end the others
    assert ranker.asked == ["1.png", "3.png", "7.png"]
    assert not Path("scores.csv").exists()
    monkeypatch.setenv("RANK", "0")
    assert rarl(photos, "--out", "scores.csv") == 1
    assert len(rows_of()) == 7


@pytest.mark.parametrize("other", [("--task", "age"), ()])
def test_a_ranking_of_another_command_is_refused(capsys, photos, ranker, other):
    assert rarl(photos, "--out", "scores.csv", "--task", "count") == 0
    before = Path("scores.csv").read_bytes()
    assert rarl(photos, "--out", "scores.csv", *other) == 2
    assert "has rows of another task" in capsys.readouterr().err
    assert Path("scores.csv").read_bytes() == before


def test_a_table_of_the_user_is_not_overwritten(capsys, photos, ranker):
    Path("scores.csv").write_text("mine")
    assert rarl(photos, "--out", "scores.csv") == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("scores.csv").read_text() == "mine"


def test_a_line_that_was_cut_by_a_kill_is_measured_again(photos, ranker):
    assert rarl(photos, "--out", "scores.csv") == 0
    rows = Path("scores.csv.rows.jsonl")
    rows.write_bytes(rows.read_bytes()[:-5])
    Path("scores.csv").unlink()
    assert rarl(photos, "--out", "scores.csv") == 0
    assert ranker.asked[6:] == ["5.JPG"]
    assert len(rows_of()) == 6
    assert len(rows.read_text().splitlines()) == 7


def test_parts_are_written_as_i_of_n():
    assert parse_shard("2/3") == (2, 3)


# --- the embedded model ---


@pytest.fixture
def numbered(tmp_path) -> Path:
    """Three hundred images that differ."""
    random = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for number in range(300):
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "many" / f"{number:03}.png")
    return tmp_path / "many"


def command_for(folder: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "rarl",
        "rank",
        "tiny",
        str(folder),
        "--out",
        str(out),
        "--batch-size",
        "20",
    ]


def test_killed_twice_the_ranking_is_that_of_a_command_left_alone(tmp_path, numbered):
    from rarl import Ranker

    killed = tmp_path / "killed.csv"
    rows = tmp_path / "killed.csv.rows.jsonl"
    for least in (40, 160):
        with subprocess.Popen(command_for(numbered, killed), stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while not rows.exists() or rows.read_bytes().count(b"\n") <= least:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        assert not killed.exists()
        assert rows.read_bytes().count(b"\n") < 301
    done = subprocess.run(command_for(numbered, killed), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    alone = tmp_path / "alone.csv"
    Ranker("tiny").rank(sorted(numbered.iterdir())).save(alone)
    assert killed.read_bytes() == alone.read_bytes()
    files = [json.loads(line)["file"] for line in rows.read_text().splitlines()[1:]]
    assert sorted(files) == sorted(map(str, numbered.iterdir()))
