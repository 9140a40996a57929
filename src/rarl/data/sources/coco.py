"""COCO 2017 and COCO-ReM as the paper's counting task: how many objects of a category are in an image.
Training images come from train2017, test images from val2017. What an annotation file says is read by
`coco_annotations`; no image is opened here."""

import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rarl.data.listing import ListedFolder
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.coco_annotations import Annotations, Pair, read_annotations
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import COUNT

KINDS = {
    "COCO-ReM": {"train": "instances_trainrem.json", "test": "instances_valrem.json"},
    "COCO": {"train": "instances_train2017.json", "test": "instances_val2017.json"},
}

IMAGES = {"train": "train2017", "test": "val2017"}

ANNOTATION_FOLDERS = (".", "annotations", "coco_rem", "coco", "coco/annotations", "../coco_rem")

IMAGE_FOLDERS = (".", "coco", "images", "../coco")


@dataclass(frozen=True)
class _SplitFiles:
    """The annotations of a split and their images: the name in the folder and the file of each image id. The
    file is None if it is missing."""

    name: str
    annotations: Annotations
    images: dict[int, tuple[str, Path | None]]

    def category(self, pair: Pair) -> str:
        return self.annotations.categories[pair[1]]

    def row(self, pair: Pair, value: int) -> Labelled | None:
        """The row of a pair; None if the image is missing."""
        name, path = self.images[pair[0]]
        category = self.category(pair)
        row_id = f"{name}#{category}"
        number = COUNT.check(value, f"{self.annotations.file}: {row_id}")
        if path is None:
            return None
        return Labelled(path, name, number, row_id, f"number of {category}", self.name)


def read_coco(
    raw: Path,
    categories: Sequence[str] = (),
    zeros: bool = False,
    crowds: bool = False,
    annotations: Path | None = None,
) -> Source:
    """A row for each image and each category in it: how many there are, with the rule "number of {category}".

    Args:
        raw: the folder that has `train2017` and `val2017` in it, or `coco` and `coco_rem`.
        categories: by name; all of them if empty.
        zeros: also rows of the value 0, from images in which the category isn't annotated at all. Each
            category gets as many in each split as it has rows of its most common count, drawn with a fixed
            seed.
        crowds: also the pairs of image and category that have a crowd annotation. It stands for many objects
            and is not counted, so that these values are too low. A pair with nothing but a crowd stays left
            out.
        annotations: the folder of the annotation files, if they are neither in `raw` nor beside it.

    Raises:
        DataError: if a file or folder is missing or malformed, a file name leads out of its folder or occurs
            twice, or a count is above the task's range.
        ConfigError: if there is no such category; it names the nearest.
    """
    try:
        kind, files = annotation_files(raw, annotations)
        folders = {split: image_folder(raw, name) for split, name in IMAGES.items()}
        splits = [_split_files(split, read_annotations(files[split]), folders[split]) for split in files]
    except OSError as error:
        raise DataError(f"{error.filename or raw}: can't be read ({error.strerror or error})") from error
    _check_names(splits)
    chosen = _chosen(categories, splits)
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    notes: dict[str, Any] = {"annotations": kind, "crowd pairs kept": crowds}
    for split in splits:
        found, lost = _counted(split, chosen, crowds)
        drawn = _zeros(split, found) if zeros else []
        rows += sorted(found + drawn, key=lambda row: row.id)
        left_out += [*split.annotations.left_out, *lost]
        notes[split.name] = {
            "file": "/".join(split.annotations.file.parts[-2:]),
            "images": "/".join(folders[split.name].path.parts[-2:]),
            "pairs": len(found),
            "crowd pairs": sum(split.category(pair) in chosen for pair in split.annotations.crowds),
            "zeros": len(drawn),
        }
    return Source(COUNT, rows, left_out, notes)


def _split_files(split: str, annotations: Annotations, folder: ListedFolder) -> _SplitFiles:
    images: dict[int, tuple[str, Path | None]] = {}
    for image, file_name in annotations.images.items():
        where = f"{annotations.file}: image {image}"
        name, path = file_name, folder.find(file_name, where)
        while path is None and "/" in name:  # such as "train2017/000000000009.jpg"
            name = name.partition("/")[2]
            path = folder.find(name, where)
        images[image] = (name, path)
    return _SplitFiles(split, annotations, images)


def _check_names(splits: Iterable[_SplitFiles]) -> None:
    """Refuses a file name that occurs twice: the image would be in train and test, or have two counts for one
    rule."""
    places: dict[str, str] = {}
    for split in splits:
        for image, (name, _) in split.images.items():
            where = f"{split.annotations.file}: image {image}"
            if places.setdefault(name, where) != where:
                raise DataError(f"{where}: the name {name!r} is that of {places[name]} too; keep one of them")


def _chosen(categories: Sequence[str], splits: Iterable[_SplitFiles]) -> set[str]:
    known = dict.fromkeys(name for split in splits for name in split.annotations.categories.values())
    for name in categories:
        if name not in known:
            near = get_close_matches(name, known, n=SHOWN, cutoff=0.5) or list(known)[:SHOWN]
            raise ConfigError(f"unknown category {name!r}; the nearest are {', '.join(near)}")
    return set(categories or known)


def _counted(
    split: _SplitFiles, chosen: Collection[str], crowds: bool
) -> tuple[list[Labelled], list[LeftOut]]:
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    missing: dict[str, None] = {}
    for pair in split.annotations.pairs():
        name, category = split.images[pair[0]][0], split.category(pair)
        count = split.annotations.counts[pair]
        if category not in chosen:
            continue
        if pair in split.annotations.crowds and not (crowds and count):
            left_out.append(LeftOut(f"{name}#{category}", "a crowd annotation: the number is not known"))
        elif (row := split.row(pair, count)) is not None:
            rows.append(row)
        else:
            missing[name] = None
    left_out += [LeftOut(name, f"no such image in the folder of {IMAGES[split.name]}") for name in missing]
    if not rows:
        raise DataError(
            f"{split.annotations.file}: none of its images in {IMAGES[split.name]} has a count; "
            f"{len(missing)} are missing and {len(left_out) - len(missing)} pairs are crowds"
        )
    return rows, left_out


def _zeros(split: _SplitFiles, rows: Iterable[Labelled]) -> list[Labelled]:
    """Rows of the value 0, for the rules of `rows`."""
    values: dict[str | None, Counter[float]] = {}
    for row in rows:
        values.setdefault(row.rule, Counter())[row.value] += 1
    annotated = set(split.annotations.pairs())
    images = sorted((name, image) for image, (name, path) in split.images.items() if path is not None)
    drawn: list[Labelled | None] = []
    for category, name in split.annotations.categories.items():
        wanted = max(values.get(f"number of {name}", Counter()).values(), default=0)
        if wanted:
            empty = [(image, category) for _, image in images if (image, category) not in annotated]
            generator = random.Random(f"zeros:{split.name}:{name}")
            pairs = generator.sample(empty, min(wanted, len(empty)))
            drawn += [split.row(pair, 0) for pair in pairs]
    return [row for row in drawn if row is not None]


# ── where the files are ────────────────────────────────────────────────────────────────────────────────


def annotation_files(raw: Path, annotations: Path | None = None) -> tuple[str, dict[str, Path]]:
    """The kind of the annotations and the file of each split. If there are any of COCO-ReM, they are taken.

    Args:
        raw: the folder to look in, with its usual sub-folders and the folder `coco_rem` beside it.
        annotations: the folder to look in instead.

    Raises:
        DataError: if there are none, or only one split has some: the two kinds are never mixed.
    """
    existing_folder(raw, "it must have train2017 and val2017 in it")
    folders = [_inside(raw, name) for name in ANNOTATION_FOLDERS]
    if annotations is not None:
        folders = [existing_folder(annotations, "it must have the annotation files in it")]
    for kind, names in KINDS.items():
        found = {split: file for split, name in names.items() if (file := _first_existing(folders, name))}
        if len(found) == len(names):
            return kind, found
        for file in found.values():
            [missing] = (name for split, name in names.items() if split not in found)
            raise DataError(
                f"{file}: there is no {missing} to go with it; training is from train2017 and evaluation on "
                "val2017: add it, or name the folder that has both"
            )
    wanted = ", or ".join(" and ".join(names.values()) for names in KINDS.values())
    raise DataError(
        f"{folders[0]}: no annotations; there must be {wanted}; looked in {', '.join(map(str, folders))}"
    )


def image_folder(raw: Path, name: str) -> ListedFolder:
    """The folder of images called `name`, which may be a link.

    Raises:
        DataError: if there is none.
    """
    folders = [_inside(raw, folder) / name for folder in IMAGE_FOLDERS]
    for folder in folders:
        if folder.is_dir():
            return ListedFolder(folder)
    raise DataError(
        f"{folders[0]}: no such folder; the images of {name} go there or into {folders[1]}, all of them"
    )


def _first_existing(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _inside(raw: Path, name: str) -> Path:
    return Path(os.path.normpath(os.path.abspath(raw) + "/" + name))
