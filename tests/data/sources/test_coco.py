"""The source coco-rem and the stream it reads: how many of a category are in an image, by hand; every
contradiction of the files is named; and a large file is never in memory as a whole."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rarl.data.collection import load_collection
from rarl.data.prepare import prepare_collection
from rarl.data.sources import Labelled, LeftOut, Source
from rarl.data.sources.coco import annotations as annotation_files
from rarl.data.sources.coco import read_coco
from rarl.data.sources.coco.annotations import stream_lists
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import COUNT

PERSON, HORSE, TRAFFIC_LIGHT = 1, 19, 10
CATEGORIES = [
    {"supercategory": "person", "id": PERSON, "name": "person"},
    {"supercategory": "outdoor", "id": TRAFFIC_LIGHT, "name": "traffic light"},
    {"supercategory": "animal", "id": HORSE, "name": "horse"},
]


def image(number: int, name: str | None = None) -> dict[str, Any]:
    return {"license": 4, "file_name": name or f"{number:012d}.jpg", "height": 4, "width": 6, "id": number}


def coco(number: int, image_id: int, category: int = PERSON, crowd: int = 0) -> dict[str, Any]:
    """An annotation as COCO has it."""
    mask = {"counts": [0, 24], "size": [4, 6]} if crowd else [[1.0, 1.0, 5.0, 1.0, 5.0, 3.5]]
    return {
        "segmentation": mask,
        "area": 12.5,
        "iscrowd": crowd,
        "image_id": image_id,
        "bbox": [1.0, 1.0, 4.0, 2.5],
        "category_id": category,
        "id": number,
    }


def rem(number: int, image_id: int, category: int = PERSON) -> dict[str, Any]:
    """An annotation as COCO-ReM has it: an uncompressed RLE, where it is from, and no `iscrowd`."""
    fields = coco(number, image_id, category) | {"segmentation": {"counts": [3, 5, 16], "size": [4, 6]}}
    del fields["iscrowd"]
    return fields | {"source": "lvis", "source_id": 7}


def content(images: list[Any], annotations: list[Any], categories: list[Any] | None = None) -> dict[str, Any]:
    """In the order in which COCO has them: the categories come last."""
    info = {"info": {"year": 2017}, "licenses": [{"id": 4, "name": "x"}]}
    return info | {"images": images, "annotations": annotations, "categories": categories or CATEGORIES}


VALIDATION = content([image(139)], [coco(1, 139)])


def write(path: Path, what: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def touch(folder: Path, *numbers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:012d}.jpg").touch()


def make(root: Path, train: Any, validation: Any = VALIDATION, files: int = 9) -> Path:
    """Plain COCO: `files` images in train2017, and image 139 in val2017."""
    write(root / "annotations" / "instances_train2017.json", train)
    write(root / "annotations" / "instances_val2017.json", validation)
    touch(root / "train2017", *range(1, files + 1))
    touch(root / "val2017", 139)
    return root


def table(source: Source, split: str = "train") -> dict[str, float]:
    """The value of each id, with the zeros in front of the names taken away."""
    rows = [row for row in source.images if row.split == split]
    assert len({row.id for row in rows}) == len(rows)
    return {row.id.lstrip("0"): row.value for row in rows}


def test_a_row_for_each_image_and_category(tmp_path: Path) -> None:
    annotations = [coco(1, 1), coco(2, 1), coco(3, 1), coco(4, 1, HORSE), coco(5, 2, TRAFFIC_LIGHT)]
    make(tmp_path, content([image(1), image(2), image(3)], annotations))
    source = read_coco(tmp_path)
    assert source.task == COUNT
    assert source.left_out == []
    assert list(source.images) == [
        Labelled(
            tmp_path / "train2017" / f"{number:012d}.jpg",
            f"{number:012d}.jpg",
            value,
            f"{number:012d}.jpg#{category}",
            f"number of {category}",
            "train",
        )
        for number, category, value in ((1, "horse", 1.0), (1, "person", 3.0), (2, "traffic light", 1.0))
    ] + [
        Labelled(
            tmp_path / "val2017" / "000000000139.jpg",
            "000000000139.jpg",
            1.0,
            "000000000139.jpg#person",
            "number of person",
            "test",
        )
    ]
    assert type(source.images[0].value) is float


# Image 1: two persons. 2: a person and a crowd. 3: only a crowd. 4: a horse and a crowd of persons.
CROWDS = [coco(1, 1), coco(2, 1), coco(3, 2), coco(4, 2, crowd=1), coco(5, 3, crowd=1)]
CROWDS += [coco(6, 4, HORSE), coco(7, 4, crowd=1)]


@pytest.mark.parametrize(
    ("crowds", "rows", "left_out"),
    [
        (False, {"1.jpg#person": 2, "4.jpg#horse": 1}, ["2.jpg#person", "3.jpg#person", "4.jpg#person"]),
        (True, {"1.jpg#person": 2, "2.jpg#person": 1, "4.jpg#horse": 1}, ["3.jpg#person", "4.jpg#person"]),
    ],
)
def test_pairs_with_a_crowd(
    tmp_path: Path, crowds: bool, rows: dict[str, float], left_out: list[str]
) -> None:
    make(tmp_path, content([image(n) for n in range(1, 5)], CROWDS))
    source = read_coco(tmp_path, crowds=crowds)
    assert table(source) == rows
    assert [entry.name.lstrip("0") for entry in source.left_out] == left_out
    assert {entry.reason for entry in source.left_out} == {"a crowd annotation: the number is not known"}
    assert source.notes["crowd pairs kept"] is crowds
    assert source.notes["train"] == {
        "file": "annotations/instances_train2017.json",
        "images": f"{tmp_path.name}/train2017",
        "pairs": len(rows),
        "crowd pairs": 3,
        "zeros": 0,
    }


def test_crowds_of_other_categories_are_not_listed(tmp_path: Path) -> None:
    make(
        tmp_path,
        content([image(n) for n in range(1, 5)], CROWDS),
        content([image(139)], [coco(1, 139, HORSE)]),
    )
    source = read_coco(tmp_path, categories=["horse"])
    assert table(source) == {"4.jpg#horse": 1}
    assert source.left_out == []
    assert source.notes["train"]["crowd pairs"] == 0


def test_zeros_are_as_many_as_the_most_common_count_and_only_where_nothing_is_annotated(
    tmp_path: Path,
) -> None:
    """Persons: one in images 1 and 2, two in 3 (counts 1, 1, 2: two zeros); a crowd in 4. Horses: one in 5.
    No traffic light. Image 9 has no file."""
    annotations = [coco(1, 1), coco(2, 2), coco(3, 3), coco(4, 3), coco(5, 4, crowd=1), coco(6, 5, HORSE)]
    make(tmp_path, content([image(n) for n in range(1, 10)], annotations), files=8)
    plain, source = read_coco(tmp_path), read_coco(tmp_path, zeros=True)
    assert 0 not in {row.value for row in plain.images}
    zeros = [row for row in source.images if row.value == 0 and row.split == "train"]
    assert Counter(row.rule for row in zeros) == {"number of person": 2, "number of horse": 1}
    for row in zeros:
        number = int(row.name.removesuffix(".jpg"))
        assert number in ({5, 6, 7, 8} if row.rule == "number of person" else {1, 2, 3, 4, 6, 7, 8})
        assert row.id == f"{row.name}#{str(row.rule).removeprefix('number of ')}"
        assert row.path.is_file()
    assert {row for row in table(source).items() if row[1]} == set(table(plain).items())
    assert source.notes["train"]["zeros"] == 3
    assert source.notes["test"]["zeros"] == 0, "every image of val2017 has a person"
    assert source == read_coco(tmp_path, zeros=True)


def test_zeros_are_all_there_are_where_there_are_few(tmp_path: Path) -> None:
    """One person in each of images 1 to 5, a crowd in 6, nothing in 7 and 8; 9 has no file."""
    annotations = [*(coco(n, n) for n in range(1, 6)), coco(6, 6, crowd=1)]
    make(tmp_path, content([image(n) for n in range(1, 10)], annotations), files=8)
    rows = table(read_coco(tmp_path, zeros=True))
    assert [row for row, value in rows.items() if value == 0] == ["7.jpg#person", "8.jpg#person"]
    kept = table(read_coco(tmp_path, zeros=True, crowds=True))
    assert kept == rows


def test_a_missing_image_takes_no_zeros_place(tmp_path: Path) -> None:
    make(tmp_path, content([image(n) for n in range(1, 10)], [coco(1, 1)]), files=1)
    touch(tmp_path / "train2017", 8)
    source = read_coco(tmp_path, zeros=True)
    assert table(source) == {"1.jpg#person": 1, "8.jpg#person": 0}
    assert source.left_out == [], "what has no row is not missed"


def test_which_zeros_does_not_depend_on_the_order_in_the_file_or_on_other_categories(tmp_path: Path) -> None:
    annotations = [coco(1, 1), coco(2, 1, HORSE), coco(3, 2)]
    images = [image(n) for n in range(1, 10)]
    make(tmp_path / "a", content(images, annotations))
    make(tmp_path / "b", content(images[::-1], annotations[::-1], CATEGORIES[::-1]))
    first, second = (table(read_coco(tmp_path / name, zeros=True)) for name in ("a", "b"))
    assert first == second
    alone = table(read_coco(tmp_path / "a", ["person"], zeros=True))
    assert alone == {row: value for row, value in first.items() if row.endswith("#person")}


def test_categories_by_name(tmp_path: Path) -> None:
    annotations = [coco(1, 1), coco(2, 1, HORSE), coco(3, 1, TRAFFIC_LIGHT)]
    validation = content([image(139)], [coco(n, 139, c) for n, c in enumerate((1, 10, 19))])
    make(tmp_path, content([image(1)], annotations), validation)
    source = read_coco(tmp_path, ["traffic light", "horse", "horse"])
    assert table(source) == {"1.jpg#horse": 1, "1.jpg#traffic light": 1}
    with pytest.raises(ConfigError, match=r"unknown category 'hors'; the nearest are horse$"):
        read_coco(tmp_path, ["person", "hors"])
    with pytest.raises(
        ConfigError, match="unknown category 'zzz'; the nearest are person, traffic light, hor"
    ):
        read_coco(tmp_path, ["zzz"])


def test_categories_may_have_other_ids_in_the_other_file(tmp_path: Path) -> None:
    validation = content([image(139)], [coco(1, 139, 2)], [{"id": 2, "name": "person"}])
    make(tmp_path, content([image(1)], [coco(1, 1)]), validation)
    assert table(read_coco(tmp_path), "test") == {"139.jpg#person": 1}


# --- which files ---


def test_rem_is_taken_where_both_are_there_and_named(tmp_path: Path) -> None:
    make(tmp_path / "coco", content([image(1)], [coco(1, 1)]))
    assert read_coco(tmp_path / "coco").notes["annotations"] == "COCO"
    write(tmp_path / "coco_rem" / "instances_trainrem.json", content([image(1)], [rem(1, 1), rem(2, 1)]))
    write(tmp_path / "coco_rem" / "instances_valrem.json", content([image(139)], [rem(1, 139)]))
    for raw in (tmp_path, tmp_path / "coco", tmp_path / "coco_rem"):
        source = read_coco(raw)
        assert table(source) == {"1.jpg#person": 2}
        assert source.images[0].path == tmp_path / "coco" / "train2017" / "000000000001.jpg"
        assert source.notes["annotations"] == "COCO-ReM"
        assert source.notes["train"]["file"] == "coco_rem/instances_trainrem.json"
        assert source.notes["test"]["file"] == "coco_rem/instances_valrem.json"
    plain = read_coco(tmp_path, annotations=tmp_path / "coco" / "annotations")
    assert table(plain) == {"1.jpg#person": 1}


@pytest.mark.parametrize(
    "folder", [".", "annotations", "coco_rem", "coco", "coco/annotations", "../coco_rem"]
)
def test_annotations_are_looked_for_in_the_usual_folders(tmp_path: Path, folder: str) -> None:
    raw = tmp_path / "raw"
    touch(raw / "train2017", 1)
    touch(raw / "val2017", 139)
    write(tmp_path / "raw" / folder / "instances_trainrem.json", content([image(1)], [rem(1, 1)]))
    write(tmp_path / "raw" / folder / "instances_valrem.json", content([image(139)], [rem(1, 139)]))
    assert table(read_coco(raw)) == {"1.jpg#person": 1}
    with pytest.raises(
        DataError, match=r"train2017: no annotations; there must be instances_trainrem\.json and"
    ):
        read_coco(raw, annotations=raw / "train2017")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_coco(raw, annotations=raw / "nowhere")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (
            "annotations/instances_val2017.json",
            "train2017.json: there is no instances_val2017.json to go with",
        ),
        (
            "annotations/instances_train2017.json",
            "val2017.json: there is no instances_train2017.json to go wi",
        ),
        ("train2017", "train2017: no such folder; the images of train2017 go there"),
        ("val2017", "val2017: no such folder; the images of val2017 go there"),
        (
            "annotations",
            "no annotations; there must be instances_trainrem.json and instances_valrem.json, or",
        ),
        (".", "no such folder; it must have train2017 and val2017 in it"),
    ],
)
def test_both_splits_are_needed(tmp_path: Path, gone: str, message: str) -> None:
    raw = make(tmp_path / "raw", content([image(1)], [coco(1, 1)]))
    (raw / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=message):
        read_coco(raw)


def test_half_of_rem_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    make(tmp_path, content([image(1)], [coco(1, 1)]))
    write(tmp_path / "instances_trainrem.json", content([image(1)], [rem(1, 1)]))
    with pytest.raises(DataError, match=r"instances_trainrem\.json: there is no instances_valrem\.json"):
        read_coco(tmp_path)


def test_image_folders_may_be_links(tmp_path: Path) -> None:
    raw = make(tmp_path / "raw", content([image(1)], [coco(1, 1)]))
    (raw / "train2017").rename(tmp_path / "disk2")
    (raw / "train2017").symlink_to(tmp_path / "disk2")
    assert table(read_coco(raw)) == {"1.jpg#person": 1}


# --- file names ---


@pytest.mark.parametrize("prefix", ["train2017/", "coco/train2017/", "images/"])
def test_a_prefix_in_a_file_name_is_passed_over(tmp_path: Path, prefix: str) -> None:
    make(tmp_path, content([image(1, prefix + "000000000001.jpg")], [coco(1, 1)]))
    [row] = [row for row in read_coco(tmp_path).images if row.split == "train"]
    assert (row.name, row.id) == ("000000000001.jpg", "000000000001.jpg#person")
    assert row.path == tmp_path / "train2017" / "000000000001.jpg"


def test_folders_that_are_there_are_kept(tmp_path: Path) -> None:
    make(tmp_path, content([image(1, "a/1.jpg"), image(2, "b/1.jpg")], [coco(1, 1), coco(2, 2), coco(3, 2)]))
    for name in ("a", "b"):
        (tmp_path / "train2017" / name).mkdir()
        (tmp_path / "train2017" / name / "1.jpg").touch()
    assert table(read_coco(tmp_path)) == {"a/1.jpg#person": 1, "b/1.jpg#person": 2}


ESCAPES = ["../val2017/000000000139.jpg", "/etc/passwd", "a/../../x.jpg", "a\0.jpg", "..\\x.jpg", "./a.jpg"]
ESCAPES += ["http://images.cocodataset.org/train2017/1.jpg", "C:/1.jpg", "train2017//1.jpg", "train2017/"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_file_name_can_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path, content([image(1), image(2, name)], [coco(1, 1)]))
    with pytest.raises(DataError, match=r"instances_train2017\.json: image 2: file_name .* must name a file"):
        read_coco(tmp_path)


def test_a_link_can_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    raw = make(tmp_path / "raw", content([image(1), image(2)], [coco(1, 1), coco(2, 2)]), files=1)
    (tmp_path / "secret.jpg").touch()
    (raw / "train2017" / "000000000002.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match=r"image 2: .*link that leads out"):
        read_coco(raw)


def test_an_image_that_is_missing_is_left_out_once(tmp_path: Path) -> None:
    """Image 2 has rows of two categories; image 3 has none, so that nobody misses it."""
    annotations = [coco(1, 1), coco(2, 2), coco(3, 2, HORSE)]
    make(tmp_path, content([image(1), image(2, "train2017/x.jpg"), image(3)], annotations), files=1)
    source = read_coco(tmp_path)
    assert table(source) == {"1.jpg#person": 1}
    assert source.left_out == [LeftOut("x.jpg", "no such image in the folder of train2017")]


def test_a_split_without_a_count_is_an_error(tmp_path: Path) -> None:
    train = content([image(n) for n in (1, 2, 3)], [coco(1, 1), coco(2, 2), coco(3, 3, crowd=1)])
    make(tmp_path, train, files=0)
    with pytest.raises(
        DataError, match="none of its images in train2017 has a count; 2 are missing and 1 pair"
    ):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([image(1), image(2, "000000000001.jpg")], [image(139)]),
        ([image(1), image(2, "train2017/000000000001.jpg")], [image(139)]),
        ([image(1)], [image(139), image(5, "000000000001.jpg")]),
    ],
)
def test_an_image_can_not_be_there_twice(tmp_path: Path, train: list[Any], validation: list[Any]) -> None:
    make(tmp_path, content(train, [coco(1, 1)]), content(validation, [coco(1, 139)]))
    touch(tmp_path / "val2017", 1)
    with pytest.raises(
        DataError, match=r"the name '000000000001.jpg' is that of .*train2017.json: image 1 too"
    ):
        read_coco(tmp_path)


# --- annotations ---


def test_an_id_counts_once_and_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    annotations = [coco(1, 1), coco(1, 1), coco(2, 1), coco(1, 1, HORSE, crowd=1)]
    annotations += [coco(3, 77), coco(4, 77, HORSE), coco(5, 1, 91), coco(6, 78, crowd=1)]
    make(tmp_path, content([image(1)], annotations))
    source = read_coco(tmp_path)
    assert table(source) == {"1.jpg#person": 2}
    file = "instances_train2017.json"
    assert source.left_out == [
        LeftOut(f"{file} annotations 2", "id 1 again; an id counts once"),
        LeftOut(f"{file} annotations 4", "id 1 again; an id counts once"),
        LeftOut(f"{file} image_id 77", "not in the file, and has 2 annotations"),
        LeftOut(f"{file} category_id 91", "not in the file, and has 1 annotation"),
        LeftOut(f"{file} image_id 78", "not in the file, and has 1 annotation"),
    ]


def test_ids_may_be_texts_missing_or_begin_anew_in_each_image(tmp_path: Path) -> None:
    """As tools write them that read no such file."""
    images = [image(1) | {"id": "1"}, image(2) | {"id": 2.0}]
    again = [coco(1, "1"), coco(2, "1"), coco(1, 2.0), coco("1", 2)]
    unnumbered = [without(coco(1, 1), "id"), without(coco(1, 2), "id") | {"iscrowd": None}]
    make(tmp_path, content(images, [*again, *unnumbered]))
    source = read_coco(tmp_path)
    assert table(source) == {"1.jpg#person": 3, "2.jpg#person": 2}
    assert [each.reason for each in source.left_out] == ["id 1 again; an id counts once"]


def test_a_list_that_is_there_twice_counts_once_also_where_ids_begin_anew(tmp_path: Path) -> None:
    """In any order: by image, and by id."""
    once = [coco(1, 1), coco(2, 1), coco(1, 2), coco(2, 2), coco(3, 2)]
    for annotations in ([*once, *once], sorted([*once, *once], key=lambda each: each["id"])):
        make(tmp_path, content([image(1), image(2)], annotations))
        source = read_coco(tmp_path)
        assert table(source) == {"1.jpg#person": 2, "2.jpg#person": 3}
        assert len(source.left_out) == len(once)


def test_a_category_is_the_same_in_any_case_and_with_any_spaces(tmp_path: Path) -> None:

    def both(*names: str) -> Any:
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        return [content([image(number)], [coco(1, number)], categories) for number in (1, 139)]

    make(tmp_path, *both(" Traffic\u00a0Light"))
    for name in ("traffic light", "Traffic Light"):
        assert table(read_coco(tmp_path, [name])) == {"1.jpg#Traffic Light": 1}
    make(tmp_path, *both("Dog", "dog"))
    assert table(read_coco(tmp_path, ["Dog"])) == {"1.jpg#Dog": 1}
    with pytest.raises(ConfigError, match=r"unknown category 'DOG'; the nearest are Dog, dog"):
        read_coco(tmp_path, ["DOG"])


def test_counts_go_to_200_and_no_further(tmp_path: Path) -> None:
    make(tmp_path, content([image(1)], [rem(n, 1) for n in range(200)]))
    assert table(read_coco(tmp_path)) == {"1.jpg#person": 200}
    make(tmp_path, content([image(1)], [rem(n, 1) for n in range(201)]))
    with pytest.raises(
        DataError, match=r"2017.json: 000000000001.jpg#person: value 201 is outside the range"
    ):
        read_coco(tmp_path)


def without(fields: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (content([image(1), 7], []), "images entry 2: must be an object, not 7"),
        (
            content([image(1), without(image(2), "id")], []),
            "images entry 2: no 'id'; the keys there are licen",
        ),
        (content([without(image(1), "file_name")], []), "images entry 1: no 'file_name'"),
        (content([image(1) | {"id": True}], []), "images entry 1: 'id' must be a whole number, not True"),
        (content([image(1) | {"id": 1.5}], []), "images entry 1: 'id' must be a whole number, not 1.5"),
        (content([image(1) | {"id": "1.5"}], []), "images entry 1: 'id' must be a whole number, not 1.5"),
        (content([image(1) | {"file_name": None}], []), "images entry 1: 'file_name' must be a text"),
        (content([image(1) | {"file_name": " "}], []), "images entry 1: 'file_name' must be a text"),
        (content([image(1) | {"file_name": "\ud800.jpg"}], []), r"not JSON, .*ud800 is half of a character"),
        (
            content([image(1) | {"file_name": "a/" * 9999 + "b"}], []),
            "entry 1: 'file_name' must be a text, ne",
        ),
        (content([image(1), image(1, "b.jpg")], []), "images entry 2: id 1 is there twice"),
        (content([], [], [{"id": 1}]), "categories entry 1: no 'name'; the keys there are id"),
        (content([], [], [{"id": 1, "name": "a#b"}]), "categories entry 1: name 'a#b' must be printable and"),
        (content([], [], [{"id": 1, "name": "a\nb"}]), r"categories entry 1: name 'a\\nb' must be printable"),
        (
            content([], [], [*CATEGORIES, {"id": 5, "name": "horse"}]),
            "entry 4: id 5 or name 'horse' is there",
        ),
        (
            content([], [], [*CATEGORIES, {"id": 1, "name": "cat"}]),
            "entry 4: id 1 or name 'cat' is there twi",
        ),
        (content([], [coco(1, 1), [1]]), r"annotations entry 2: must be an object, not \[1\]"),
        (content([], [without(coco(1, 1), "image_id")]), "annotations entry 1: no 'image_id'"),
        (content([], [coco(1, 1) | {"image_id": "x" * 999}]), "entry 1: 'image_id' must be .* not x{80}…$"),
        (content([], [coco(1, 1) | {"category_id": [1]}]), "entry 1: 'category_id' must be a whole number"),
        (content([], [coco(1, 1) | {"iscrowd": 2}]), "annotations entry 1: 'iscrowd' must be 0 or 1, not 2"),
        (without(content([], []), "categories"), "no 'categories'; there must be the lists images, categor"),
        (content([], []) | {"images": {}}, "'images' must be a list"),
        ([], "not JSON, within the first 2 bytes .'{' is missing.; is the download whole"),
    ],
)
def test_every_mistake_is_named_with_its_entry(tmp_path: Path, train: Any, message: str) -> None:
    make(tmp_path, train)
    with pytest.raises(DataError, match=message) as caught:
        read_coco(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'annotations' / 'instances_train2017.json'}: ")


# --- the file, entry by entry ---


def lists(path: Path, text: str | bytes, *names: str) -> list[Any]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(stream_lists(path, dict.fromkeys(names)))


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 20])
def test_a_file_is_read_the_same_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(annotation_files, "PIECE", piece)
    text = ' {"b" : [1, [ ], {"x": "],}\\"ä☃😀"}, -12.5e+3 ,true] ,\r\n"skip": [[1], 0.5, {"a": []}],'
    text += '"n": 12, "a":[]} \n'
    rows = [("b", 1, 1), ("b", 2, []), ("b", 3, {"x": '],}"ä☃😀'}), ("b", 4, -12500.0), ("b", 5, True)]
    assert lists(tmp_path / "a.json", text, "a", "b") == rows
    assert lists(tmp_path / "a.json", b"\xef\xbb\xbf" + text.encode(), "b") == rows
    assert lists(tmp_path / "a.json", "{}") == []


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"not JSON, within the first 0 bytes \(parse error: premature EOF\); is the download whole"),
        ('{"a": [1, 2', r"not JSON, in or after a entry 2, .*premature EOF"),
        ('{"a": [1, {"x": 2', "not JSON, in or after a entry 2, within the first 17 bytes .*premature EOF"),
        ('{"a": [1, "x', "a entry 1, .*premature EOF"),
        ('{"a": [1,]}', "a entry 1, .*unallowed token"),
        ('{"a": [1 2]}', "a entry 1, within the first .* bytes .*after array element"),
        ('{"a": [1]', "a entry 1, .*premature EOF"),
        ('{"a": [1]} {}', "a entry 1, .*trailing garbage"),
        ('{"a": [1], "a": [2]}', "'a' is there twice"),
        ('{"b": [1]}', "no 'a'; there must be the lists a"),
        ('{"a": 1}', "'a' must be a list"),
        ('{"a": {}}', "'a' must be a list"),
        ("{1: []}", "invalid object key .must be a string"),
        ('{"a" [1]}', "object key and value must be separated by a colon"),
        ('{"a": [nul]}', "in or after 'a', .*invalid string in json text"),
        ('{"a": [NaN]}', "in or after 'a', .*invalid char in json text"),
        ('{"a": [' + "[" * 100_000, "recursion|premature EOF"),
        ('{"a": [' + "[" * 100_000 + "]" * 100_000 + "]}", "a entry 1, .*recursion"),
        ('{"b": ' + "9" * 5000 + "}", "integer overflow"),
        (r'{"b": "\ud83d\ude00 \\ud800", "a": ["\ud800."]}', r"not JSON, .*ud800 is half of a character"),
        (r'{"a": ["\udc00"]}', "not JSON, "),
        (b'{"a": ["\xe4"]}', r"not UTF-8 \(invalid"),
        (b'{"a": ["\xe4', r"not UTF-8 \(unexpected end"),
        ('{"a": []}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, text: str | bytes, message: str
) -> None:
    monkeypatch.setattr(annotation_files, "PIECE", piece)
    with pytest.raises(DataError, match=message) as caught:
        lists(tmp_path / "a.json", text, "a")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")


def test_an_entry_without_end_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_files, "PIECE", 10)
    monkeypatch.setattr(annotation_files, "LONGEST_ENTRY", 100)
    assert len(lists(tmp_path / "a.json", json.dumps({"a": ["x" * 90]}), "a")) == 1
    with pytest.raises(DataError, match=r"in or after 'a', .*an entry is longer than 100 bytes"):
        lists(tmp_path / "a.json", json.dumps({"a": ["x" * 500]}), "a")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: can't be read \(No such file"):
        list(stream_lists(tmp_path / "a.json", {"a": None}))


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 MB of masks; `json.load` takes five times the file."""
    monkeypatch.setattr(annotation_files, "PIECE", 1 << 14)
    mask = {"counts": [300] * 400, "size": [4, 6]}
    annotations = [rem(number, 1, HORSE) | {"segmentation": mask} for number in range(150)]
    text = json.dumps(content([image(1)], annotations))
    parts = text.partition('"annotations": [')
    entries = parts[2][: parts[2].index('], "categories"')]
    several = ", ".join(entries.replace('"image_id": 1,', f'"image_id": {n},') for n in range(1, 14))
    make(tmp_path, parts[0] + parts[1] + several + '], "categories": ' + json.dumps(CATEGORIES) + "}")
    file = tmp_path / "annotations" / "instances_train2017.json"
    assert file.stat().st_size > 4_000_000
    tracemalloc.start()
    try:
        source = read_coco(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert table(source) == {"1.jpg#horse": 150}
    assert peak < 1_000_000


# --- further on ---


def test_it_becomes_a_collection(tmp_path: Path) -> None:
    """Image 1 has a person and two horses, the other eleven a person each."""
    annotations = [coco(number, number) for number in range(1, 13)] + [coco(20, 1, HORSE), coco(21, 1, HORSE)]
    raw = make(tmp_path / "raw", content([image(number) for number in range(1, 13)], annotations), files=12)
    for number, file in enumerate(sorted(raw.glob("*2017/*.jpg"))):
        Image.new("RGB", (6, 4), (20 * number, 0, 0)).save(file)
    prepare_collection(read_coco(raw), tmp_path / "out")
    collection = load_collection(tmp_path / "out")
    rows = {row.id.lstrip("0"): row for split in ("train", "validation") for row in collection.split(split)}
    assert {name: (row.value, row.rule) for name, row in rows.items()} == {
        "1.jpg#horse": (2.0, "number of horse"),
        **{f"{number}.jpg#person": (1.0, "number of person") for number in range(1, 13)},
    }
    assert rows["1.jpg#horse"].path.parent == rows["1.jpg#person"].path.parent, "in one split"
    assert [row.id for row in collection.split("test")] == ["000000000139.jpg#person"]
