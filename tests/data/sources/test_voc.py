"""Pascal VOC: objects by name, counted by hand; XML from strangers does no harm; splits as the lists say."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers import SHARED_DATA
from rarl.data.sources import Labelled, LeftOut, Source, voc
from rarl.data.sources.voc import read_voc
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import Task

BCCD = SHARED_DATA / "bccd"

# A person of VOC's layout challenge: a head and a hand are no objects of their own.
PARTS = "<part><name>head</name></part><part><object><name>hand</name></object></part>"


def annotation(*names: str, filename: str | None = None, parts: str = "") -> str:
    """As LabelImg writes them."""
    objects = "".join(
        f"<object>\n\t<name>{name}</name><pose>Unspecified</pose><difficult>1</difficult>"
        f"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>{parts}</object>"
        for name in names
    )
    named = "" if filename is None else f"<filename>{filename}</filename>"
    return f"<annotation><folder>x</folder>{named}<source><name>cat</name></source>{objects}</annotation>"


def make(root: Path, files: dict[str, str | bytes], images: tuple[str, ...] | None = None) -> Path:
    """`files` are the XML files by name without suffix; each has a JPEG, unless `images` are named."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for name, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (root / "Annotations" / f"{name}.xml").parent.mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_bytes(data)
    for name in images if images is not None else [f"{name}.jpg" for name in files]:
        (root / "JPEGImages" / name).parent.mkdir(exist_ok=True)
        (root / "JPEGImages" / name).touch()
    return root


def lists(root: Path, folder: str = "ImageSets/Main", **names: str) -> None:
    (root / folder).mkdir(parents=True)
    for name, text in names.items():
        (root / folder / f"{name}.txt").write_text(text)


def table(source: Source) -> dict[str, float]:
    return {row.id: row.value for row in source.images}


def splits(source: Source) -> dict[str, str | None]:
    return {row.name.removesuffix(".jpg"): row.split for row in source.images}


# --- counts ---


def test_objects_are_counted_by_name_also_where_there_are_none(tmp_path: Path) -> None:
    files = {"b": annotation("dog", "cat", "dog"), "a": annotation("cat"), "c": annotation()}
    source = read_voc(make(tmp_path, files), ["dog"])
    paths = tmp_path / "JPEGImages"
    assert list(source.images) == [
        Labelled(paths / "a.jpg", "a.jpg", 0.0, "a.jpg"),
        Labelled(paths / "b.jpg", "b.jpg", 2.0, "b.jpg"),
        Labelled(paths / "c.jpg", "c.jpg", 0.0, "c.jpg"),
    ]
    assert type(source.images[0].value) is float
    assert source.task == Task("count", "number of dog", 0, 10, 1, 2, "accuracy")
    assert source.left_out == []
    assert source.notes == {"objects": ["dog"], "splits": None}


@pytest.mark.parametrize(
    ("objects", "rule", "value"),
    [
        (["cat"], "number of cat", 1),
        (["cat", "dog"], "number of cat and dog", 3),
        (["dog", "cat", "big dog", "dog"], "number of dog, cat and big dog", 4),
    ],
)
def test_several_names_are_added_up(tmp_path: Path, objects: list[str], rule: str, value: int) -> None:
    source = read_voc(make(tmp_path, {"a": annotation("dog", "cat", " big dog\n", "dog", "Dog")}), objects)
    assert table(source) == {"a.jpg": value}
    assert source.task.rule == rule


def test_parts_of_objects_and_other_names_are_no_objects(tmp_path: Path) -> None:
    raw = make(tmp_path, {"a": annotation("person", "head", parts=PARTS)})
    assert table(read_voc(raw, ["head"])) == {"a.jpg": 1}
    with pytest.raises(ConfigError, match="objects 'hand': name one or more that are annotated; there are"):
        read_voc(raw, ["hand"])


@pytest.mark.parametrize(
    ("objects", "there"),
    [
        (["DOC"], r"objects 'DOC': .*; there are cat \(1,001\), dog \(2\)"),
        (["cat", "do"], r"objects 'do': .*; there are dog \(2\), cat \(1,001\)"),
        ([], r"objects '': .*; there are cat \(1,001\), dog \(2\)"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_known_ones(
    tmp_path: Path, objects: list[str], there: str
) -> None:
    make(tmp_path, {"a": annotation(*["cat"] * 1001), "b": annotation("dog", "dog")})
    with pytest.raises(ConfigError, match=there):
        read_voc(tmp_path, objects)


def test_the_range_goes_to_the_largest_number_or_is_the_tasks(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation(*["cat"] * 27), "b": annotation("cat", "dog")})
    assert read_voc(tmp_path, ["cat"]).task.high == 27
    task = Task("cells", "red blood cells", low=0, high=26, step=1, delta=1)
    with pytest.raises(DataError, match=r"Annotations: a\.xml: value 27 is outside the range; cells expects"):
        read_voc(tmp_path, ["cat"], task)
    source = read_voc(tmp_path, ["dog"], task)
    assert source.task is task
    assert table(source) == {"a.jpg": 0, "b.jpg": 1}


# --- images ---


@pytest.mark.parametrize(
    ("images", "named", "found"),
    [
        (("a.jpg",), None, "a.jpg"),
        (("a.jpg", "z.jpg"), "a.jpg", "a.jpg"),
        (("a.JPG",), "a.jpg", "a.JPG"),
        (("a.png",), "a", "a.png"),
        (("a.jpg", "a.png"), "a.png", "a.png"),
        (("z.jpg",), "z.jpg", "z.jpg"),
        (("sub/z.jpg",), "C:\\photos\\z.jpg", "sub/z.jpg"),
        (("sub/z.jpg", "other/z.jpg"), "C:\\photos\\z.jpg", None),
        (("a.jpg", "z.jpg"), "z.jpg", "a.jpg"),
        (("a.jpg",), "../Annotations/a.xml", "a.jpg"),
        (("a.jpg",), "/etc/passwd", "a.jpg"),
        (("a.jpg",), "C:\\photos\\a.jpg", "a.jpg"),
        (("a.jpg",), "https://example.org/a.jpg", "a.jpg"),
        (("a.jpg",), "x" * 5000, "a.jpg"),
        (("a.jpg",), "a/" * 500 + "a.jpg", "a.jpg"),
        (("b.jpg",), "c.jpg", None),
        (("b.jpg",), "../Annotations/a.xml", None),
        ((), "", None),
    ],
)
def test_the_image_is_that_of_the_same_name_or_the_one_named(
    tmp_path: Path, images: tuple[str, ...], named: str | None, found: str | None
) -> None:
    make(tmp_path, {"a": annotation("cat", filename=named), "ok": annotation("cat")}, (*images, "ok.png"))
    source = read_voc(tmp_path, ["cat"])
    assert [row.name for row in source.images] == ([found] if found else []) + ["ok.png"]
    assert all(row.path == tmp_path / "JPEGImages" / row.name for row in source.images)
    assert [entry.name for entry in source.left_out] == ([] if found else ["a.xml"])
    assert all("no image 'a' in JPEGImages, and none named" in entry.reason for entry in source.left_out)


def test_an_image_of_another_split_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    files = {"train/a": annotation("cat"), "val/a": annotation("cat", "cat")}
    files |= {f"train/{stem}": annotation("cat", filename=f"C:\\train\\{stem}.jpg") for stem in ("b", "c")}
    files["val/c"] = annotation()
    raw = make(tmp_path, files, ("train/a.jpg", "val/a.jpg", "val/b.jpg", "val/c.jpg"))
    source = read_voc(raw, ["cat"])
    assert table(source) == {"train/a.jpg": 1, "val/a.jpg": 2, "val/c.jpg": 0}
    assert [entry.name for entry in source.left_out] == ["train/b.xml", "train/c.xml"]


def test_an_image_has_one_xml_file(tmp_path: Path) -> None:
    """1 is the image of 1.xml, although 2.xml names it; whose 9 is, nobody knows."""
    files = {"1": annotation("cat"), "2": annotation("cat", "cat", filename="1.jpg")}
    files |= {name: annotation("cat", filename="9.jpg") for name in ("3", "4")}
    make(tmp_path, files, ("1.jpg", "9.jpg"))
    source = read_voc(tmp_path, ["cat"])
    assert table(source) == {"1.jpg": 1}
    assert source.left_out == [
        LeftOut("2.xml", "1.jpg is the image of another one too"),
        LeftOut("3.xml", "9.jpg is the image of another one too"),
        LeftOut("4.xml", "9.jpg is the image of another one too"),
    ]


@pytest.mark.parametrize("file", ["JPEGImages/b.jpg", "Annotations/b.xml"])
@pytest.mark.parametrize("named", [None, "b.jpg"])
def test_a_link_can_not_lead_out_of_its_folder(tmp_path: Path, file: str, named: str | None) -> None:
    raw = make(tmp_path / "raw", {"a": annotation("cat"), "b": annotation("cat", filename=named)})
    (raw / file).rename(tmp_path / "secret")
    (raw / file).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="link that leads out of"):
        read_voc(raw, ["cat"])


@pytest.mark.parametrize("folder", ["Annotations", "JPEGImages"])
def test_both_folders_are_needed_and_may_be_links(tmp_path: Path, folder: str) -> None:
    raw = make(tmp_path / "raw", {"a": annotation("cat")})
    (raw / folder).rename(tmp_path / "disk2")
    with pytest.raises(DataError, match=f"{folder}: no such folder; the .* go there, as in Pascal VOC"):
        read_voc(raw, ["cat"])
    (raw / folder).symlink_to(tmp_path / "disk2")
    assert table(read_voc(raw, ["cat"])) == {"a.jpg": 1}


def test_nothing_to_count_in_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "a", {})
    with pytest.raises(DataError, match=r"no image to count in; no file ends with \.xml"):
        read_voc(tmp_path / "a", ["cat"])
    make(tmp_path / "lost", {"1": annotation("cat")}, ())
    with pytest.raises(DataError, match=r"no image to count in; left out: 1\.xml, no image '1' in"):
        read_voc(tmp_path / "lost", ["cat"])
    make(tmp_path / "bare", {"1": annotation()})
    with pytest.raises(ConfigError, match="there are none"):
        read_voc(tmp_path / "bare", ["cat"])
    lists(make(tmp_path / "b", {"1": annotation("cat")}), train="2\n")
    with pytest.raises(
        DataError, match=r"no image to count in; left out: 1\.jpg, in no list of ImageSets/Main"
    ):
        read_voc(tmp_path / "b", ["cat"])


# --- hostile and broken XML ---

LAUGHS = '<!DOCTYPE annotation [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)
)
BILLION = LAUGHS + "]><annotation><object><name>&a11;</name></object></annotation>"
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'
REFUSED = "has a <!DOCTYPE>, which is refused; remove it"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BILLION, REFUSED),
        (BILLION.encode("utf-16"), REFUSED),
        (BILLION.encode("utf-16-be"), REFUSED),
        ('<?xml version="1.0" encoding="utf-16"?>'.encode("utf-16") + BILLION.encode("utf-16-le"), REFUSED),
        (b"\xef\xbb\xbf" + BILLION.encode(), REFUSED),
        (f'<?xml version="1.0" encoding="latin-1"?>{BILLION}', REFUSED),
        (OUTSIDE, REFUSED),
        ("<!DOCTYPE annotation><annotation/>", REFUSED),
        ('<!doctype annotation [<!ENTITY a "b">]><annotation/>', "not XML ("),
        (b'<?xml version="1.0" encoding="cp037"?>' + BILLION.encode("cp037"), "not XML ("),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "not XML ("),
        (b'<?xml version="1.0" encoding="gbk"?><annotation/>', "not XML ("),
        (b'<?xml version="1.0" encoding="hex"?><annotation/>', "not XML ("),
        (b'<?xml version="1.0" encoding="no such"?><annotation/>', "not XML ("),
        ("<annotation>&lol;</annotation>", "not XML (undefined entity"),
        (annotation("cat")[:-5], "not XML ("),
        ("", "not XML (no element found"),
        (b"\0" * 100, "not XML ("),
        (b"\xff\xd8\xff\xe0", "not XML ("),
        ("<annotation>\ud800</annotation>".encode("utf-8", "surrogatepass"), "not XML ("),
        ("<annotation>&#0;</annotation>", "not XML ("),
        ("<html></html>", "its root is <html>, not <annotation>"),
        ("<annotation><object><pose>x</pose></object></annotation>", "object 1 must have one name"),
        (annotation("cat", " "), "object 2 must have one name"),
        ("<annotation><object><name>a</name><name>b</name></object></annotation>", "object 1 must have one"),
        (annotation("cat") + " " * 4_000_000, "more than 4,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_annotation_is_left_out(tmp_path: Path, text: str | bytes, reason: str) -> None:
    make(tmp_path, {"bad": text, "ok": annotation("cat", filename="ok.jpg")})
    source = read_voc(tmp_path, ["cat"])
    assert table(source) == {"ok.jpg": 1}
    [entry] = source.left_out
    assert entry.name == "bad.xml"
    assert entry.reason.startswith(reason)


def test_other_encodings_are_read(tmp_path: Path) -> None:
    text = annotation("chien à poil")
    files: dict[str, Any] = {"a": text.encode("utf-16"), "b": b"\xef\xbb\xbf" + text.encode()}
    files["c"] = b'<?xml version="1.0" encoding="ISO-8859-1"?>' + text.encode("latin-1")
    assert table(read_voc(make(tmp_path, files), ["chien à poil"])) == {"a.jpg": 1, "b.jpg": 1, "c.jpg": 1}


def test_a_file_just_small_enough_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"a": annotation("cat"), "b": annotation("cat") + " "})
    monkeypatch.setattr(voc, "LARGEST_FILE", len(annotation("cat")))
    assert table(read_voc(tmp_path, ["cat"])) == {"a.jpg": 1}


def test_a_million_elements_in_each_other_do_no_harm(tmp_path: Path) -> None:
    deep = "<annotation>" + "<a>" * 500_000 + "</a>" * 500_000 + "</annotation>"
    make(tmp_path, {"a": annotation("cat"), "b": deep})
    assert table(read_voc(tmp_path, ["cat"])) == {"a.jpg": 1, "b.jpg": 0}


def test_what_is_no_file_or_has_no_readable_name_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation("cat")})
    os.mkfifo(tmp_path / "Annotations" / "pipe.xml")
    (tmp_path / "Annotations" / "folder.xml").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/Annotations/caf\xe9.xml")).write_text(annotation("cat"))
    (tmp_path / "Annotations" / "notes.txt").touch()
    source = read_voc(tmp_path, ["cat"])
    assert table(source) == {"a.jpg": 1}
    assert source.left_out == [
        LeftOut("caf\\udce9.xml", "its name is not readable; give it another"),
        LeftOut("pipe.xml", "no file"),
    ]


# --- splits ---

FIVE = {name: annotation("cat") for name in "abcde"}


@pytest.mark.parametrize("folder", ["ImageSets/Main", "ImageSets"])
def test_splits_are_those_of_the_lists(tmp_path: Path, folder: str) -> None:
    make(tmp_path, FIVE | {"broken": "<"})
    lists(tmp_path, folder, train="\ufeffa\n", val="  c \r\n\n", test="d\nbroken\nz\n", trainval="a\nc\ne\n")
    lists(tmp_path, "ImageSets/Layout", train="e\n")
    source = read_voc(tmp_path, ["cat"])
    assert splits(source) == {"a": "train", "c": "validation", "d": "test"}
    assert source.notes["splits"] == folder
    assert [entry.name for entry in source.left_out] == ["broken.xml", "b.jpg", "e.jpg", "z"]
    assert [entry.reason for entry in source.left_out[1:]] == [
        f"in no list of {folder}",
        f"in no list of {folder}",
        f"in a list of {folder}, and not in Annotations",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"trainval": "a b", "test": "c"}, {"a": "train", "b": "train", "c": "test"}),
        ({"trainval": "a b", "train": "a"}, {"a": "train", "b": "validation"}),
        ({"trainval": "a b", "val": "a", "test": "c"}, {"a": "validation", "b": "train", "c": "test"}),
        ({"train": "a", "val": "b", "trainval": "c d"}, {"a": "train", "b": "validation"}),
        ({"train": "a b", "test": "c"}, {"a": "train", "b": "train", "c": "test"}),
        ({"person_train": "a", "aeroplane_test": "b"}, dict.fromkeys("abcde")),
        ({}, dict.fromkeys("abcde")),
    ],
)
def test_trainval_stands_in_for_a_list_that_is_not_there(
    tmp_path: Path, names: dict[str, str], expected: dict[str, str | None]
) -> None:
    lists(make(tmp_path, FIVE), **{name: text.replace(" ", "\n") for name, text in names.items()})
    assert splits(read_voc(tmp_path, ["cat"])) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"train": "a", "test": "a"}, r"test\.txt: 'a' is in the list of train too; remove one of them"),
        ({"train": "a", "val": "a"}, r"val\.txt: 'a' is in the list of train too"),
        ({"val": "a", "test": "b\na"}, r"test\.txt: 'a' is in the list of validation too"),
        ({"trainval": "a", "test": "a"}, r"trainval\.txt: 'a' is in the list of test too"),
    ],
)
def test_an_image_has_one_split(tmp_path: Path, names: dict[str, str], message: str) -> None:
    lists(make(tmp_path, FIVE), **names)
    with pytest.raises(DataError, match=message):
        read_voc(tmp_path, ["cat"])


def test_a_list_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    lists(make(tmp_path, FIVE), train="a")
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"test\.txt: not UTF-8 \(.*\); save it as UTF-8"):
        read_voc(tmp_path, ["cat"])


# --- real ones ---


@pytest.mark.skipif(not BCCD.is_dir(), reason="shared/data/bccd is not there")
def test_blood_cells() -> None:
    for objects, total, high, largest in (("RBC", 4155, 27, 27), ("Platelets", 361, 10, 6)):
        source = read_voc(BCCD, [objects])
        values = [row.value for row in source.images]
        assert (len(values), sum(values), min(values), max(values)) == (364, total, 0, largest)
        assert source.task.high == high
        assert source.left_out == []
        assert Counter(row.split for row in source.images) == {"train": 205, "validation": 87, "test": 72}
        assert table(source)["BloodImage_00000.jpg"] == (
            (BCCD / "Annotations" / "BloodImage_00000.xml").read_text().count(f"<name>{objects}</name>")
        )


# --- other folders than Pascal's ---


def place(root: Path, *stems: str, images: str = "{}.jpg", names: int = 1) -> Path:
    """An XML file and its image for each stem; `images` says where the image is."""
    for stem in stems:
        for file in (root / f"{stem}.xml", root / images.format(stem.replace("annotations/", "images/"))):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        (root / f"{stem}.xml").write_text(annotation(*["cat"] * names))
    return root


def test_xml_files_beside_their_images_and_folders_as_splits(tmp_path: Path) -> None:
    """The same name in each split is another image."""
    source = read_voc(place(tmp_path, "train/a", "valid/a", "test/a"), ["cat"])
    assert table(source) == {"test/a.jpg": 1, "train/a.jpg": 1, "valid/a.jpg": 1}
    assert splits(source) == {"test/a": "test", "train/a": "train", "valid/a": "validation"}
    place(tmp_path, "more/b")  # where some are in no split, chance divides all
    assert set(splits(read_voc(tmp_path, ["cat"])).values()) == {None}


def test_images_and_xml_files_in_two_folders_of_any_name(tmp_path: Path) -> None:
    place(tmp_path, "annotations/x/a", "annotations/y/a", images="{}.PNG")
    (tmp_path / "images" / "c.jpg").touch()
    source = read_voc(tmp_path, ["cat"])
    assert table(source) == {"images/x/a.PNG": 1, "images/y/a.PNG": 1}
    assert source.notes["images without an XML file"] == 1


def test_sub_folders_of_pascals_folders_with_lists(tmp_path: Path) -> None:
    """As CVAT writes them, and in a folder that was packed with its name."""
    root = tmp_path / "VOC2012"
    for stem in ("s/a", "t/a", "t/b"):
        place(root, f"Annotations/{stem}", images=f"JPEGImages/{stem}.jpg")
    lists(root, train="s/a\n", test="t/a\nb\n")
    source = read_voc(tmp_path, ["cat"])
    assert splits(source) == {"s/a": "train", "t/a": "test", "t/b": "test"}


def test_an_object_is_the_same_in_any_case_spaces_and_normal_form(tmp_path: Path) -> None:
    names = {"a": ("Gro\u0308\u00dfe", "red\u00a0cell"), "b": ("red cell", "Egg", "egg")}
    raw = make(tmp_path, {stem: annotation(*each) for stem, each in names.items()})
    assert table(read_voc(raw, ["gr\u00f6\u00dfe"])) == {"a.jpg": 1, "b.jpg": 0}
    source = read_voc(raw, ["Red  Cell"])
    assert (table(source), source.task.rule) == ({"a.jpg": 1, "b.jpg": 1}, "number of red cell")
    assert table(read_voc(raw, ["egg"])) == {"a.jpg": 0, "b.jpg": 1}
    with pytest.raises(ConfigError, match="objects 'EGG': name one or more"):
        read_voc(raw, ["EGG"])
