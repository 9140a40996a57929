"""The source coco: any annotation files in COCO's format, where tools leave them, and their splits."""

import json
from pathlib import Path
from typing import Any

import pytest

from rarl.data.sources import Source
from rarl.data.sources.coco import read_coco_files
from rarl.errors import ConfigError, DataError

CELLS = [{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}]


def export(file: Path, counts: dict[str, int], categories: list[Any] = CELLS, first: int = 0) -> Path:
    """An annotation file in which each image has so many cells."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(counts, first)]
    annotated = [number for number, count in enumerate(counts.values(), first) for _ in range(count)]
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "bbox": [0, 0, 1, 1]}
        for number, image in enumerate(annotated)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def table(source: Source) -> dict[str, tuple[float, str | None]]:
    return {row.name: (row.value, row.split) for row in source.images}


def test_roboflow_has_a_file_beside_the_images_of_each_split(tmp_path: Path) -> None:
    # Its first category groups the others, and often has the name of one.
    grouped = [{"id": 0, "name": "cell", "supercategory": "none"}, *CELLS]
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        export(tmp_path / part / "_annotations.coco.json", {"a_jpg.rf.1.jpg": count}, grouped)
        touch(tmp_path, f"{part}/a_jpg.rf.1.jpg")
    (tmp_path / "notes.json").write_text("{}")
    source = read_coco_files(tmp_path)
    assert table(source) == {
        "train/a_jpg.rf.1.jpg": (3, "train"),
        "valid/a_jpg.rf.1.jpg": (2, "validation"),
        "test/a_jpg.rf.1.jpg": (1, "test"),
    }
    assert {row.rule for row in source.images} == {"number of cell"}


@pytest.mark.parametrize("places", [("images/default/", "images/"), ("images/", "images/"), ("", "")])
def test_one_file_alone_is_divided_by_seed(tmp_path: Path, places: tuple[str, str]) -> None:
    """As CVAT has it, and beside the file."""
    file = export(tmp_path / "annotations" / "instances_default.json", {"a.jpg": 30, "b.jpg": 2})
    touch(tmp_path, f"{places[0]}a.jpg", f"{places[0]}b.jpg")
    expected = {f"{places[0]}a.jpg": (30, None), f"{places[0]}b.jpg": (2, None)}
    for raw in (tmp_path, file):
        source = read_coco_files(raw)
        assert table(source) == expected
        assert source.task.high == 30
    assert table(read_coco_files(tmp_path, [str(file)])) == expected


def test_cvats_subsets_are_the_splits_and_may_have_the_same_names(tmp_path: Path) -> None:
    for part, count in (("Train", 3), ("Validation", 2)):
        export(tmp_path / "annotations" / f"instances_{part}.json", {"1.jpg": count})
        touch(tmp_path, f"images/{part}/1.jpg")
    assert table(read_coco_files(tmp_path)) == {
        "images/Train/1.jpg": (3, "train"),
        "images/Validation/1.jpg": (2, "validation"),
    }


def test_files_of_no_split_are_divided_by_seed_together(tmp_path: Path) -> None:
    for number in (1, 2):
        export(tmp_path / f"batch{number}.json", {f"{number}.jpg": number})
        touch(tmp_path, f"{number}.jpg")
    (tmp_path / "notes.json").write_text('{"categories": []}')
    source = read_coco_files(tmp_path)
    assert table(source) == {"1.jpg": (1, None), "2.jpg": (2, None)}
    assert [each.name for each in source.left_out] == ["notes.json"]


def test_the_splits_may_be_said(tmp_path: Path) -> None:
    touch(tmp_path, "raw/1.jpg", "raw/2.jpg")
    one, two = (export(tmp_path / f"{n}.json", {f"{n}.jpg": n}) for n in (1, 2))
    given = [f"train={one}", f"test={two}"]
    assert table(read_coco_files(tmp_path / "raw", given)) == {"1.jpg": (1, "train"), "2.jpg": (2, "test")}
    with pytest.raises(DataError, match=r"2\.json: of which split is it\? Name each file, as --annotations"):
        read_coco_files(tmp_path / "raw", [given[0], str(two)])
    with pytest.raises(ConfigError, match="there is no split 'tset'"):
        read_coco_files(tmp_path / "raw", [f"tset={one}"])
    with pytest.raises(DataError, match="is no file; check the path"):
        read_coco_files(tmp_path / "raw", ["nowhere.json"])


def test_names_are_matched_as_everywhere(tmp_path: Path) -> None:
    """Label Studio on Windows, and an uploaded image in another case."""
    export(tmp_path / "result.json", {"images\\3\\a.jpg": 1, "/data/images/3/B.JPG": 2, "gone.jpg": 3})
    touch(tmp_path, "images/3/a.jpg", "images/3/b.jpg")
    source = read_coco_files(tmp_path)
    assert table(source) == {"images/3/a.jpg": (1, None), "images/3/b.jpg": (2, None)}
    assert "names matched loosely" in source.notes
    assert [each.name for each in source.left_out] == ["gone.jpg"]


def test_a_category_with_a_comma_is_named_as_it_is_to_be_given(tmp_path: Path) -> None:
    export(tmp_path / "a.json", {"1.jpg": 1}, [{"id": 1, "name": "cell, red"}])
    touch(tmp_path, "1.jpg")
    with pytest.raises(ConfigError, match='the nearest are "cell, red"'):
        read_coco_files(tmp_path, categories=["cell"])


def test_an_image_in_two_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    for name in ("a", "b"):
        export(tmp_path / f"{name}.json", {"1.jpg": 1})
    with pytest.raises(DataError, match=r"the name '1.jpg' is that of .*a\.json: image 0 too"):
        read_coco_files(tmp_path)


def test_cocos_own_files_have_their_official_splits(tmp_path: Path) -> None:
    for part, name in (("train2017", "1.jpg"), ("val2017", "2.jpg")):
        export(tmp_path / "annotations" / f"instances_{part}.json", {name: 4})
        touch(tmp_path, f"{part}/{name}")
    assert table(read_coco_files(tmp_path)) == {"1.jpg": (4, "train"), "2.jpg": (4, "test")}


def test_a_folder_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file; put the \.json there"):
        read_coco_files(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"a\.json: no 'images'"):
        read_coco_files(tmp_path)
