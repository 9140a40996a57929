"""Folders in the format of Pascal VOC, with an XML file for each image. The value is the number of annotated
objects of some kinds. Boxes are not read, and objects marked difficult or truncated count like the others."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rarl.data import SPLIT_NAMES
from rarl.data.listing import ListedFolder, walk_files
from rarl.data.names import match_names, spelling, words_like
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.xml_text import UnfitXmlError, xml_root
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import Task

LARGEST_FILE = 4_000_000  # bytes of XML: 10,000 objects and more
VOC_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")
KIND_FOLDERS = {
    *("annotations", "annotation", "xml", "xmls", "labels", "label", "ann"),
    *("jpegimages", "images", "image", "imgs", "img"),
}
VOC_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class _Annotated:
    """One XML file: its name without suffix, its image, and the number of its objects of each name."""

    stem: str
    image: str
    path: Path
    objects: Counter[str]


def read_voc(raw: Path, objects: Sequence[str], task: Task | None = None) -> Source:
    """A row for each annotated image, with the number of its objects of the kinds `objects`, which may be 0.

    The image of an XML file is the one with the same name, or else the one that the file names. If
    `ImageSets/Main` or `ImageSets` has lists, they give the splits, and images in none of them are left out.
    `trainval` stands in for `train` or `val` if one of these is missing.

    Args:
        raw: the folder that holds `Annotations` and `JPEGImages`, both with sub-folders or without; or one
            that holds XML files and images in any folders, beside each other or in `annotations` and
            `images`. There, folders called train, valid and test are the splits.
        objects: the names to count, such as ["RBC"]; the numbers of several are added up.
        task: the rule and the range; by default "number of RBC", from 0 to the largest number or at least 10.

    Raises:
        DataError: if a folder is missing, an image is a link that leads out of it or is in two splits, or a
            number is outside the range of `task`. A malformed XML file is left out, with the reason.
        ConfigError: if no object has one of the names; it says which names there are, and how often.
    """
    try:
        layout = _layout(existing_folder(raw, "the folder of the images and XML files is needed"))
        annotations = layout.annotations
        annotated, left_out, unannotated = _read_folder(layout)
        place, splits = _splits(layout.root / "ImageSets") if layout.is_pascal else (None, {})
    except OSError as error:
        raise DataError(f"{error.filename or raw}: can't be read ({error.strerror or error})") from error
    stems = {each.stem for each in annotated} | {each.name.removesuffix(".xml") for each in left_out}
    if place is None:
        splits = _folder_splits(annotated)
    else:
        ends = match_names(splits, stems)
        splits = {ends.found.get(name, name): split for name, split in splits.items()}
    if not annotated:
        raise DataError(f"{annotations}: no image to count in; {_first_annotation_left_out(left_out)}")
    wanted = _known_objects(list(dict.fromkeys(objects)), annotated)
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
    notes: dict[str, Any] = {"objects": wanted, "splits": place or ("folders" if splits else None)}
    if unannotated:
        notes["images without an XML file"] = unannotated
    return Source(task, rows, left_out, notes)


@dataclass(frozen=True)
class _Layout:
    """Where the files are: `annotations` and `images` are folders in `root`, or `root` itself."""

    root: Path
    annotations: Path
    images: Path

    @property
    def is_pascal(self) -> bool:
        return self.annotations != self.root


def _layout(raw: Path) -> _Layout:
    """Pascal VOC's two folders in `raw`, or in its one sub-folder that has them, such as `VOC2012`; otherwise
    the XML files and the images are anywhere in `raw`.

    Raises:
        DataError: if only one of the two folders is there, and no XML file is beside an image.
    """
    for root in (raw, *sorted(raw.glob("*")), *sorted(raw.glob("*/*"))):
        here = [(root / name).is_dir() for name in ("Annotations", "JPEGImages")]
        if all(here):
            others = [each for each in raw.glob("**/JPEGImages") if each.parent != root]
            return (
                _Layout(raw, raw, raw) if others else _Layout(root, root / "Annotations", root / "JPEGImages")
            )
    for name, what in (("JPEGImages", "images"), ("Annotations", "XML files")):
        if not (raw / name).is_dir() and not any(
            each.lower().endswith(VOC_SUFFIXES if what == "images" else ".xml")
            for each in walk_files(raw).files
        ):
            existing_folder(raw / name, f"the {what} go there, as in Pascal VOC, or beside each other")
    return _Layout(raw, raw, raw)


def _folder_splits(annotated: Sequence[_Annotated]) -> dict[str, str]:
    """The split of each XML file if the folders say it for all of them, such as `export/valid/a.xml`."""
    splits: dict[str, str] = {}
    for each in annotated:
        words = [word.lower() for word in each.stem.split("/")[:-1] if word.lower() in SPLIT_NAMES]
        if not words:
            return {}
        splits[each.stem] = SPLIT_NAMES[words[0]]
    return splits if len(set(splits.values())) > 1 else {}


def _first_annotation_left_out(left_out: Sequence[LeftOut]) -> str:
    return f"left out: {left_out[0].name}, {left_out[0].reason}" if left_out else "no file ends with .xml"


def _known_objects(wanted: Sequence[str], annotated: Sequence[_Annotated]) -> list[str]:
    """The names as they are annotated."""
    known: Counter[str] = Counter()
    for each in annotated:
        known.update(each.objects)
    found: list[str] = []
    for name in wanted or [""]:
        meant = words_like(name, known)
        found += meant
        if len(meant) != 1:
            near = get_close_matches(name, known, n=SHOWN)
            names = [*near, *(other for other, _ in known.most_common() if other not in near)]
            there = ", ".join(f"{name} ({known[name]:,})" for name in names[:SHOWN]) or "none"
            raise ConfigError(f"objects {name!r}: name one or more that are annotated; there are {there}")
    return list(dict.fromkeys(found))


def _read_folder(layout: _Layout) -> tuple[list[_Annotated], list[LeftOut], int]:
    """The XML files in the order of their names, and those left out. Each image has at most one. The number
    is that of the images without an XML file."""
    claims: dict[str, list[_Annotated]] = defaultdict(list)
    files = ListedFolder(layout.annotations)
    walked = walk_files(layout.annotations)
    left_out = [
        LeftOut(name, "its name is not readable; give it another")
        for name in walked.unreadable
        if name.lower().endswith(".xml")
    ]
    finder = _ImageFinder(layout)
    for name in walked.files:
        if not name.lower().endswith(".xml"):
            continue
        try:
            each = _read_file(name, files.find(name, str(layout.annotations)), finder)
            claims[each.image].append(each)
        except UnfitXmlError as error:
            left_out.append(LeftOut(name, str(error)))
    kept: list[_Annotated] = []
    for image, claimants in claims.items():
        owners = [
            each for each in claimants if Path(each.stem).name == Path(image).stem or len(claimants) == 1
        ]
        for each in claimants:
            if owners == [each]:
                kept.append(each)
            else:
                left_out.append(LeftOut(f"{each.stem}.xml", f"{image} is the image of another one too"))
    return kept, left_out, len(finder.names) - len(claims)


def _read_file(name: str, file: Path | None, finder: "_ImageFinder") -> _Annotated:
    if file is None or not file.is_file():  # reading a pipe could go on forever
        raise UnfitXmlError("no file")
    with open(file, "rb") as stream:
        data = stream.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise UnfitXmlError(f"more than {LARGEST_FILE:,} bytes")
    root = xml_root(data, "annotation")
    objects: Counter[str] = Counter()
    for number, element in enumerate(root.findall("object"), 1):
        names = [(named.text or "").strip() for named in element.findall("name")]
        if len(names) != 1 or not names[0]:
            raise UnfitXmlError(f"object {number} must have one name")
        objects[spelling(names[0])] += 1
    stem = name[: -len(".xml")]
    named = (root.findtext("filename") or "").strip()
    image = finder.find(stem, named)
    path = None if image is None else finder.images.find(image, str(file))
    if image is None or path is None:
        raise UnfitXmlError(
            f"no image {Path(stem).name!a} in {finder.images.path.name}, and none named {named!a}"
        )
    return _Annotated(stem, image, path, objects)


class _ImageFinder:
    """The image of an XML file: of the same name in the same folder, or in the one that takes its place, as
    `images/train` does for `annotations/train`; or else the one that the file names. Where several have the
    same name but for the suffix, the file says which. The name in an XML file is often out of date."""

    def __init__(self, layout: _Layout) -> None:
        self.images = ListedFolder(layout.images)
        walked = walk_files(layout.images).files
        self.names = [name for name in walked if os.path.splitext(name)[1].lower() in VOC_SUFFIXES]
        self._there = set(self.names)
        self._of_key: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._of_key[_key(os.path.splitext(name)[0])].append(name)
        self._sub_folders = set(map(_folder, self._of_key)) - {""}

    def find(self, stem: str, named: str) -> str | None:
        """The name of the image, in the folder of the images."""
        inside = _folder(stem)
        if Path(named).stem == Path(stem).name and (beside := _joined(inside, named)) in self._there:
            return beside
        same = self._of_key[_key(stem)]
        if same:
            same = [name for name in same if Path(name).name == named] or sorted(
                same, key=lambda name: (_folder(name) != inside, VOC_SUFFIXES.index(_suffix(name)))
            )
            return same[0]
        if not named:
            return None
        beside = _joined(inside, named)
        if beside in self._there:
            return beside
        # Some write a whole path, of their own machine. If the XML file is in a sub-folder that has images,
        # one of this name in another is another image, such as that of another split.
        last = named.replace("\\", "/").rpartition("/")[2]
        tried = [named] if _folder(_key(stem)) in self._sub_folders else [named, last]
        found = match_names(tried, self.names, shared=True).found
        return found.get(named, found.get(last))


def _key(stem: str) -> str:
    """A path without the folders that say only what kind of file is in them."""
    *folders, last = spelling(stem).split("/")
    return "/".join([*(each for each in folders if each.lower() not in KIND_FOLDERS), last])


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


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
