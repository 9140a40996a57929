"""Lists of splits: what `--split` takes, which image an entry means, and what becomes of
the images and entries that have no counterpart."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rarl.data.sources import Labelled, LeftOut
from rarl.data.sources.splits import SplitLists, divide, read_split_lists
from rarl.errors import ConfigError, DataError, RarlError


def images(*names: str) -> list[Labelled]:
    return [Labelled(Path("/raw", name), name, 1.0, name) for name in names]


def keys(lists: SplitLists) -> list[tuple[str, str]]:
    return [(entry.key, entry.split) for entry in lists.entries]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, content: str | bytes) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return str(tmp_path / name)

    return write


def test_a_list_has_a_name_on_each_line(write: Any) -> None:
    path = write("some.jpgl", "\ufeff953619\r\n  \r\n24_0_1_2017 .jpg\r\n./a/ä.jpg \r\nb\\c.jpg")
    lists = read_split_lists([f"test={path}"])
    assert keys(lists) == [
        ("953619", "test"),
        ("24_0_1_2017 .jpg", "test"),
        ("a/ä.jpg", "test"),
        ("b/c.jpg", "test"),
    ]
    assert [entry.where for entry in lists.entries] == [f"{path} line {n}" for n in (1, 3, 4, 5)]
    assert lists.entries[0].columns == {}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *[("train", "train"), ("TRAIN", "train"), ("training", "train"), (" test ", "test")],
        *[("val", "validation"), ("valid", "validation"), ("validation", "validation"), ("testing", "test")],
    ],
)
def test_an_option_names_the_part(write: Any, name: str, part: str) -> None:
    lists = read_split_lists([f"{name}={write('one.txt', 'a')}", f"test={write('two.txt', 'b')}"])
    assert keys(lists) == [("a", part), ("b", "test")]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *[("generic_ls_train.jpgl", "train"), ("generic_test.jpgl", "test"), ("TEST", "test")],
        *[("utk_valid.csv", "validation"), ("val2017.lst", "validation"), ("my-Training-set.txt", "train")],
    ],
)
def test_a_file_names_the_part(write: Any, name: str, part: str) -> None:
    lists = read_split_lists([write(name, "file\na.jpg\n"), f"test={write('last', 'b')}"])
    assert ("a.jpg", part) in keys(lists)


@pytest.mark.parametrize("name", ["list.txt", "latest.txt", "trainval.txt", "train_test.txt", "contest.csv"])
def test_a_file_that_names_no_part_is_refused(write: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"which split is it\? Write --split test="):
        read_split_lists([write(name, "file\na.jpg\n")])


def test_the_folder_of_a_list_says_nothing(write: Any) -> None:
    with pytest.raises(ConfigError, match="which split is it"):
        read_split_lists([write("test/list.txt", "a")])


def test_a_part_may_stand_in_each_row(write: Any) -> None:
    text = ",Image_ID,Subset\n0,1,Train\n1,2,TESTING\n2,3, val \n3,4,valid\n4,5,validation\n5,6,training\n"
    path = write("test.csv", text)  # its rows, not its name
    assert keys(read_split_lists([path])) == [
        *[("1", "train"), ("2", "test"), ("3", "validation"), ("4", "validation"), ("5", "validation")],
        ("6", "train"),
    ]
    # What the option says comes first.
    assert {part for _, part in keys(read_split_lists([f"test={path}"]))} == {"test"}


def test_the_other_columns_come_with_an_entry(write: Any) -> None:
    lists = read_split_lists([write("utk_test.csv", ",file,age\n7,30_0_0_1.jpg,9\n")])
    assert lists.entries[0].key == "30_0_0_1.jpg"
    assert lists.entries[0].columns == {"": "7", "age": "9"}
    lists = read_split_lists([write("all.csv", "split,id,age\ntest,a,9\n")])
    assert lists.entries[0].columns == {"age": "9"}


@pytest.mark.parametrize("value", [953619, 953619.0, "953619", " 953619 "])
def test_ids_may_be_numbers(write: Any, tmp_path: Path, value: Any) -> None:
    path = write("test.json", json.dumps([{"image_num": value}]))
    assert keys(read_split_lists([path])) == [("953619", "test")]
    parquet.write_table(pa.table({"id": [value]}), tmp_path / "test.parquet")
    assert keys(read_split_lists([str(tmp_path / "test.parquet")])) == [("953619", "test")]


@pytest.mark.parametrize("row", [{}, {"id": None}, {"id": True}, {"id": ""}, {"id": ["a"]}, {"id": 1.5}])
def test_a_row_without_a_name_is_refused(write: Any, row: Any) -> None:
    path = write("test.jsonl", '{"id": "a"}\n' + json.dumps(row))
    with pytest.raises(DataError, match=r"test\.jsonl line 2: id must be the name or id of an image, not"):
        read_split_lists([path])


def test_half_a_surrogate_pair_is_refused(write: Any) -> None:
    with pytest.raises(DataError, match="line 1: id must be the name"):
        read_split_lists([write("test.jsonl", '{"id": "a\\ud800"}')])


def test_a_list_in_utf_16(write: Any) -> None:
    """As PowerShell writes it."""
    file = write("test.txt", "ä.jpg\r\nb.jpg\r\n".encode("utf-16"))
    assert [entry.key for entry in read_split_lists([file]).entries] == ["ä.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.txt", "", "no entries; write the name or id"),
        ("test.txt", "\ufeff\r\n \n", "no entries"),
        ("test.txt", b"a\xff\xfe", "not UTF-8"),
        ("test.csv", "", "no rows"),
        ("test.csv", "file\n", "no rows"),
        ("test.csv", "age\n3\n", "no column for the image file; it may be called file, file_name"),
        (
            "test.csv",
            "file,split\na,test\nb,extra\n",
            r"line 3: 'extra' is no split; it must be train, valid",
        ),
        ("test.csv", "file,split\na,\n", r"line 2: '' is no split; .* write --split test="),
        ("test.jsonl", '{"file": "a", "split": "test"}\n{"file": "b"}', r"line 2: None is no split"),
        ("train.txt", "a", r"no entry of these lists is of the test split; add --split test=FILE"),
        ("val.txt", "a", "add --split test=FILE"),
    ],
)
def test_malformed_lists_are_named(write: Any, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_split_lists([write(name, content)])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("tset=a.txt", "there is no split 'tset'; write train=, validation= or test="),
        ("test=none.txt", r"'none.txt' is no file; check the path"),
        ("none.txt", r"'none.txt' is no file"),
        ("test=", r"'' is no file"),
        ("", r"'' is no file"),
        ("test=/", r"'/' is no file"),
        ("test=a\0b", "is no file"),
        ("test=" + "a" * 5000, "is no file"),
        ("test=https://example.org/a.txt", "is no file"),
    ],
)
def test_malformed_options_are_named(option: str, message: str) -> None:
    with pytest.raises(RarlError, match=message):
        read_split_lists([option])


def test_a_path_may_have_an_equals_sign(write: Any) -> None:
    assert keys(read_split_lists([write("seed=1_test.txt", "a")])) == [("a", "test")]


def test_the_notes_say_which_lists_were_used(write: Any) -> None:
    train = write("generic_train.jpgl", "1\n2\n")
    both = write("rows.csv", "id,split\n3,test\n4,val\n5,test\n")
    notes = read_split_lists([train, both]).notes
    assert notes == [
        {
            "file": "generic_train.jpgl",
            "sha256": hashlib.sha256(b"1\n2\n").hexdigest()[:16],
            "entries": {"train": 2},
        },
        {
            "file": "rows.csv",
            "sha256": hashlib.sha256(b"id,split\n3,test\n4,val\n5,test\n").hexdigest()[:16],
            "entries": {"test": 2, "validation": 1},
        },
    ]


def test_without_lists_images_stay_as_they_are() -> None:
    given = images("a", "b")
    division = divide(given, read_split_lists([]))
    assert division.images == given
    assert division.left_out == ()


def test_without_a_list_for_training_the_others_belong_to_train(write: Any) -> None:
    lists = read_split_lists([write("test.txt", "b.jpg"), write("val.txt", "c.jpg")])
    division = divide(images("a.jpg", "b.jpg", "c.jpg", "d.jpg"), lists)
    assert [(image.name, image.split) for image in division.images] == [
        *[("a.jpg", "train"), ("b.jpg", "test"), ("c.jpg", "validation"), ("d.jpg", "train")]
    ]
    assert division.left_out == []


def test_with_a_list_for_training_images_in_no_list_are_left_out(write: Any) -> None:
    lists = read_split_lists([write("test.txt", "b.jpg"), write("train.txt", "d.jpg")])
    division = divide(images("a.jpg", "b.jpg", "c.jpg", "d.jpg"), lists)
    assert [(image.name, image.split) for image in division.images] == [("b.jpg", "test"), ("d.jpg", "train")]
    assert division.left_out == [
        LeftOut("a.jpg", "in no list of --split"),
        LeftOut("c.jpg", "in no list of --split"),
    ]


def test_entries_that_are_no_image_are_left_out_once(write: Any) -> None:
    lists = read_split_lists([write("test.txt", "a.jpg\ngone.jpg\n\ngone.jpg\nbroken.jpg\n../x\0.jpg")])
    division = divide(images("a.jpg"), lists, [LeftOut("broken.jpg", "it is broken")])
    assert division.left_out == [
        LeftOut("gone.jpg", "listed, but there is no such file (test.txt line 2)"),
        LeftOut("../x\0.jpg", "listed, but there is no such file (test.txt line 6)"),
    ]


THERE = (
    "a/1.jpg",
    "b/1.jpg",
    "b/2.png",
    "3.jpg.chip.jpg",
    "c/d/4.JPG",
    "5.tar.gz",
    "6 .jpg",
    "7.jpg",
    "7.png",
)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("/data/faces/a/1.jpg", "a/1.jpg"),
        ("../faces/b/1.jpg", "b/1.jpg"),
        ("https://example.org/b/1.jpg", "b/1.jpg"),
        ("C:\\faces\\b\\1.jpg", "b/1.jpg"),
        ("a/1", "a/1.jpg"),
        ("2.png", "b/2.png"),
        ("2", "b/2.png"),
        ("2.jpg", "b/2.png"),
        ("x/b/2", "b/2.png"),
        ("a/2.png", None),
        ("3", "3.jpg.chip.jpg"),
        ("3.jpg", "3.jpg.chip.jpg"),
        ("part1/3.jpg", "3.jpg.chip.jpg"),
        ("d/4.jpg", "c/d/4.JPG"),
        ("x/c/d/4", "c/d/4.JPG"),
        ("c/4", None),
        ("5", None),
        ("5.tar.gz", "5.tar.gz"),
        ("6 .jpg", "6 .jpg"),
        ("7.png", "7.png"),
        ("/x/7.jpg", "7.jpg"),
        ("11.jpg", None),
        (".jpg", None),
        ("..", None),
    ],
)
def test_which_image_an_entry_means(write: Any, key: str, name: str | None) -> None:
    lists = read_split_lists([write("list_test.txt", f"{key}\nb/2.png" if name != "b/2.png" else key)])
    division = divide(images(*THERE), lists)
    assert [image.name for image in division.images if image.split == "test"] == sorted(
        {"b/2.png"} | ({name} if name else set()), key=THERE.index
    )


@pytest.mark.parametrize(
    ("key", "several"),
    [
        ("1.jpg", r"'a/1.jpg' or 'b/1.jpg'"),
        ("1", r"'a/1.jpg' or 'b/1.jpg'"),
        ("7", r"'7.jpg' or '7.png'"),
        ("x/7", r"'7.jpg' or '7.png'"),
    ],
)
def test_an_entry_that_fits_several_images_is_refused(write: Any, key: str, several: str) -> None:
    lists = read_split_lists([write("test.txt", f"b/2.png\n{key}")])
    message = rf"test\.txt line 2: '{key}' may be {several}; write the whole name"
    with pytest.raises(DataError, match=message):
        divide(images(*THERE, "11.jpg"), lists)
    # Also where one of them is left out: the entry may mean that one.
    left_out = [LeftOut(name, "broken") for name in ("b/1.jpg", "7.png")]
    with pytest.raises(DataError, match=several):
        divide(images("a/1.jpg", "b/2.png", "7.jpg"), lists, left_out)


def test_a_whole_name_comes_before_the_end_of_another(write: Any) -> None:
    for key in ("1.jpg", "1"):
        division = divide(images("1.jpg", "a/1.jpg"), read_split_lists([write("test.txt", key)]))
        assert [image.split for image in division.images] == ["test", "train"]
    # Of several that a path ends with, the longest.
    division = divide(images("1.jpg", "a/1.jpg"), read_split_lists([write("test.txt", "/data/a/1.jpg")]))
    assert [image.split for image in division.images] == ["train", "test"]


def test_an_image_in_two_parts_is_refused(write: Any) -> None:
    test, train = write("test.txt", "a.jpg\nb.jpg"), write("train.txt", "c\nx/b")
    with pytest.raises(DataError) as caught:
        divide(images("a.jpg", "b.jpg", "c.jpg"), read_split_lists([test, train]))
    assert str(caught.value) == (
        f"{train} line 2: 'b.jpg' is of train here and of test in {test} line 2; remove one of the two"
    )


@pytest.mark.parametrize("left_out", [[], [LeftOut("z.jpg", "broken")]])
def test_what_is_not_there_can_not_be_in_two_parts_either(write: Any, left_out: Any) -> None:
    lists = read_split_lists([write("test.txt", "a.jpg\nz.jpg"), write("train.txt", "b.jpg\nz.jpg")])
    with pytest.raises(DataError, match=r"'z.jpg' is of train here and of test in"):
        divide(images("a.jpg", "b.jpg"), lists, left_out)


def test_an_image_twice_in_one_part_is_fine(write: Any) -> None:
    lists = read_split_lists([write("test.txt", "a.jpg\na.jpg\n/x/a.jpg"), f"test={write('again', 'a')}"])
    division = divide(images("a.jpg", "b.jpg"), lists)
    assert [image.split for image in division.images] == ["test", "train"]
    assert division.left_out == []
    assert [entry.key for entry in division.listed["a.jpg"]] == ["a.jpg", "a.jpg", "/x/a.jpg", "a"]


def test_rows_of_one_image_come_into_one_part(write: Any) -> None:
    rows = [Labelled(Path("/raw/a.jpg"), "a.jpg", 1.0, f"a#{rule}", rule) for rule in ("dogs", "cats")]
    division = divide([*rows, *images("b.jpg")], read_split_lists([write("test.txt", "a.jpg")]))
    assert [image.split for image in division.images] == ["test", "test", "train"]


def test_a_part_without_any_of_the_images_is_refused(write: Any) -> None:
    lists = read_split_lists([write("test.txt", "a.jpg"), write("val.txt", "x.jpg\ny.jpg")])
    with pytest.raises(
        DataError, match=r"val\.txt line 1: neither 'x.jpg' nor any other entry of validation"
    ):
        divide(images("a.jpg", "b.jpg"), lists)


def test_lists_may_know_names_otherwise(write: Any) -> None:
    lists = read_split_lists([write("test.txt", "elsewhere/a.jpg\nc.jpg")])
    division = divide(
        images("in/a.jpg", "in/b.jpg"), lists, [LeftOut("old/c.jpg", "old")], lambda n: n.split("/")[-1]
    )
    assert [(image.name, image.split) for image in division.images] == [
        ("in/a.jpg", "test"),
        ("in/b.jpg", "train"),
    ]
    assert division.left_out == []


def test_entries_are_found_without_a_look_at_every_image(write: Any) -> None:
    names = [f"{i}/image.jpg" for i in range(30_000)]
    lists = write("test.txt", "\n".join(f"/data/{name}" for name in names))
    there = images(*names)
    start = time.process_time()
    read = read_split_lists([lists])
    assert time.process_time() - start < 1
    assert len(divide(there, read).listed) == 30_000
    assert time.process_time() - start < 4
