"""What a user may name as images: files, folders, collections and tables; and what is told of the rest."""

import json

import pytest
from PIL import Image

from rarl.errors import DataError
from rarl.method.tasks import DIGITS
from rarl.ranking.given import given_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.png", "photos/A.JPEG", "photos/in/c.webp", "photos/.hidden.png", "photos/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "photos"


def test_a_folder_is_all_images_below_it_by_name(photos):
    given = given_images(["photos"])
    assert given.files == ["photos/A.JPEG", "photos/b.png", "photos/in/c.webp"]
    assert given.notes == ["photos: passed over, no images: 2 (.* 1, .txt 1)"]


def test_what_is_passed_over_is_named_by_its_suffix(photos):
    """Half of the photos of a phone."""
    for name in ("a.heic", "b.HEIC", "c"):
        (photos / name).touch()
    [note] = given_images(["photos"]).notes
    assert note == "photos: passed over, no images: 5 (.heic 2, .* 1, no suffix 1, .txt 1)"


def test_a_table_in_another_normal_form_with_backslashes_and_with_ids(photos, tmp_path):
    (photos / "a\u0308.png").touch()
    names = ["photos\\\\in\\\\c.webp", "photos/\u00e4.png", "..\\\\x.png", "gone\u00e4.png"]
    names.append("photos/b.png")
    lines = [f'{{"id": {number}, "name": "{name}"}}\n' for number, name in enumerate(names)]
    (tmp_path / "t.jsonl").write_text("".join(lines), encoding="utf-8")
    assert given_images(["t.jsonl"]).files == [
        *("photos/in/c.webp", "photos/a\u0308.png", "..\\x.png", "gone\u00e4.png", "photos/b.png"),
    ]


def test_an_image_that_is_named_twice_is_one(photos):
    given = given_images(["photos/b.png", "photos", "photos/b.png"])
    assert given.files == ["photos/b.png", "photos/A.JPEG", "photos/in/c.webp"]


def test_a_file_is_taken_whatever_its_suffix(photos):
    assert given_images(["photos/x.txt"]).files == ["photos/x.txt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "file;value\nphotos/b.png;1\nnot there.png;2\n"),
        ("t.jsonl", '{"image": "photos/b.png"}\n{"image": "not there.png"}\n'),
        ("t.csv", "file,value\nphotos/b.png,3\n./photos/b.png,3\n./not there.png,1\n"),
    ],
)
def test_a_table_names_files_from_its_own_folder(photos, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert given_images([name]).files == ["photos/b.png", "not there.png"]
    assert given_images([tmp_path / name]).files[0] == str(photos / "b.png")


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("photos\\b.png", "photos"), "photos/b.png"),
        (("gone.png", ""), "gone.png"),
        (("gone.png", "."), "gone.png"),
    ],
)
def test_a_folder_is_no_image_that_a_column_names(photos, tmp_path, names, files):
    """Such as the class in a column `name`, beside the column of the images; nor is an empty id one."""
    (tmp_path / "t.jsonl").write_text(json.dumps(dict(zip(("image", "name"), names, strict=True))) + "\n")
    assert given_images(["t.jsonl"]).files == [files]


def test_a_collection_is_the_rows_of_its_splits(tmp_path):
    for split, names in (("train", "ab"), ("test", "c")):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        for name in (*names, "no row"):
            Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
        rows = [{"file_name": f"{name}.png", "value": 1} for name in names]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data/task.yaml").write_text(json.dumps(DIGITS.to_dict()))
    files = given_images([tmp_path / "data"]).files
    assert files == [str(tmp_path / "data" / name) for name in ("train/a.png", "train/b.png", "test/c.png")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.png", None, "none.png: no such file or folder"),
        ("t.csv", "name,value\n,3\n", "t.csv line 2: no name; name the image's file"),
        ("t.csv", "photo,value\na,3\n", "no column for the image file"),
        ("empty", None, "empty: no images in it"),
        ("a\nb.png", None, "no path that a table could hold"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        given_images([name])
