"""The source utkface: ages from names as they are, malformed ones too; lists with ages of
their own. The files are empty: nothing here opens an image."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rarl.data.sources import Labelled, LeftOut
from rarl.data.sources.utkface import read_utkface
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import AGE

# Every malformed name of the two sets, with what can be read in it.
ALIGNED = {
    "39_1_20170116174525125.jpg.chip.jpg": (39, {}),
    "61_1_20170109142408075.jpg.chip.jpg": (61, {}),
    "61_1_20170109150557335.jpg.chip.jpg": (61, {}),
    "55_0_0_20170116232725357jpg.chip.jpg": (55, {"gender": 0, "race": 0}),
    "24_0_1_20170116220224657 .jpg.chip.jpg": (24, {"gender": 0, "race": 1, "date": "20170116220224657"}),
    "14_0_0_2017011022340900.jpg.chip.jpg": (14, {"gender": 0, "race": 0}),
    "28_1_2_201701161846515488.jpg.chip.jpg": (28, {"gender": 1, "race": 2}),
    "38_0_1_201701162330572788.jpg.chip.jpg": (38, {"gender": 0, "race": 1}),
}
WILD = {
    "part1/61_3_20170109150557335.jpg": (61, {}),
    "part2/53__0_20170116184028385.jpg": (53, {"race": 0, "date": "20170116184028385"}),
    "part3/44_1_4_20170116235150272.pg": (44, {"gender": 1, "race": 4, "date": "20170116235150272"}),
}
DATE = "20170116174525125"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def fill(raw: Path, *names: str) -> Path:
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).touch()
    return raw


def write(raw: Path, name: str, text: str) -> str:
    (raw.parent / name).write_text(text)
    return str(raw.parent / name)


def face(age: int, number: int = 0) -> str:
    return f"{age}_0_1_{int(DATE) + number}.jpg.chip.jpg"


def values(source: Any) -> dict[str, float]:
    return {image.name: image.value for image in source.images}


def test_aligned_faces(raw: Path) -> None:
    fill(raw, "100_1_0_20170112213500903.jpg.chip.jpg", "1_0_4_20161219140623097.jpg.chip.jpg")
    source = read_utkface(raw)
    assert source.task is AGE
    name = "1_0_4_20161219140623097.jpg.chip.jpg"
    columns = {"gender": 0, "race": 4, "date": "20161219140623097"}
    assert source.images[1] == Labelled(raw / name, name, 1.0, name, columns=columns)
    assert source.images[0].value == 100.0
    assert source.left_out == []
    assert source.notes == {"layout": "aligned", "malformed_names": []}


@pytest.mark.parametrize(("names", "layout"), [(ALIGNED, "aligned"), (WILD, "in the wild")])
def test_every_malformed_name_is_read_as_far_as_it_can_be(
    raw: Path, names: dict[str, Any], layout: str
) -> None:
    suffix = ".jpg.chip.jpg" if layout == "aligned" else ".jpg"
    fill(raw, *names, f"7_0_0_{DATE}{suffix}")
    source = read_utkface(raw)
    found = {image.name: (image.value, image.columns) for image in source.images}
    assert found == names | {f"7_0_0_{DATE}{suffix}": (7, {"gender": 0, "race": 0, "date": DATE})}
    assert [image.id for image in source.images] == [image.name for image in source.images]
    assert source.notes == {"layout": layout, "malformed_names": sorted(names)}
    assert source.left_out == []


@pytest.mark.parametrize("folder", ["UTKFace", "crop_part1", "utkface_aligned_cropped/UTKFace"])
def test_the_faces_may_lie_in_folders(raw: Path, folder: str) -> None:
    source = read_utkface(fill(raw, f"{folder}/{face(30)}"))
    assert source.images[0].name == source.images[0].id == f"{folder}/{face(30)}"
    assert source.images[0].path == raw / folder / face(30)


def test_the_folder_itself_may_be_a_link(raw: Path, tmp_path: Path) -> None:
    fill(raw, face(30))
    (tmp_path / "link").symlink_to(raw)
    assert read_utkface(tmp_path / "link").images[0].path == tmp_path / "link" / face(30)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (f"30_2_5_{DATE}.jpg", {"date": DATE}),
        (f"30_01_10_{DATE}.jpg", {"date": DATE}),
        (f"30_-1_x_{DATE}.jpg", {"date": DATE}),
        (f"30_٠_1_{DATE}.jpg", {"race": 1, "date": DATE}),
        ("30_1_3_.jpg", {"gender": 1, "race": 3}),
        ("30_.jpg", {}),
        (f"30_1_3_{DATE}_2.jpg", {}),
        (f"030_1_3_{DATE}", {"gender": 1, "race": 3, "date": DATE}),
    ],
)
def test_columns_are_there_where_they_read_well(raw: Path, name: str, columns: dict[str, Any]) -> None:
    source = read_utkface(fill(raw, name))
    assert (source.images[0].value, source.images[0].columns) == (30, columns)
    assert source.notes["malformed_names"] == [name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("117_0_0_1.jpg", "age 117 is outside the range; age expects 0-116"),
        ("20170116174525125_1.jpg", "age 20170116174525125 is outside the range"),
        ("readme.txt", "no age in front"),
        ("_0_0_1.jpg", "no age in front"),
        ("30.jpg", "no age in front"),
        ("30 _0_0_1.jpg", "no age in front"),
        ("-3_0_0_1.jpg", "no age in front"),
        ("٣_0_0_1.jpg", "no age in front"),
        ("3.5_0_0_1.jpg", "no age in front"),
    ],
)
def test_what_has_no_age_is_left_out(raw: Path, name: str, reason: str) -> None:
    source = read_utkface(fill(raw, "0_0_0_1.jpg", "116_0_0_1.jpg", f"sub/{name}"))
    assert values(source) == {"0_0_0_1.jpg": 0, "116_0_0_1.jpg": 116}
    assert [each.name for each in source.left_out] == [f"sub/{name}"]
    assert source.left_out[0].reason.startswith(reason)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_is_not_utf_8_is_left_out_in_letters_that_can_be_written(raw: Path) -> None:
    fill(raw, face(30))
    (raw / os.fsdecode(b"31_\xff.jpg")).touch()
    source = read_utkface(raw)
    assert [each.name for each in source.left_out] == ["31_\\udcff.jpg"]


def test_hidden_files_and_folders_are_ignored(raw: Path) -> None:
    hidden = (".DS_Store", f"__MACOSX/._{face(30)}", f".cache/{face(31)}")
    source = read_utkface(fill(raw, face(32), *hidden))
    assert values(source) == {face(32): 32}
    assert source.left_out == []
    assert source.notes["left out as no photos"] == {"__MACOSX": 1, ".DS_Store": 1, ".*": 1}


def test_what_systems_leave_is_no_face(raw: Path) -> None:
    source = read_utkface(fill(raw, face(32), f"__MACOSX/{face(30)}", f"@eaDir/{face(31)}/{face(33)}"))
    assert (values(source), source.left_out) == ({face(32): 32}, [])
    assert source.notes["left out as no photos"] == {"__MACOSX": 1, "@eaDir": 1}


def test_a_face_in_several_folders_counts_once(raw: Path) -> None:
    deep, other = f"all/UTKFace/{face(30)}", f"crop_part1/{face(30)}"
    source = read_utkface(fill(raw, deep, other, f"UTKFace/{face(30)}", f"crop_part1/{face(31)}"))
    assert list(values(source)) == [f"UTKFace/{face(30)}", f"crop_part1/{face(31)}"]
    reason = f"the same file name as UTKFace/{face(30)}"
    assert source.left_out == [LeftOut(other, reason), LeftOut(deep, reason)]


def test_both_versions_of_a_face_are_refused(raw: Path) -> None:
    fill(raw, f"UTKFace/{face(30)}", f"part1/{face(30).removesuffix('.chip.jpg')}", "part1/1_0_0_1.jpg")
    with pytest.raises(DataError, match=r"are one face, aligned and in the wild; give a folder"):
        read_utkface(raw)
    (raw / f"UTKFace/{face(30)}").unlink()
    fill(raw, f"UTKFace/{face(31)}")
    assert read_utkface(raw).notes["layout"] == "aligned (1) and in the wild (2)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, r"raw: no file is named as in UTKFace, .*; the first other file: there are none"),
        ("a.jpg", r"raw: no file is named as in UTKFace, .*: 'a\.jpg': no age in front"),
    ],
)
def test_a_folder_without_faces_is_named(raw: Path, name: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_utkface(fill(raw, *([name] if name else [])))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: no such folder; it must have the files of UTKFace"):
        read_utkface(tmp_path / "none")


def test_links_within_the_folder_are_fine(raw: Path) -> None:
    fill(raw, f"stored/{face(30)}")
    (raw / face(31)).symlink_to(raw / "stored" / face(30))
    assert read_utkface(raw).images[0].path == raw / face(31)


def test_a_link_to_a_file_elsewhere_is_refused(raw: Path, tmp_path: Path) -> None:
    fill(raw, face(30))
    (tmp_path / "secret").touch()
    (raw / face(31)).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="is a link that leads out of"):
        read_utkface(raw)


def test_links_to_folders_and_to_nothing_are_left_out(raw: Path, tmp_path: Path) -> None:
    fill(raw, face(30))
    fill(tmp_path / "elsewhere", face(31))
    (raw / "UTKFace").symlink_to(tmp_path / "elsewhere")
    (raw / face(32)).symlink_to(raw / "nothing")
    (raw / face(33)).symlink_to(face(33))
    source = read_utkface(raw)
    assert values(source) == {face(30): 30}
    assert [each.name for each in source.left_out] == ["UTKFace", face(32), face(33)]
    assert {each.reason.split(";")[0] for each in source.left_out} == {"a link to a folder, or to nothing"}


def test_ages_leave_the_others_out_one_by_one(raw: Path) -> None:
    source = read_utkface(fill(raw, *map(face, (20, 21, 40, 60, 61))), ages=(21, 60))
    assert sorted(values(source).values()) == [21, 40, 60]
    assert source.left_out == [
        LeftOut(face(20), "age 20 is not within 21-60 (--ages)"),
        LeftOut(face(61), "age 61 is not within 21-60 (--ages)"),
    ]
    assert source.notes["ages"] == [21, 60]
    with pytest.raises(
        DataError, match=r"no face is left; the first that is left out: .* age 20 is not within"
    ):
        read_utkface(raw, ages=(100, 101))


@pytest.mark.parametrize("ages", [(60, 21), (float("nan"), 60), (21, float("nan"))])
def test_ages_must_be_a_range(raw: Path, ages: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must be the least and the greatest age"):
        read_utkface(raw, ages=ages)


def common_split(raw: Path, less: int = 21) -> list[str]:
    """Ages 21, 30 for training and 60 for test, stored minus `less`; and faces in neither."""
    fill(raw, *(f"UTKFace/{face(age)}" for age in (5, 21, 30, 60, 80)))
    train = f",file,age\n0,{face(21)},{21 - less}\n1,{face(30)},{30 - less}\n"
    test = f",file,age\n0,{face(60)},{60 - less}\n"
    return [write(raw, "utk_train.csv", train), write(raw, "utk_test.csv", test)]


def test_the_common_split_with_its_offset(raw: Path) -> None:
    source = read_utkface(raw, common_split(raw), (21, 60))
    assert [(image.name, image.value, image.split) for image in source.images] == [
        (f"UTKFace/{face(21)}", 21, "train"),
        (f"UTKFace/{face(30)}", 30, "train"),
        (f"UTKFace/{face(60)}", 60, "test"),
    ]
    assert source.left_out == [
        LeftOut(f"UTKFace/{face(5)}", "in no list of --split"),
        LeftOut(f"UTKFace/{face(80)}", "in no list of --split"),
    ]
    assert [note["file"] for note in source.notes["split_lists"]] == ["utk_train.csv", "utk_test.csv"]
    assert source.notes["age_offset"] == {"years": 21, "detected": True}
    assert source.notes["ages_other_than_in_names"] == 0


@pytest.mark.parametrize("less", [0, -3])
def test_an_offset_may_be_none_or_negative(raw: Path, less: int) -> None:
    source = read_utkface(raw, common_split(raw, less))
    assert source.notes["age_offset"] == {"years": less, "detected": True}
    assert sorted(values(source).values()) == [21, 30, 60]


def listed(raw: Path, count: int, wrong: int, text: str = "19") -> list[str]:
    """`count` faces of 40 years in a list for test with age 20 and an offset of 20; `wrong` have `text`."""
    fill(raw, *(face(40, number) for number in range(count)))
    rows = "".join(f"{face(40, n)},{text if n < wrong else 20}\n" for n in range(count))
    return [write(raw, "test.csv", "file,Age\n" + rows)]


def test_an_age_of_a_list_stands_in_place_of_the_name_s(raw: Path) -> None:
    source = read_utkface(raw, listed(raw, 200, 2))
    assert [values(source)[face(40, number)] for number in (0, 1, 2, 199)] == [39, 39, 40, 40]
    assert source.notes["age_offset"] == {"years": 20, "detected": True}
    assert source.notes["ages_other_than_in_names"] == 2


def test_an_offset_must_fit_99_of_100_rows(raw: Path) -> None:
    lists = listed(raw, 200, 3)
    with pytest.raises(DataError, match=r"by 20 \(197 times\), 21 \(3 times\); give --age-offset \(0 if"):
        read_utkface(raw, lists)
    source = read_utkface(raw, lists, age_offset=21)
    assert source.notes["age_offset"] == {"years": 21, "detected": False}
    assert source.notes["ages_other_than_in_names"] == 197
    assert values(source)[face(40, 0)] == 40
    assert values(source)[face(40, 199)] == 41
    assert values(read_utkface(raw, lists, age_offset=0))[face(40, 199)] == 20


def test_an_offset_is_whole(raw: Path) -> None:
    lists = listed(raw, 3, 3, "19.5")
    with pytest.raises(DataError, match=r"by 20.5 \(3 times\); give --age-offset"):
        read_utkface(raw, lists)
    assert values(read_utkface(raw, lists, age_offset=20))[face(40)] == 39.5


@pytest.mark.parametrize("text", ["", "old", "nan", "1_9", "1e999"])
def test_an_age_that_is_no_number_is_refused(raw: Path, text: str) -> None:
    with pytest.raises(DataError, match=rf"test\.csv line 2: age '{text}' is not a number"):
        read_utkface(raw, listed(raw, 200, 1, text))


def test_an_age_out_of_range_is_refused(raw: Path) -> None:
    with pytest.raises(DataError, match=r"line 2, age 19 with offset 98: value 117.0 is outside the range"):
        read_utkface(raw, listed(raw, 2, 1), age_offset=98)


def test_a_face_with_two_ages_is_refused(raw: Path) -> None:
    first = listed(raw, 2, 0)
    again = write(raw, "again.csv", f"file,age\n{face(40)},20\n{face(40, 1)},18\n")
    with pytest.raises(DataError, match=r"again\.csv line 3: age 18 of .* is 20 in .*test\.csv line 3"):
        read_utkface(raw, [*first, f"test={again}"])


def test_ages_are_those_of_the_list_before_others_are_left_out(raw: Path) -> None:
    source = read_utkface(raw, listed(raw, 200, 1), ages=(40, 50))
    assert len(source.images) == 199
    assert source.left_out == [LeftOut(face(40, 0), "age 39 is not within 40-50 (--ages)")]


def test_lists_without_ages(raw: Path) -> None:
    fill(raw, face(30), face(40))
    lists = [write(raw, "test.txt", face(40).removesuffix(".chip.jpg"))]
    source = read_utkface(raw, lists)
    assert [(image.value, image.split) for image in source.images] == [(30, "train"), (40, "test")]
    loosely = "names matched loosely, in split lists"
    assert set(source.notes) == {"layout", "malformed_names", "split_lists", loosely}
    assert source.notes[loosely].startswith("1 without the suffix or with another")
    with pytest.raises(ConfigError, match="--age-offset 21: no list of --split has a column age"):
        read_utkface(raw, lists, age_offset=21)
    with pytest.raises(ConfigError, match="--age-offset 0: no list"):
        read_utkface(raw, age_offset=0)


def test_a_list_may_name_the_folder_of_another_copy(raw: Path) -> None:
    fill(raw, f"UTKFace/{face(30)}", f"crop_part1/{face(30)}", f"UTKFace/{face(31)}")
    source = read_utkface(raw, [write(raw, "test.txt", f"crop_part1/{face(30)}\ncrop_part1/{face(32)}")])
    assert [image.split for image in source.images] == ["test", "train"]
    assert [each.reason for each in source.left_out][1:] == [
        "listed, but there is no such file (test.txt line 2)"
    ]


def test_what_is_left_out_already_is_not_missing_too(raw: Path) -> None:
    fill(raw, face(30), "117_0_0_1.jpg")
    source = read_utkface(raw, [write(raw, "test.txt", f"{face(30)}\n117_0_0_1.jpg")])
    assert [each.name for each in source.left_out] == ["117_0_0_1.jpg"]
