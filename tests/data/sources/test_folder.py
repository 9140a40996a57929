"""The source folder: sub-folders, tables, orders and annotations as values; names stay within the folder, and
every mistake is named with its file and row."""

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers import SHARED_DATA
from rarl.data.prepare import prepare_collection
from rarl.data.sources import Source
from rarl.data.sources.folder import read_folder
from rarl.data.sources.scale import Scale
from rarl.errors import ConfigError, DataError

SIZE = Scale("size")


def folder_of(root: Path, *names: str) -> Path:
    """A folder `raw` with empty files of these names."""
    for name in names:
        (root / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "raw" / name).touch()
    return root / "raw"


def values(source: Source) -> dict[str, float]:
    return {image.id: image.value for image in source.images}


def left_out(source: Source) -> dict[str, str]:
    return {each.name: each.reason for each in source.left_out}


# --- sub-folders ---


def test_a_sub_folder_is_a_value(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "3/a.jpg", "-1.5/b.PNG", "10/c d.jpg", "2/deep/er/d.jpg", "2/.e.jpg", "LICENSE")
    folder_of(tmp_path, ".git/3/x.jpg", "2/.thumbnails/f.jpg", "2/deep/.x/y.jpg")
    (raw / "4").mkdir()
    source = read_folder(raw, SIZE)
    assert values(source) == {"-1.5/b.PNG": -1.5, "10/c d.jpg": 10, "2/deep/er/d.jpg": 2, "3/a.jpg": 3}
    assert [image.path for image in source.images] == [raw / image.name for image in source.images]
    assert {image.split for image in source.images} == {None}
    assert left_out(source) == {"LICENSE": "in no sub-folder of a value"}
    assert (source.task.name, source.task.low, source.task.high, source.task.step) == ("raw", -1.5, 10, 0.5)


def test_a_sub_folder_without_images_need_be_no_value(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "1/a.jpg", "2/b.jpg", "notes/read.txt")
    (raw / "empty").mkdir()
    source = read_folder(raw, SIZE)
    assert values(source) == {"1/a.jpg": 1, "2/b.jpg": 2}
    assert left_out(source) == {
        "empty": "no image in it, and 'empty' is no value",
        "notes": "no image in it, and 'notes' is no value",
    }


def test_a_folder_around_the_sub_folders_counts_as_the_folder(tmp_path: Path) -> None:
    """As archives are unpacked."""
    raw = folder_of(tmp_path, "pack/photos/1/a.jpg", "pack/photos/2/b.jpg", "pack/README.txt")
    folder_of(tmp_path, "__MACOSX/pack/photos/1/._a.jpg")
    source = read_folder(raw, SIZE)
    assert {image.name: image.value for image in source.images} == {"1/a.jpg": 1, "2/b.jpg": 2}
    assert source.notes["folder"] == str(raw / "pack/photos")
    assert source.notes["left out as no photos"] == {"__MACOSX": 1}
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/pack").symlink_to(raw / "pack")
    with pytest.raises(DataError, match="linked/pack: value 'pack' is not a number"):
        read_folder(tmp_path / "linked", SIZE)
    folder_of(tmp_path, "pack/photos/c.jpg")
    with pytest.raises(DataError, match="raw/pack/photos: value 'photos' is not a number"):
        read_folder(raw, SIZE)


def test_a_collection_among_the_photos_is_no_photos(tmp_path: Path) -> None:
    """One that was made of them before, in the folder that one works in."""
    raw = folder_of(tmp_path, *(f"{value}/{name}.jpg" for value in (1, 2) for name in "ab"))
    for split in ("train", "test"):
        folder_of(tmp_path, f"out/{split}/1/a.jpg", f"2/old/{split}/1/a.jpg")
    for out in ("out", "2/old"):
        folder_of(tmp_path, f"{out}/task.yaml", f"{out}/preparation.json")
    source = read_folder(raw, SIZE)
    assert sorted(values(source)) == ["1/a.jpg", "1/b.jpg", "2/a.jpg", "2/b.jpg"]
    assert source.notes["left out as no photos"] == {"collections": 2}
    (tmp_path / "labels.csv").write_text("file,value\n/x/1/a.jpg,1\n1/b,2\n2/b.jpg,3\n")
    assert values(read_folder(raw, SIZE, tmp_path / "labels.csv")) == {
        "1/a.jpg": 1,
        "1/b.jpg": 2,
        "2/b.jpg": 3,
    }


def test_parts_may_stand_above_values(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "Train/1/a.jpg", "val/2/b.jpg", "TEST/3/a.jpg", "Train/notes.txt")
    source = read_folder(raw, SIZE)
    assert {image.name: (image.split, image.value) for image in source.images} == {
        "Train/1/a.jpg": ("train", 1),
        "val/2/b.jpg": ("validation", 2),
        "TEST/3/a.jpg": ("test", 3),
    }
    assert left_out(source) == {"Train/notes.txt": "in no sub-folder of a value"}


def test_other_folders_beside_parts_are_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="raw/train: value 'train' is not a number"):
        read_folder(folder_of(tmp_path, "train/1/a.jpg", "3/b.jpg"), SIZE)


def test_sub_folders_with_names_need_their_order(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "High/a.jpg", "low/b.jpg", "medium/c.jpg")
    scale = Scale("severity", names=("low", "medium", "high"))
    assert values(read_folder(raw, scale)) == {"High/a.jpg": 2, "low/b.jpg": 0, "medium/c.jpg": 1}
    with pytest.raises(DataError, match=r"raw/High: value 'High' is not a number; .*--order"):
        read_folder(raw, SIZE)
    with pytest.raises(DataError, match=r"raw/medium: value 'medium' is none of the order low, high"):
        read_folder(raw, Scale("severity", names=("low", "high")))


def test_a_sub_folder_outside_the_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw/11: value 11 is outside the range 0-10"):
        read_folder(folder_of(tmp_path, "3/a.jpg", "11/b.jpg"), Scale("size", (0, 10)))


def test_folders_that_hold_no_values(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: no such folder"):
        read_folder(tmp_path / "none", SIZE)
    with pytest.raises(DataError, match=r"raw: no sub-folders; either each value has one.*--labels FILE"):
        read_folder(folder_of(tmp_path, "a.jpg"), SIZE)
    (tmp_path / "raw/3").mkdir()
    with pytest.raises(DataError, match=r"raw: no image is left; 1 are .* 'a\.jpg': in no sub-folder"):
        read_folder(tmp_path / "raw", SIZE)
    (tmp_path / "raw/a.jpg").unlink()
    with pytest.raises(DataError, match="raw: no images with values"):
        read_folder(tmp_path / "raw", SIZE)
    folder_of(tmp_path, "3/b.jpg")
    with pytest.raises(ConfigError, match="all values are 3"):
        read_folder(tmp_path / "raw", SIZE)


def test_links_may_lead_within_the_folder_and_not_out(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "1/a.jpg", "2/b.jpg", "2/sub/c.jpg")
    (raw / "1/link.jpg").symlink_to("../2/b.jpg")
    (raw / "1/nothing.jpg").symlink_to("gone.jpg")
    (raw / "1/sub").symlink_to("../2/sub")
    source = read_folder(raw, SIZE)
    assert values(source) == {"1/a.jpg": 1, "1/link.jpg": 1, "2/b.jpg": 2, "2/sub/c.jpg": 2}
    assert left_out(source) == {
        "1/nothing.jpg": "a link to nothing",
        "1/sub": "a link to a folder, which is not followed",
    }
    (tmp_path / "secret.jpg").touch()
    (raw / "2/out.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.jpg").touch()
    (raw / "5").symlink_to(tmp_path / "other")
    again = read_folder(raw, SIZE)
    assert values(again) == values(source)
    assert "is a link that leads out" in left_out(again)["2/out.jpg"]
    assert "is a link that leads out" in left_out(again)["5/x.jpg"]


def test_a_name_that_is_not_readable_is_left_out(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "1/a.jpg", "2/b.jpg")
    for name in (b"\xff.jpg", b"new\nline.jpg"):
        with open(os.fsencode(raw / "1") + b"/" + name, "wb"):
            pass
    source = read_folder(raw, SIZE)
    assert len(source.images) == 2
    assert left_out(source) == {
        "1/\\udcff.jpg": "its name is not readable; give it another",
        "1/new\\nline.jpg": "its name is not readable; give it another",
    }


def test_names_of_any_script_are_readable(tmp_path: Path) -> None:
    names = ("1/at 3.15\u202fPM.png", "1/v\u00a013.png", "2/می\u200cروم.png", "2/写真\u30001.png")
    assert list(values(read_folder(folder_of(tmp_path, *names), SIZE))) == list(names)


@pytest.mark.skipif(os.name == "nt", reason="there a backslash stands between folders")
def test_files_unpacked_with_backslashes_in_their_names(tmp_path: Path) -> None:
    names = ("1\\a.jpg", "2\\sub\\b.jpg", "3/c\\d.jpg", "__MACOSX\\1\\a.jpg", "1\\Thumbs.db")
    source = read_folder(folder_of(tmp_path, *names, "e.jpg"), SIZE)
    assert values(source) == {"3/c\\d.jpg": 3, "1\\a.jpg": 1, "2\\sub\\b.jpg": 2}
    assert left_out(source) == {"e.jpg": "in no sub-folder of a value"}
    assert source.notes["left out as no photos"] == {"Thumbs.db": 1, "__MACOSX": 1}
    source = read_folder(folder_of(tmp_path / "2", "train\\1\\a.jpg", "test\\2\\b.jpg", "test\\c.jpg"), SIZE)
    assert [(image.split, image.value) for image in source.images] == [("test", 2), ("train", 1)]
    assert list(left_out(source)) == ["test\\c.jpg"]
    collection = prepare_collection(images_of(tmp_path / "3"), tmp_path / "out").collection
    assert {row.value for rows in collection.splits.values() for row in rows} == {1, 2, 3}
    with pytest.raises(DataError, match=r"raw/many\\a.jpg: value 'many' is not a number"):
        read_folder(folder_of(tmp_path / "4", "many\\a.jpg"), SIZE)


def images_of(root: Path) -> Source:
    """Images in files such as "3\\4.png"."""
    (root / "raw").mkdir(parents=True)
    for number in range(30):
        picture = Image.new("RGB", (8, 8), (number * 8, 0, 0))
        picture.save(root / "raw" / f"{number % 3 + 1}\\{number}.png")
    return read_folder(root / "raw", SIZE)


def test_what_systems_leave_gets_no_value_and_is_counted(tmp_path: Path) -> None:
    raw = folder_of(
        tmp_path,
        *("1/a.jpg", "2/b.jpg", "1/._a.jpg", "1/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "2/Thumbs.db"),
        *("__MACOSX/1/._a.jpg", "__MACOSX/2/b.jpg", "desktop.ini"),
    )
    source = read_folder(raw, SIZE)
    assert values(source) == {"1/a.jpg": 1, "2/b.jpg": 2}
    assert (source.left_out, source.notes["left out as no photos"]) == (
        [],
        {"__MACOSX": 2, "desktop.ini": 1, "@eaDir": 1, "._*": 1, "Thumbs.db": 1},
    )
    inner = folder_of(tmp_path / "2", "train/1/a.jpg", "test/2/b.jpg", "train/__MACOSX/1/a.jpg")
    assert values(read_folder(inner, SIZE)) == {"test/2/b.jpg": 2, "train/1/a.jpg": 1}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_mean_the_same_in_every_spelling(tmp_path: Path, form: str) -> None:
    """In a table, in orders and as names of values: a Mac writes them otherwise than others."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    here, there = (
        (lambda text: unicodedata.normalize(form, text)),
        (lambda t: unicodedata.normalize(other, t)),
    )
    raw = folder_of(tmp_path, *(here(name) for name in ("Grün/Jäger.jpg", "Übergröße/Café.JPG")))
    by_folder = read_folder(raw, Scale("size", names=(there("grün"), there("übergröße"))))
    assert sorted(values(by_folder).values()) == [0, 1]
    labels = write(
        tmp_path / "labels.csv",
        [
            {"file": there("Grün/Jäger.jpg"), "label": there("Grün")},
            {"file": there("Café"), "label": here("ÜBERGRÖSSE")},
        ],
    )
    source = read_folder(raw, Scale("size", names=(here("grün"), there("übergröße"))), labels)
    assert values(source) == {here("Grün/Jäger.jpg"): 0, here("Übergröße/Café.JPG"): 1}
    assert source.notes["names matched loosely"].startswith("1 in another Unicode form, 1 by the end of")
    (tmp_path / "o.jsonl").write_text(json.dumps({"ids": [there("Café.jpg"), there("Jäger.jpg")]}))
    ordered = read_folder(raw, SIZE, orders=tmp_path / "o.jsonl")
    assert ordered.orders == [[here("Übergröße/Café.JPG"), here("Grün/Jäger.jpg")]]


def test_a_name_that_may_mean_several_files_is_left_out_with_the_reason(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "a.png", "x/b.jpg", "c.jpg", "d.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,value\na,1\ny/c.jpg,2\nz/c.jpg,3\nb,3\nd.jpg,4\n")
    source = read_folder(raw, SIZE, labels)
    assert values(source) == {"x/b.jpg": 3, "d.jpg": 4}
    assert left_out(source) == {
        "a": f"may be 'a.jpg' or 'a.png'; write the whole name ({labels} line 2)",
        "y/c.jpg": f"no such file; 'c.jpg' is meant by another name ({labels} line 3)",
        "z/c.jpg": f"no such file; 'c.jpg' is meant by another name ({labels} line 4)",
    }


def test_ids_that_are_numbers_name_files_without_their_suffix(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "0.png", "17.JPG", "3.jpg")
    rows = [{"image": 0, "label": 1}, {"image": 17.0, "label": 2}, {"image": "3", "label": 3}]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert values(read_folder(raw, SIZE, labels)) == {"0.png": 1, "17.JPG": 2, "3.jpg": 3}


def test_two_names_of_one_file_in_an_order_are_refused(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "o.jsonl").write_text('{"ids": ["a.jpg", "b.jpg", ".\\\\a.jpg"]}')
    with pytest.raises(DataError, match=r"o.jsonl line 1: two names mean one file"):
        read_folder(raw, SIZE, orders=tmp_path / "o.jsonl")


def test_a_folder_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = folder_of(tmp_path, "1/a.jpg", "2/b.jpg")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == raw / bad:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for bad in ("", "2"):
        with pytest.raises(DataError, match=rf"raw/?{bad}: can't be read \(Permission denied\)"):
            read_folder(raw, SIZE)


# --- tables ---

ROWS = [("a.jpg", 3), ("b/c d.jpg", 0.5), ("ä.jpg", -2)]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    names = list(rows[0])
    separated = [names, *([row[name] for name in names] for row in rows)]
    text = {
        "csv": "\n".join(",".join(map(str, row)) for row in separated) + "\n",
        "tsv": "\n".join("\t".join(map(str, row)) for row in separated),
        "jsonl": "".join(json.dumps(row) + "\n\n" for row in rows),
        "json": json.dumps(rows),
    }
    if file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text(text[file.suffix[1:]], encoding="utf-8")
    return file


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_table_says_the_values(tmp_path: Path, suffix: str) -> None:
    raw = folder_of(tmp_path, *(name for name, _ in ROWS), "unlisted.jpg")
    rows = [{"id": i, "File": name, "Score": float(value)} for i, (name, value) in enumerate(ROWS)]
    source = read_folder(raw, SIZE, write(tmp_path / f"labels.{suffix}", rows))
    assert values(source) == dict(ROWS)
    assert not source.left_out


@pytest.mark.parametrize(
    "text",
    [
        "file;value\na.jpg;3\nb/c d.jpg;0.5\nä.jpg;-2\n",
        "file\tvalue\r\na.jpg\t3\r\nb/c d.jpg\t0.5\r\nä.jpg\t-2",
        "\ufefffile,value\na.jpg,3\n\nb/c d.jpg,0.5\nä.jpg,-2\n",
        '"file", value \n"a.jpg", 3\n./b/c d.jpg ,0.5\nä.jpg,-2e0\n',
    ],
)
def test_csv_as_it_comes(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    source = read_folder(folder_of(tmp_path, *(name for name, _ in ROWS)), SIZE, tmp_path / "labels.csv")
    assert values(source) == dict(ROWS)


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    labels = write(
        tmp_path / "labels.csv",
        [
            {"image": "a.jpg", "rating": 3, "Picture": "b.jpg", "Weight": 7},
            {"image": "b.jpg", "rating": 4, "Picture": "a.jpg", "Weight": 9},
        ],
    )
    assert values(read_folder(raw, SIZE, labels)) == {"a.jpg": 3, "b.jpg": 4}
    assert values(read_folder(raw, SIZE, labels, columns=("PICTURE", "weight"))) == {"b.jpg": 7, "a.jpg": 9}
    assert values(read_folder(raw, SIZE, labels, columns=(None, "Weight"))) == {"a.jpg": 7, "b.jpg": 9}
    for columns, message in [(("img", None), "no column for the image file"), ((None, "size"), "the value")]:
        with pytest.raises(DataError, match=rf"labels\.csv: .*{message}; .* there are image, rating, Pict"):
            read_folder(raw, SIZE, labels, columns=columns)
    bare = write(tmp_path / "bare.csv", [{"image": "a.jpg", "size": 3}])
    with pytest.raises(DataError, match="no column for the value; it may be called value, label, score"):
        read_folder(raw, SIZE, bare)


def test_two_columns_that_may_be_the_value_are_asked_about(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,Age,label\na.jpg,3,4\nb.jpg,5,6\n")
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(ConfigError, match=r"which column is the value, label or Age\? Say --value-column"):
        read_folder(raw, SIZE, labels)
    assert values(read_folder(raw, SIZE, labels, columns=(None, "age"))) == {"a.jpg": 3, "b.jpg": 5}


def test_images_without_a_row_are_counted(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg", "c/d.PNG", "notes.txt")
    (tmp_path / "labels.csv").write_text("file,value\na.jpg,1\n")
    scale = Scale("size", (0, 5))
    assert read_folder(raw, scale, tmp_path / "labels.csv").notes["images without a row"] == 2


def test_columns_for_part_and_rule_and_others(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    labels = write(
        tmp_path / "labels.jsonl",
        [
            {"file": "a.jpg", "value": 1, "split": "Train", "rule": "sweetness", "n": 4, "boxes": [1]},
            {"file": "a.jpg", "value": 2, "split": "Train", "rule": "weight", "n": 5, "boxes": {}},
            {"file": "b.jpg", "value": 3, "split": "val", "rule": None, "n": None, "boxes": []},
            {"file": "c.jpg", "value": 4, "split": None, "rule": " ", "n": 6, "boxes": []},
        ],
    )
    images = read_folder(raw, SIZE, labels).images
    assert [(image.id, image.name, image.value, image.rule, image.split) for image in images] == [
        ("a.jpg#sweetness", "a.jpg", 1, "sweetness", "train"),
        ("a.jpg#weight", "a.jpg", 2, "weight", "train"),
        ("b.jpg", "b.jpg", 3, None, "validation"),
        ("c.jpg", "c.jpg", 4, None, None),
    ]
    assert [dict(image.columns) for image in images] == [{"n": 4}, {"n": 5}, {"n": None}, {"n": 6}]


def test_images_that_are_missing_are_left_out_with_their_row(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,value\na.jpg,1\nnone.jpg,2\nb.jpg,3\nno/such.jpg,3\n")
    source = read_folder(raw, SIZE, labels)
    assert values(source) == {"a.jpg": 1, "b.jpg": 3}
    assert left_out(source) == {
        "none.jpg": f"no such file ({labels} line 3)",
        "no/such.jpg": f"no such file ({labels} line 5)",
    }


OUTSIDE = (
    *("../secret.jpg", "sub/../../secret.jpg", "/etc/passwd", "https://example.org/gone.jpg"),
    *("file:///etc/passwd", "..\\secret.jpg", "C:\\photos\\gone.jpg"),
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_missing_image_that_is_called_by_a_whole_path_is_left_out_alone(tmp_path: Path, name: str) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "secret.jpg").touch()
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file,value\nC:\\photos\\a.jpg,1\n{name},2\nb.jpg,3\n")
    source = read_folder(raw, SIZE, labels)
    assert values(source) == {"a.jpg": 1, "b.jpg": 3}
    assert left_out(source)[name].startswith(
        f"no such file, file_name {name!r} must name a file inside {raw}"
    )
    orders = write(tmp_path / "orders.jsonl", [{"ids": ["a.jpg", name, "b.jpg"]}])
    source = read_folder(raw, SIZE, orders=orders)
    assert (source.orders, list(left_out(source))) == ([["a.jpg", "b.jpg"]], [name])


@pytest.mark.parametrize("gap", ["", " ", "nan", "n/a", "#N/A", "-"])
def test_rows_without_a_value_are_left_out(tmp_path: Path, gap: str) -> None:
    """Images that nobody has rated yet."""
    raw = folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file,value,split\na.jpg,low,train\nb.jpg,{gap},{gap}\nc.jpg,high,{gap}\n")
    source = read_folder(raw, Scale("size", names=("low", "high")), labels)
    assert values(source) == {"a.jpg": 0, "c.jpg": 1}
    assert left_out(source) == {"b.jpg": f"no value ({labels} line 3)"}
    assert source.notes["rows without a value"] == 1
    labels.write_text(f"file,value\na.jpg,{gap}\n")
    with pytest.raises(
        DataError, match=r"no image is left; 1 are left out, the first being 'a.jpg': no value"
    ):
        read_folder(raw, SIZE, labels)


def test_a_gap_is_a_value_where_it_is_the_name_of_one(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text("file,value\na.jpg,None\nb.jpg,some\n")
    source = read_folder(raw, Scale("damage", names=("none", "some")), tmp_path / "labels.csv")
    assert values(source) == {"a.jpg": 0, "b.jpg": 1}
    with pytest.raises(DataError, match="line 2: value 'None' is none of the order mild, some"):
        read_folder(raw, Scale("damage", names=("mild", "some")), tmp_path / "labels.csv")


def test_none_among_numbers_may_be_a_count_of_nothing(tmp_path: Path) -> None:
    """To leave it out would leave out all zeros. "None" is how Python writes that there is no value."""
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text("file,value\na.jpg,none\nb.jpg,2\n")
    with pytest.raises(DataError, match=r"line 2: value 'none' is not a number; fill it, or remove the row"):
        read_folder(raw, SIZE, tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("file,value\na.jpg,None\nb.jpg,2\n")
    source = read_folder(raw, Scale("size", (0, 10)), tmp_path / "labels.csv")
    assert values(source) == {"b.jpg": 2}


def test_one_of_several_ratings_may_be_missing(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text("file,value\na.jpg,2\na.jpg,\na.jpg,4\nb.jpg,1\n")
    source = read_folder(raw, SIZE, tmp_path / "labels.csv", several="mean")
    assert values(source) == {"a.jpg": 3, "b.jpg": 1}


def test_percents_and_a_column_that_not_all_entries_of_a_list_have(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    entries = [{"image": "/data/upload/3/a.jpg"}, {"image": "b.jpg", "rating": "7,5 %"}]
    (tmp_path / "labels.json").write_text(json.dumps(entries))
    source = read_folder(raw, Scale("infected area", (0, 100)), tmp_path / "labels.json")
    assert values(source) == {"b.jpg": 7.5}
    assert source.notes["values"] == "written in percent and with a decimal comma"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("id,name,value\n1,a.jpg,1\n2,b.jpg,2\n", "name"),
        ("file,path,value\na.jpg,x/b.jpg,1\nb.jpg,x/a.jpg,2\n", "file"),
        ("id,name,value\na,Anna,1\nb,Bo,2\n", "id"),
    ],
)
def test_of_columns_that_may_name_the_images_the_one_that_names_them(
    tmp_path: Path, text: str, key: str
) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text(text)
    source = read_folder(raw, SIZE, tmp_path / "labels.csv")
    assert source.notes["labels"] == f"labels.csv, columns {key} and value"
    assert values(source) == {"a.jpg": 1, "b.jpg": 2}


@pytest.mark.parametrize("folder", ["", "x/"])
def test_a_number_of_the_row_is_no_image_although_one_of_the_images_is_missing(
    tmp_path: Path, folder: str
) -> None:
    raw = folder_of(tmp_path, "01.jpg", "02.jpg", "03.jpg", "04.jpg")
    rows = "".join(
        f"{row},{folder}{name},{row}\n" for row, name in enumerate(("03.jpg", "04.jpg", "05.jpg"), 1)
    )
    (tmp_path / "labels.csv").write_text(f"id,image,value\n{rows}")
    source = read_folder(raw, SIZE, tmp_path / "labels.csv")
    assert values(source) == {"03.jpg": 1, "04.jpg": 2}
    assert list(left_out(source)) == [f"{folder}05.jpg"]


def test_two_columns_of_numbers_must_name_the_same_files(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "01.jpg", "02.jpg", "03.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("id,image,value\n1,3,1\n2,2,2\n3,4,3\n")
    with pytest.raises(
        ConfigError, match=r"labels.csv: which column names the images, image or id\?.* say --file-column"
    ):
        read_folder(raw, SIZE, labels)
    source = read_folder(raw, SIZE, labels, columns=("image", None))
    assert values(source) == {"03.jpg": 1, "02.jpg": 2}
    labels.write_text("id,image,value\n1,1,1\n2,,2\n3,3,3\n")
    assert values(read_folder(raw, SIZE, labels)) == {"01.jpg": 1, "02.jpg": 2, "03.jpg": 3}


def test_a_column_that_is_written_exactly_so_says_the_split(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text("file,value,split,Split\na.jpg,1,train,A\nb.jpg,2,test,B\n")
    source = read_folder(raw, SIZE, tmp_path / "labels.csv")
    assert [image.split for image in source.images] == ["train", "test"]


def test_an_id_does_not_pass_for_a_name_that_is_written_exactly(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "1.jpg", "02.jpg")
    (tmp_path / "labels.csv").write_text("id,name,value\n1,02.jpg,1\n2,1.jpg,2\n")
    assert values(read_folder(raw, SIZE, tmp_path / "labels.csv")) == {"02.jpg": 1, "1.jpg": 2}


BAD_ROWS = {
    "a.jpg,adult": "value 'adult' is not a number",
    "a.jpg,11": "value 11 is outside the range 0-10",
    "none.jpg,11": "value 11 is outside the range 0-10",
    " ,3": "no file; name the image's file",
    "out.jpg,3": "is a link that leads out of",
    "linked/secret.jpg,3": "is a link that leads out of",
    "b.jpg,4": "b.jpg has another value in",
    "b.jpg,3,4": "not as many fields as the header has",
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.items(), ids=range(len(BAD_ROWS)))
def test_every_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "secret.jpg").touch()
    (raw / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (raw / "linked").symlink_to(tmp_path)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file,value\nb.jpg,3\n{row}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_folder(raw, Scale("size", (0, 10)), labels)
    assert str(caught.value).startswith(f"{labels} line 3")


def test_a_link_within_the_folder_is_fine(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "sub/b.jpg")
    (raw / "link.jpg").symlink_to("sub/b.jpg")
    (tmp_path / "labels.csv").write_text("file,value\nlink.jpg,1\na.jpg,2\n")
    assert values(read_folder(raw, SIZE, tmp_path / "labels.csv")) == {"link.jpg": 1, "a.jpg": 2}


def test_the_same_row_twice_is_one_and_contradictions_are_named(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,value,split\na.jpg,3,train\nb.jpg,1,test\n./a.jpg,3.0,training\n")
    assert values(read_folder(raw, SIZE, labels)) == {"a.jpg": 3, "b.jpg": 1}
    for row in ("a.jpg,4,train", "a.jpg,3,test", "a.jpg,3,"):
        labels.write_text(f"file,value,split\na.jpg,3,train\nb.jpg,1,test\n{row}\n")
        with pytest.raises(DataError, match=rf"line 4: a\.jpg has another (value|split) in {labels} line 2"):
            read_folder(raw, SIZE, labels)
    labels.write_text("file,value,split\na.jpg,3,dev set\n")
    with pytest.raises(DataError, match="line 2: split 'dev set' is no split; it must be train, validation"):
        read_folder(raw, SIZE, labels)


def test_names_of_values_in_a_table(tmp_path: Path) -> None:
    labels = write(
        tmp_path / "labels.csv", [{"file": "a.jpg", "label": "Ripe"}, {"file": "b.jpg", "label": "green"}]
    )
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    scale = Scale("ripeness", names=("green", "ripe", "rotten"))
    assert values(read_folder(raw, scale, labels)) == {"a.jpg": 1, "b.jpg": 0}


def test_lists_say_the_parts(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "train/1/a.jpg", "train/2/b.jpg", "test/3/c.jpg", "test/1/d.jpg")
    (tmp_path / "my_test.txt").write_text("train/1/a.jpg\nc\n")
    source = read_folder(raw, SIZE, splits=[str(tmp_path / "my_test.txt")])
    assert {image.name: image.split for image in source.images} == {
        "train/1/a.jpg": "test",
        "test/3/c.jpg": "test",
        "train/2/b.jpg": "train",
        "test/1/d.jpg": "train",
    }
    assert source.notes["splits"][0]["entries"] == {"test": 2}


# --- orders ---


def test_orders_alone(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b/b.jpg", "c.jpg", "d.jpg")
    file = tmp_path / "orders.jsonl"
    file.write_text('{"ids": ["a.jpg", "gone.jpg", "b/b.jpg"]}\n\n{"ids": ["c.jpg", "gone.jpg", "a.jpg"]}\n')
    source = read_folder(raw, SIZE, orders=file)
    assert source.orders == [["a.jpg", "b/b.jpg"], ["c.jpg", "a.jpg"]]
    assert [image.id for image in source.images] == ["a.jpg", "b/b.jpg", "c.jpg"]
    assert [(each.name, each.reason[:12]) for each in source.left_out] == [("gone.jpg", "no such file")]
    assert (source.task.rule, source.task.low, source.task.high) == ("size", 0, 100)
    assert source.notes["known"] == "orders alone"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"ids": ["a.jpg"]}', "two file names or more"),
        ('{"ids": "a.jpg"}', "two file names or more"),
        ('{"ids": ["a.jpg", 3]}', "two file names or more"),
        ('{"names": ["a.jpg", "b.jpg"]}', "two file names or more"),
        ('["a.jpg", "b.jpg"]', "must be an object"),
        ('{"ids": ["a.jpg", "b.jpg", "a.jpg"]}', "a name is listed twice"),
        ('{"ids": ["a.jpg", "b.jpg"}', "not JSON"),
    ],
)
def test_every_bad_order_is_named(tmp_path: Path, line: str, message: str) -> None:
    raw = folder_of(tmp_path, "a.jpg", "b.jpg")
    file = tmp_path / "orders.jsonl"
    file.write_text('{"ids": ["a.jpg", "b.jpg"]}\n' + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_folder(raw, SIZE, orders=file)
    assert str(caught.value).startswith(f"{file} line 2")


# --- Pascal VOC ---


def test_annotated_objects_are_counted(tmp_path: Path) -> None:
    raw = folder_of(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg")
    (raw / "Annotations").mkdir()
    for name, objects in {"a": ["RBC"] * 3 + ["WBC"], "b": []}.items():
        boxes = "".join(f"<object><name>{each}</name></object>" for each in objects)
        (raw / f"Annotations/{name}.xml").write_text(f"<annotation>{boxes}</annotation>")
    source = read_folder(raw, Scale(""), objects=["RBC", "WBC"])
    assert values(source) == {"a.jpg": 4, "b.jpg": 0}
    assert (source.task.rule, source.task.low, source.task.high) == ("number of RBC and WBC", 0, 10)
    said = read_folder(raw, Scale("cells", (0, 20), delta=3, name="blood"), objects=["RBC"]).task
    assert (said.name, said.rule, said.high, said.delta, said.metric) == ("blood", "cells", 20, 3, "accuracy")
    narrow = read_folder(raw, Scale("", (0, 2)), objects=["RBC"])
    with pytest.raises(DataError, match=r"a\.jpg: value 3\.0 is outside the range; count expects 0-2"):
        prepare_collection(narrow, tmp_path / "out")


# --- images as people have them ---

real = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no real images here")


@real
def test_photos_of_hands_showing_digits(tmp_path: Path) -> None:
    source = read_folder(SHARED_DATA / "sign_digits", Scale("number that the hand shows"))
    prepared = prepare_collection(source, tmp_path / "out", max_pixels=10_000)
    rows = [row for rows in prepared.collection.splits.values() for row in rows]
    assert len(rows) == 2062
    assert sorted(Counter(row.value for row in rows)) == list(range(10))
    assert prepared.placed["shrunk"] == 3
    assert (prepared.collection.task.value_range, prepared.collection.task.delta) == ("0-9", 2)
    assert [each.name for each in prepared.left_out] == ["LICENSE"]
    sizes = set()
    for row in rows:
        with Image.open(row.path) as image:
            sizes.add(image.size)
    assert sizes == {(100, 100)}
    for part in ("validation", "test"):
        counts = Counter(row.value for row in prepared.collection.split(part))
        assert set(counts.values()) <= {20, 21, 22}


@real
def test_photos_of_lettuce(tmp_path: Path) -> None:
    source = read_folder(SHARED_DATA / "lettuce", Scale("severity", names=("low", "medium", "high")))
    assert len(source.images) == 120
    assert {image.name.split("/")[0]: image.value for image in source.images} == {
        "low": 0,
        "medium": 1,
        "high": 2,
    }
    collection = prepare_collection(source, tmp_path / "out").collection
    for rows in collection.splits.values():
        assert {row.value for row in rows} == {0, 1, 2}


@real
def test_photos_of_blood() -> None:
    for name, most in (("RBC", 27), ("Platelets", 6)):
        source = read_folder(SHARED_DATA / "bccd", Scale(""), objects=[name])
        assert {min(values(source).values()), max(values(source).values())} == {0, most}
        assert {image.split for image in source.images} == {"train", "validation", "test"}
        assert source.task.rule == f"number of {name}"
        assert len(source.images) <= 364
