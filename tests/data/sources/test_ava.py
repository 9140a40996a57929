"""The source ava: rows of AVA.txt as they are published, worked by hand, and rows that can't be read."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from rarl.data.sources import Labelled, LeftOut
from rarl.data.sources.ava import read_ava
from rarl.errors import DataError
from rarl.method.tasks import AESTHETICS

FIRST = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396"
# Votes for 1..10: 124 of them. 2 + 15 + 68 + 190 + 216 + 105 + 48 + 45 + 10 = 699; 699 / 124 = 5.63709...
FIRST_MEAN = 5.6371


def make(root: Path, *rows: str, images: tuple[Any, ...] = (953619, 1, 2, 3), folder: str = "images") -> Path:
    (root / folder).mkdir(parents=True)
    for image in images:
        (root / folder / f"{image}.jpg").touch()
    (root / "AVA.txt").write_text("".join(row + "\n" for row in rows))
    return root


def row(image: int | str, *votes: int, tags: str = "1 22", challenge: str = "7") -> str:
    """A row with votes for 1, 2, ...; none for the scores not given."""
    counts = [*votes, *[0] * (10 - len(votes))]
    return f"9 {image} {' '.join(map(str, counts))} {tags} {challenge}"


def test_the_first_row_of_the_data_set(tmp_path: Path) -> None:
    source = read_ava(make(tmp_path, FIRST))
    assert source.task is AESTHETICS
    assert source.images == [
        Labelled(
            tmp_path / "images" / "953619.jpg",
            "953619.jpg",
            FIRST_MEAN,
            "953619",
            columns={"votes": 124, "tags": (1, 22), "challenge": 1396},
        )
    ]
    assert source.left_out == []
    assert source.notes == {"value": "mean of the votes for 1 to 10, 4 digits"}


@pytest.mark.parametrize(
    ("votes", "mean"),
    [
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 3), 10),  # the tens count
        ((4,), 1),
        ((1, 0, 0, 0, 0, 0, 0, 0, 0, 1), 5.5),
        ((2, 1), 1.3333),
        ((1, 2), 1.6667),
        ((0, 0, 0, 0, 999_999_999_999_999), 5),
    ],
)
def test_the_value_is_the_mean_of_all_ten_scores(tmp_path: Path, votes: Any, mean: float) -> None:
    image = read_ava(make(tmp_path, row(1, *votes))).images[0]
    assert image.value == mean
    assert image.columns["votes"] == sum(votes)


@pytest.mark.parametrize(
    ("end", "columns"),
    [
        (" 0 0 7", {"tags": (), "challenge": 7}),
        (" 5 0 7", {"tags": (5,), "challenge": 7}),
        (" 0 5 0", {"tags": (5,), "challenge": 0}),
        (" 5 6", {"tags": (5, 6)}),
        (" 5", {"tags": (5,)}),
        ("", {"tags": ()}),
    ],
)
def test_tags_and_challenge_as_far_as_they_are_there(tmp_path: Path, end: str, columns: Any) -> None:
    source = read_ava(make(tmp_path, "1 1 0 0 3 0 0 0 0 0 0 0" + end))
    assert source.images[0].columns == {"votes": 3} | columns


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        ("1 2 0 1 5 17 38 36 15 6 5", "2.jpg", "11 columns; there must be 15"),
        (FIRST + " 1", "953619.jpg", "16 columns; there must be 15"),
        ("2", "AVA.txt line 2", "1 columns; there must be 15"),
        ("a b", "AVA.txt line 2", "2 columns"),
        (row(2), "2.jpg", "no votes"),
        (row(2, 1, -1), "2.jpg", "a column is not a whole number from 0 on"),
        (row(-2, 1), "AVA.txt line 2", "a column is not a whole number"),
        (row("../2", 1), "AVA.txt line 2", "a column is not a whole number"),
        (row("2.0", 1), "AVA.txt line 2", "a column is not a whole number"),
        (row("1_0", 1), "AVA.txt line 2", "a column is not a whole number"),
        (row("٢", 1), "AVA.txt line 2", "a column is not a whole number"),
        (row("2\0", 1), "AVA.txt line 2", "a column is not a whole number"),
        (row(2, 1, tags="a b"), "2.jpg", "a column is not a whole number"),
        (row(2, 10**15), "2.jpg", "a column is not a whole number"),
        (row("9" * 5000, 1), "9" * 5000 + ".jpg", "a column is not a whole number"),
        (FIRST.replace(" ", ","), "AVA.txt line 2", "1 columns"),
    ],
)
def test_rows_that_can_not_be_read_are_left_out_with_their_line(
    tmp_path: Path, line: str, name: str, reason: str
) -> None:
    source = read_ava(make(tmp_path, row(1, 3), line, row(3, 4)))
    assert [image.id for image in source.images] == ["1", "3"]
    assert [each.name for each in source.left_out] == [name]
    assert source.left_out[0].reason.startswith(f"AVA.txt line 2: {reason}")


def test_a_byte_order_mark_other_line_ends_tabs_and_blank_lines(tmp_path: Path) -> None:
    make(tmp_path)
    text = "\ufeff" + FIRST + "\r\n\r\n  " + row(1, 2).replace(" ", "\t") + " \r\n"
    (tmp_path / "AVA.txt").write_bytes(text.encode())
    assert [image.value for image in read_ava(tmp_path).images] == [FIRST_MEAN, 1]


def test_images_that_are_missing_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, row(1, 1), row(4, 1), row(5, 1), images=(1,))
    (tmp_path / "images" / "5.jpg").mkdir()
    assert read_ava(tmp_path).left_out == [
        LeftOut("4.jpg", "AVA.txt line 2: no such image in images"),
        LeftOut("5.jpg", "AVA.txt line 3: no such image in images"),
    ]


def test_photos_may_have_another_suffix(tmp_path: Path) -> None:
    make(tmp_path, row(1, 1), row(4, 1), row(5, 1), images=(1,))
    for name in ("4.JPG", "5.jpg", "5.JPG.png"):
        (tmp_path / "images" / name).touch()
    source = read_ava(tmp_path)
    assert [image.name for image in source.images] == ["1.jpg", "4.JPG", "5.jpg"]
    assert source.notes["names matched loosely"] == "1 in another case; such as '4.jpg' for '4.JPG'"


def test_a_row_twice_counts_once(tmp_path: Path) -> None:
    source = read_ava(make(tmp_path, row(1, 1, 2), row("01", 1, 2, tags="0 0"), row(4, 1), row(4, 1)))
    assert [(image.id, image.columns["tags"]) for image in source.images] == [("1", (1, 22))]
    assert [each.name for each in source.left_out] == ["4.jpg"]


def test_an_image_with_two_sets_of_votes_is_refused(tmp_path: Path) -> None:
    # The same mean from other votes is another row all the same.
    make(tmp_path, row(1, 1, 0, 1), row(2, 1), row(1, 0, 1))
    with pytest.raises(DataError, match=r"AVA\.txt line 3: image 1 has other votes in line 1; remove one"):
        read_ava(tmp_path)


@pytest.mark.parametrize("folder", ["images", "image", "images/images", "images/image", "image/AVA"])
def test_where_the_images_may_be(tmp_path: Path, folder: str) -> None:
    source = read_ava(make(tmp_path, row(1, 1), folder=folder))
    assert source.images[0].path == tmp_path / folder / "1.jpg"
    assert source.images[0].name == "1.jpg"


@pytest.mark.parametrize("inside", ["", "images"])
def test_the_folder_of_images_may_be_a_link(tmp_path: Path, inside: str) -> None:
    make(tmp_path / "stored", row(1, 1), row(3, 1), images=(1, 2), folder=f"all/{inside}")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "images").symlink_to(tmp_path / "stored" / "all")
    (raw / "AVA.txt").symlink_to(tmp_path / "stored" / "AVA.txt")
    (raw / "images" / inside / "3.jpg").symlink_to("2.jpg")
    assert [image.path for image in read_ava(raw).images] == [
        raw / "images" / inside / "1.jpg",
        raw / "images" / inside / "3.jpg",
    ]


def test_an_image_that_is_a_link_must_stay_in_the_folder(tmp_path: Path) -> None:
    raw = make(tmp_path / "raw", row(1, 1), row(4, 1), row(5, 1))
    (raw / "images" / "4.jpg").symlink_to("1.jpg")
    assert len(read_ava(raw).images) == 2
    (tmp_path / "secret").touch()
    (raw / "images" / "5.jpg").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"AVA\.txt line 3: .*5\.jpg is a link that leads out of"):
        read_ava(raw)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: no such folder; it must have AVA\.txt and a folder images"):
        read_ava(tmp_path / "none")
    (tmp_path / "AVA.txt").touch()
    message = r"images: no images; AVA's, such as 953619\.jpg, go into that folder"
    for folder in ("images", "images/1", "images/2"):
        with pytest.raises(DataError, match=message):
            read_ava(tmp_path)
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "1" / "1.jpg").touch()
    with pytest.raises(DataError, match=r"AVA\.txt: no row has votes and an image in .*; it has no rows"):
        read_ava(tmp_path)
    (tmp_path / "images" / "2" / "2.jpg").touch()  # which of the two?
    with pytest.raises(DataError, match=message):
        read_ava(tmp_path)
    (tmp_path / "images" / "1.jpg").touch()
    (tmp_path / "AVA.txt").write_text(row(9, 1))
    with pytest.raises(
        DataError, match=r"no row has votes and an image .*; 9\.jpg: AVA\.txt line 1: no such"
    ):
        read_ava(tmp_path)
    (tmp_path / "AVA.txt").write_bytes(b"\xff\xfe1\0")
    with pytest.raises(DataError, match=r"AVA\.txt: not a text"):
        read_ava(tmp_path)
    (tmp_path / "AVA.txt").unlink()
    with pytest.raises(DataError, match=r"AVA\.txt: no such file; AVA's table of votes goes there"):
        read_ava(tmp_path)


def test_official_lists(tmp_path: Path) -> None:
    rows = [FIRST, row(1, 1), row(2, 1), row(3, 1), row(4, 1), row(5)]
    make(tmp_path / "AVA", *rows)
    train, test = tmp_path / "generic_ls_train.jpgl", tmp_path / "generic_test.jpgl"
    train.write_text("1\n3\n")
    test.write_text("953619\n4\n5\n777\n")
    source = read_ava(tmp_path / "AVA", [str(train), f"test={test}"])
    assert [(image.id, image.split) for image in source.images] == [
        *[("953619", "test"), ("1", "train"), ("3", "train")]
    ]
    assert source.left_out == [
        LeftOut("5.jpg", "AVA.txt line 6: no votes"),
        LeftOut("4.jpg", "AVA.txt line 5: no such image in images"),
        LeftOut("777", "listed, but there is no such file (generic_test.jpgl line 4)"),
        LeftOut("2.jpg", "in no list of --split"),
    ]
    assert [note["entries"] for note in source.notes["split_lists"]] == [{"train": 2}, {"test": 4}]


def test_fifty_thousand_rows_are_read_without_a_look_at_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = range(1, 50_001)
    raw = make(tmp_path, *(row(image, 1, image) for image in ids), images=(1,))
    scandir = os.scandir
    listed: list[Path] = []

    class Entry:
        def __init__(self, image: int) -> None:
            self.name = f"{image}.jpg"

        def is_dir(self) -> bool:
            return False

        def is_symlink(self) -> bool:
            return False

    class Listing(list[Any]):
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def fake(path: Any) -> Any:
        listed.append(Path(path))
        return Listing(map(Entry, ids)) if Path(path) == raw / "images" else scandir(path)

    monkeypatch.setattr(os, "scandir", fake)
    start = time.process_time()
    assert len(read_ava(raw).images) == 50_000
    assert time.process_time() - start < 3
    assert listed.count(raw / "images") <= 2
