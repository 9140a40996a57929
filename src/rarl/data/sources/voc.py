"""Folders in the format of Pascal VOC, with an XML file for each image. The value is the number of annotated
objects of some kinds. Boxes are not read, and objects marked difficult or truncated count like the others."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from xml.etree import ElementTree

from rarl.data.listing import ListedFolder
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source, existing_folder
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import Task

LARGEST_FILE = 4_000_000  # bytes of XML: 10,000 objects and more
VOC_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".JPG", ".JPEG", ".PNG")
VOC_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class _Annotated:
    """One XML file: its name without suffix, its image, and the number of its objects of each name."""

    stem: str
    image: str
    path: Path
    objects: Counter[str]


class _UnfitError(Exception):
    """Why an XML file is left out."""


def read_voc(raw: Path, objects: Sequence[str], task: Task | None = None) -> Source:
    """A row for each annotated image, with the number of its objects of the kinds `objects`, which may be 0.

    The image of an XML file is the one with the same name, or else the one that the file names. If
    `ImageSets/Main` or `ImageSets` has lists, they give the splits, and images in none of them are left out.
    `trainval` stands in for `train` or `val` if one of these is missing.

    Args:
        raw: the folder that holds `Annotations` and `JPEGImages`.
        objects: the names to count, such as ["RBC"]; the numbers of several are added up.
        task: the rule and the range; by default "number of RBC", from 0 to the largest number or at least 10.

    Raises:
        DataError: if a folder is missing, an image is a link that leads out of it or is in two splits, or a
            number is outside the range of `task`. A malformed XML file is left out, with the reason.
        ConfigError: if no object has one of the names; it says which names there are, and how often.
    """
    try:
        images = ListedFolder(existing_folder(raw / "JPEGImages", "the images go there, as in Pascal VOC"))
        annotations = existing_folder(raw / "Annotations", "the XML files go there, as in Pascal VOC")
        annotated, left_out = _read_folder(annotations, images)
        place, splits = _splits(raw / "ImageSets")
        stems = {Path(name).stem for name in os.listdir(annotations)}
    except OSError as error:
        raise DataError(f"{error.filename or raw}: can't be read ({error.strerror or error})") from error
    wanted = list(dict.fromkeys(objects))
    _check_objects(wanted, annotated)
    if place is not None:
        strays = [each.image for each in annotated if each.stem not in splits]
        left_out += [LeftOut(image, f"in no list of {place}") for image in strays]
        unknown = [name for name in splits if name not in stems]
        left_out += [LeftOut(name, f"in a list of {place}, and not in Annotations") for name in unknown]
        annotated = [each for each in annotated if each.stem in splits]
    if not annotated:
        raise DataError(f"{annotations}: no image to count in; {_first_annotation_left_out(left_out)}")
    counts = [sum(each.objects[name] for name in wanted) for each in annotated]
    if task is None:
        rule = "number of " + " and ".join(filter(None, (", ".join(wanted[:-1]), wanted[-1])))
        task = Task("count", rule, low=0, high=max(10, *counts), step=1, delta=2, metric="accuracy")
    rows = []
    for each, count in zip(annotated, counts, strict=True):
        value = task.check(count, f"{annotations}: {each.stem}.xml")
        rows.append(Labelled(each.path, each.image, value, each.image, split=splits.get(each.stem)))
    return Source(task, rows, left_out, {"objects": wanted, "splits": place})


def _first_annotation_left_out(left_out: Sequence[LeftOut]) -> str:
    return f"left out: {left_out[0].name}, {left_out[0].reason}" if left_out else "no file ends with .xml"


def _check_objects(wanted: Sequence[str], annotated: Sequence[_Annotated]) -> None:
    known: Counter[str] = Counter()
    for each in annotated:
        known.update(each.objects)
    for name in wanted or [""]:
        if name not in known:
            near = get_close_matches(name, known, n=SHOWN)
            names = [*near, *(other for other, _ in known.most_common() if other not in near)]
            there = ", ".join(f"{name} ({known[name]:,})" for name in names[:SHOWN]) or "none"
            raise ConfigError(f"objects {name!r}: name one or more that are annotated; there are {there}")


def _read_folder(folder: Path, images: ListedFolder) -> tuple[list[_Annotated], list[LeftOut]]:
    """The XML files in the order of their names, and those left out. Each image has at most one."""
    claims: dict[str, list[_Annotated]] = defaultdict(list)
    left_out: list[LeftOut] = []
    files = ListedFolder(folder)
    for name in sorted(name for name in os.listdir(folder) if name.lower().endswith(".xml")):
        try:
            if not name.isprintable():  # also the bytes of a name that is not UTF-8
                raise _UnfitError("its name is not readable; give it another")
            each = _read_file(files.find(name, str(folder)), images)
            claims[each.image].append(each)
        except _UnfitError as error:
            left_out.append(LeftOut(ascii(name)[1:-1], str(error)))
    kept: list[_Annotated] = []
    for image, claimants in claims.items():
        owners = [each for each in claimants if each.stem == Path(image).stem or len(claimants) == 1]
        for each in claimants:
            if owners == [each]:
                kept.append(each)
            else:
                left_out.append(LeftOut(f"{each.stem}.xml", f"{image} is the image of another one too"))
    return kept, left_out


def _read_file(file: Path | None, images: ListedFolder) -> _Annotated:
    if file is None or not file.is_file():  # reading a pipe could go on forever
        raise _UnfitError("no file")
    with open(file, "rb") as stream:
        root = _parse(stream.read(LARGEST_FILE + 1))
    objects: Counter[str] = Counter()
    for number, element in enumerate(root.findall("object"), 1):
        names = [(name.text or "").strip() for name in element.findall("name")]
        if len(names) != 1 or not names[0]:
            raise _UnfitError(f"object {number} must have one name")
        objects[names[0]] += 1
    named = (root.findtext("filename") or "").strip()
    for image in _candidates(file.stem, named):
        try:
            path = images.find(image, str(file))
        except DataError:
            if image in (file.stem + suffix for suffix in VOC_SUFFIXES):
                raise
            continue  # such as "C:\\photos\\1.jpg": the name of a file elsewhere
        if path is not None:
            return _Annotated(file.stem, image, path, objects)
    raise _UnfitError(f"no image {file.stem!a} in {images.path.name}, and none named {named!a}")


def _candidates(stem: str, named: str) -> Iterator[str]:
    """The names that the image may have, the likeliest first. The one in the XML file is often out of
    date."""
    if Path(named).stem == stem:
        yield named
    yield from (stem + suffix for suffix in VOC_SUFFIXES)
    yield named


def _parse(data: bytes) -> ElementTree.Element:
    """The root of an XML text. A document type is refused, since entities in it can grow without end."""
    if len(data) > LARGEST_FILE:
        raise _UnfitError(f"more than {LARGEST_FILE:,} bytes")
    # In UTF-16, each of these characters has a zero beside it. XML allows no other encoding that hides them.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise _UnfitError("has a <!DOCTYPE>, which is refused; remove it")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _UnfitError(f"not XML ({error})") from error
    if root.tag != "annotation":
        raise _UnfitError(f"its root is <{root.tag[:80]}>, not <annotation>")
    return root


def _splits(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The folder of the lists, or None if there are none, and the split of each name in them."""
    for place in (folder / "Main", folder):
        files = {name: place / f"{name}.txt" for name in (*VOC_SPLITS, "trainval")}
        lists = {name: _names(file) for name, file in files.items() if file.is_file()}
        if lists:
            break
    else:
        return None, {}
    both = "train" in lists and "val" in lists
    rest = "train" if both or "train" not in lists else "validation"
    splits: dict[str, str] = {}
    for name in lists:
        if name == "trainval" and both:
            continue
        for each in lists[name]:
            split = splits.setdefault(each, VOC_SPLITS.get(name, rest))
            if split != VOC_SPLITS.get(name, split) or (name == "trainval" and split == "test"):
                raise DataError(f"{files[name]}: {each!r} is in the list of {split} too; remove one of them")
    return place.relative_to(folder.parent).as_posix(), splits


def _names(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8") from error
