"""The traps of the paper's data sets, all at once: raw folders as they lie on disks, through the command line
into collections, and what is said of them is exactly what is wrong with them."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rarl.cli import main
from rarl.data.collection import load_collection


def rarl(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return int(leaving.value.code or 0)


def photo(number: int) -> bytes:
    """A JPEG file of noise in large patches: no two numbers look alike."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((24, 24), Image.Resampling.NEAREST).save(file, format="JPEG", quality=95)
    return file.getvalue()


def again(data: bytes) -> bytes:
    """The same picture, encoded anew."""
    file = BytesIO()
    with Image.open(BytesIO(data)) as image:
        image.save(file, format="JPEG", quality=80)
    return file.getvalue()


def check(capsys: pytest.CaptureFixture[str], folder: Path) -> tuple[int, dict]:
    capsys.readouterr()
    code = rarl("data", "check", folder, "--json")
    return code, json.loads(capsys.readouterr().out)


MALFORMED = {  # name of the file -> the age that can be read
    "39_1_20170116174525125.jpg.chip.jpg": 39,
    "61_1_20170109142408075.jpg.chip.jpg": 61,
    "61_1_20170109150557335.jpg.chip.jpg": 61,
    "55_0_0_20170116232725357jpg.chip.jpg": 55,
    "24_0_1_20170116220224657 .jpg.chip.jpg": 24,
    "14_0_0_2017011022340900.jpg.chip.jpg": 14,
    "28_1_2_201701161846515488.jpg.chip.jpg": 28,
    "38_0_1_201701162330572788.jpg.chip.jpg": 38,
    "53__0_20170116184028385.jpg.chip.jpg": 53,
    "44_1_4_20170116235150272.pg": 44,
}


@pytest.fixture
def utkface(tmp_path: Path) -> Path:
    raw = tmp_path / "UTKFace"
    raw.mkdir()
    for number in range(60):
        name = f"{20 + number % 40}_{number % 2}_0_201701161745{number:05d}.jpg.chip.jpg"
        (raw / name).write_bytes(photo(number))
    for number, name in enumerate(MALFORMED, 100):
        (raw / name).write_bytes(photo(number))
    # One face three times: twice with its age, once with another; and one twice with one age.
    (raw / "20_0_0_20170117000000001.jpg.chip.jpg").write_bytes(photo(0))
    (raw / "70_0_0_20170117000000002.jpg.chip.jpg").write_bytes(photo(0))
    (raw / "21_1_0_20170117000000003.jpg.chip.jpg").write_bytes(photo(1))
    (raw / "30_0_0_20170117000000004.jpg.chip.jpg").write_bytes(photo(200)[:300])  # cut short
    (raw / "117_0_0_20170117000000005.jpg.chip.jpg").write_bytes(photo(201))  # no such age
    (raw / "unknown.jpg.chip.jpg").write_bytes(photo(202))
    return raw


def test_utkface_seeded(utkface: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "faces"
    assert rarl("data", "prepare", "utkface", utkface, out) == 0
    said = capsys.readouterr().out
    assert "byte-identical: 5 files in 2 groups, 1 of them with several values" in said
    collection = load_collection(out)
    rows = {row.id: row.value for rows in collection.splits.values() for row in rows}
    assert len(rows) == 60 + len(MALFORMED) + 3
    assert {name: rows[name] for name in MALFORMED} == MALFORMED
    report = json.loads((out / "preparation.json").read_text())
    assert set(report["notes"]["malformed_names"]) == set(MALFORMED)
    assert {each["name"] for each in report["left_out"]} == {
        "30_0_0_20170117000000004.jpg.chip.jpg",
        "117_0_0_20170117000000005.jpg.chip.jpg",
        "unknown.jpg.chip.jpg",
    }
    # A part of ours never leaks: the same bytes are in one part. The ages of one face still contradict.
    code, found = check(capsys, out)
    assert code == 1
    assert len(found["faults"]) == 1
    assert found["identical"]["leaks"] == []
    [conflict] = found["identical"]["conflicts"]
    assert sorted(each.partition("/")[2] for each in conflict) == [
        "20_0_0_20170116174500000.jpg.chip.jpg (20)",
        "20_0_0_20170117000000001.jpg.chip.jpg (20)",
        "70_0_0_20170117000000002.jpg.chip.jpg (70)",
    ]
    assert len(found["identical"]["harmless"]) == 1

    clean = tmp_path / "clean"
    assert rarl("data", "prepare", "utkface", utkface, clean, "--drop-duplicates") == 0
    assert check(capsys, clean)[0] == 0
    rows = {row.id: row.value for rows in load_collection(clean).splits.values() for row in rows}
    assert len(rows) == 60 + len(MALFORMED) + 3 - 4  # three that contradict, one of two that agree


def test_utkface_by_a_common_list(utkface: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists of ages 21-60 that store the age less 21, and put one face into train and test."""
    names = sorted(path.name for path in utkface.iterdir())
    listed = [name for name in names if name[:2].isdigit() and name[2] == "_" and 21 <= int(name[:2]) <= 60]
    twins = [name for name in listed if (utkface / name).read_bytes() == photo(1)]
    test = [name for name in listed if name not in twins][::4] + twins[:1]
    for part in ("train", "test"):
        rows = [name for name in listed if (name in test) == (part == "test")]
        lines = [f"{number},{name},{int(name[:2]) - 21}" for number, name in enumerate(rows)]
        (tmp_path / f"utk_{part}.csv").write_text("\n".join([",file,age", *lines]) + "\n")
    out = tmp_path / "faces"
    lists = [word for part in ("train", "test") for word in ("--split", tmp_path / f"utk_{part}.csv")]
    assert rarl("data", "prepare", "utkface", utkface, out, *lists, "--ages", "21-60") == 0
    said = capsys.readouterr().out
    assert "1 of test are in another split too" in said
    collection = load_collection(out)
    assert {row.id for row in collection.split("test")} == set(test)
    assert all(row.value == int(row.id[:2]) for rows in collection.splits.values() for row in rows)
    assert collection.split("validation")  # a share of train
    notes = json.loads((out / "preparation.json").read_text())["notes"]
    assert notes["age_offset"] == {"years": 21, "detected": True}
    code, found = check(capsys, out)
    assert code == 1
    [leak] = found["identical"]["leaks"]
    assert sorted(leak) == sorted([f"test/{twins[0]}", f"{_part_of(out, twins[1])}/{twins[1]}"])
    assert found["identical"]["conflicts"] == []
    assert len(found["faults"]) == 1


def _part_of(out: Path, name: str) -> str:
    return next(split for split, rows in load_collection(out).splits.items() if name in {r.id for r in rows})


def test_ava(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "AVA"
    (raw / "images").mkdir(parents=True)
    lines = ["1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396"]
    lines += [f"{n} {1000 + n} 0 0 0 {n} 3 2 0 0 0 {n % 5} 0 0 1" for n in range(2, 42)]
    (raw / "images/953619.jpg").write_bytes(photo(1))
    for n in range(2, 42):
        (raw / f"images/{1000 + n}.jpg").write_bytes(photo(n))
    (raw / "images/1002.jpg").unlink()
    (raw / "images/1003.jpg").write_bytes(photo(3)[:200])
    (raw / "images/1004.jpg").write_bytes(again(photo(5)))  # to the eye it is 1005, of other votes
    (raw / "AVA.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "generic_test.jpgl").write_text("953619\n1005\n1007\n1009\n999999\n")
    out = tmp_path / "ava"
    assert rarl("data", "prepare", "ava", raw, out, "--split", tmp_path / "generic_test.jpgl") == 0
    collection = load_collection(out)
    values = {row.id: row.value for rows in collection.splits.values() for row in rows}
    # (2 + 15 + 68 + 190 + 216 + 105 + 48 + 45 + 10) / 124, all ten columns
    assert values["953619"] == pytest.approx(699 / 124, abs=1e-4)
    assert {row.id for row in collection.split("test")} == {"953619", "1005", "1007", "1009"}
    report = json.loads((out / "preparation.json").read_text())
    assert {each["name"] for each in report["left_out"]} == {"1002.jpg", "1003.jpg", "999999"}
    assert report["notes"]["split_lists"][0]["file"] == "generic_test.jpgl"
    code, found = check(capsys, out)
    assert code == 1
    where = _part_of(out, "1004")
    assert [sorted(group) for group in found["alike"]["leaks"]] == [
        sorted([f"{where}/1004.jpg", "test/1005.jpg"])
    ]
    assert found["identical"] == {"leaks": [], "conflicts": [], "harmless": []}
    assert len(found["faults"]) == 2  # in two parts, and of two values


def test_coco_rem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "coco"
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}]
    for part, name, first, number in (("train2017", "trainrem", 0, 40), ("val2017", "valrem", 100, 10)):
        (raw / part).mkdir(parents=True)
        images, annotations = [], []
        for place in range(first, first + number):
            (raw / part / f"{place:012d}.jpg").write_bytes(photo(place))
            images.append({"id": place, "file_name": f"{place:012d}.jpg", "width": 24, "height": 24})
            wanted = [1] * (1 + place % 5) + [2] * (place % 3)
            for category in wanted:
                annotations.append(
                    {
                        "id": place * 100 + len(annotations),
                        "image_id": place,
                        "category_id": category,
                        "segmentation": {"counts": [3, 2, 571], "size": [24, 24]},
                        "source": "lvis",
                        "source_id": 7,
                    }
                )
        annotations[0]["iscrowd"] = 1  # the only person of the first image
        file = raw / f"instances_{name}.json"
        file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    out = tmp_path / "counts"
    assert rarl("data", "prepare", "coco-rem", raw, out) == 0
    collection = load_collection(out)
    rows = {row.id: row for rows in collection.splits.values() for row in rows}
    assert {row.rule for row in rows.values()} == {"number of person", "number of car"}
    assert rows["000000000007.jpg#person"].value == 3
    assert rows["000000000007.jpg#car"].value == 1
    assert "000000000009.jpg#car" not in rows  # no zeros unless asked for
    assert {row.path.name for row in collection.split("test")} == {
        f"{n:012d}.jpg" for n in range(101, 110)
    } | {"000000000100.jpg"}
    parts = [{row.path.name for row in collection.split(part)} for part in ("train", "validation")]
    assert parts[0].isdisjoint(parts[1])  # an image with two rules is in one part
    report = json.loads((out / "preparation.json").read_text())
    assert {each["name"] for each in report["left_out"]} == {
        "000000000000.jpg#person",
        "000000000100.jpg#person",
    }
    assert check(capsys, out)[0] == 0  # one image with two rules and two values is no fault
