"""COCO 2017 and COCO-ReM as the paper's counting task: how many of a category are in an image. Training is
from train2017, evaluation on val2017. Annotations are counted as the files list them; nothing is mended."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rarl.data.coco_annotations import Annotations, Pair, read_annotations
from rarl.data.coco_files import IMAGES, annotation_files, image_folder
from rarl.data.names import Folder
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source
from rarl.errors import ConfigError, DataError
from rarl.tasks import COUNT


@dataclass(frozen=True)
class _Part:
    """The annotations of a split and the images they are of: each image id has its name in the folder, and
    its file, or None where that is missing."""

    split: str
    annotations: Annotations
    images: dict[int, tuple[str, Path | None]]

    def category(self, pair: Pair) -> str:
        return self.annotations.categories[pair[1]]

    def row(self, pair: Pair, value: int) -> Labelled | None:
        """None if the image is missing."""
        name, path = self.images[pair[0]]
        category = self.category(pair)
        row_id = f"{name}#{category}"
        number = COUNT.check(value, f"{self.annotations.file}: {row_id}")
        if path is None:
            return None
        return Labelled(path, name, number, row_id, f"number of {category}", self.split)


def read_coco(
    raw: Path,
    categories: Sequence[str] = (),
    zeros: bool = False,
    crowds: bool = False,
    annotations: Path | None = None,
) -> Source:
    """A row for each image and category in it: how many there are, with the rule "number of {category}".

    Args:
        raw: the folder that has `train2017` and `val2017` in it, or `coco` and `coco_rem`.
        categories: by name; all of them if empty.
        zeros: also rows of the value 0, from images where the category isn't annotated at all. For each
            category and split they are as many as there are rows of its most common count, drawn at random
            with a fixed seed.
        crowds: also the pairs of image and category that have a crowd annotation, which stands for many of
            them: it is not counted itself, and these values are too low. Without one that is no crowd, the
            pair stays left out.
        annotations: the folder with the annotation files, where they are neither in `raw` nor beside it.

    Raises:
        DataError: if a file or folder is missing or malformed, a file name leads out of its folder or occurs
            twice, or a count is above the task's range.
        ConfigError: if there is no such category; it names the nearest.
    """
    try:
        kind, files = annotation_files(raw, annotations)
        folders = {split: image_folder(raw, name) for split, name in IMAGES.items()}
        parts = [_part(split, read_annotations(files[split]), folders[split]) for split in files]
    except OSError as error:
        raise DataError(f"{error.filename or raw}: can't be read ({error.strerror or error})") from error
    _check_names(parts)
    chosen = _chosen(categories, parts)
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    notes: dict[str, Any] = {"annotations": kind, "crowd pairs kept": crowds}
    for part in parts:
        found, lost = _counted(part, chosen, crowds)
        drawn = _zeros(part, found) if zeros else []
        rows += sorted(found + drawn, key=lambda row: row.id)
        left_out += [*part.annotations.left_out, *lost]
        notes[part.split] = {
            "file": "/".join(part.annotations.file.parts[-2:]),
            "images": "/".join(folders[part.split].path.parts[-2:]),
            "pairs": len(found),
            "crowd pairs": sum(part.category(pair) in chosen for pair in part.annotations.crowds),
            "zeros": len(drawn),
        }
    return Source(COUNT, rows, left_out, notes)


def _part(split: str, annotations: Annotations, folder: Folder) -> _Part:
    images: dict[int, tuple[str, Path | None]] = {}
    for image, file_name in annotations.images.items():
        where = f"{annotations.file}: image {image}"
        name, path = file_name, folder.find(file_name, where)
        while path is None and "/" in name:  # such as "train2017/000000000009.jpg"
            name = name.partition("/")[2]
            path = folder.find(name, where)
        images[image] = (name, path)
    return _Part(split, annotations, images)


def _check_names(parts: Iterable[_Part]) -> None:
    """An image that is there twice would be in training and test, or have two counts for one rule."""
    places: dict[str, str] = {}
    for part in parts:
        for image, (name, _) in part.images.items():
            where = f"{part.annotations.file}: image {image}"
            if places.setdefault(name, where) != where:
                raise DataError(f"{where}: the name {name!r} is that of {places[name]} too; keep one of them")


def _chosen(categories: Sequence[str], parts: Iterable[_Part]) -> set[str]:
    known = dict.fromkeys(name for part in parts for name in part.annotations.categories.values())
    for name in categories:
        if name not in known:
            near = get_close_matches(name, known, n=SHOWN, cutoff=0.5) or list(known)[:SHOWN]
            raise ConfigError(f"unknown category {name!r}; the nearest are {', '.join(near)}")
    return set(categories or known)


def _counted(part: _Part, chosen: Collection[str], crowds: bool) -> tuple[list[Labelled], list[LeftOut]]:
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    missing: dict[str, None] = {}
    for pair in part.annotations.pairs():
        name, category = part.images[pair[0]][0], part.category(pair)
        count = part.annotations.counts[pair]
        if category not in chosen:
            continue
        if pair in part.annotations.crowds and not (crowds and count):
            left_out.append(LeftOut(f"{name}#{category}", "a crowd annotation: the number is not known"))
        elif (row := part.row(pair, count)) is not None:
            rows.append(row)
        else:
            missing[name] = None
    left_out += [LeftOut(name, f"no such image in the folder of {IMAGES[part.split]}") for name in missing]
    if not rows:
        raise DataError(
            f"{part.annotations.file}: none of its images in {IMAGES[part.split]} has a count; "
            f"{len(missing)} are missing and {len(left_out) - len(missing)} pairs are crowds"
        )
    return rows, left_out


def _zeros(part: _Part, rows: Iterable[Labelled]) -> list[Labelled]:
    """Rows of the value 0 for the rules of `rows`."""
    values: dict[str | None, Counter[float]] = {}
    for row in rows:
        values.setdefault(row.rule, Counter())[row.value] += 1
    annotated = set(part.annotations.pairs())
    images = sorted((name, image) for image, (name, path) in part.images.items() if path is not None)
    drawn: list[Labelled | None] = []
    for category, name in part.annotations.categories.items():
        wanted = max(values.get(f"number of {name}", Counter()).values(), default=0)
        if wanted:
            empty = [(image, category) for _, image in images if (image, category) not in annotated]
            generator = random.Random(f"zeros:{part.split}:{name}")
            pairs = generator.sample(empty, min(wanted, len(empty)))
            drawn += [part.row(pair, 0) for pair in pairs]
    return [row for row in drawn if row is not None]
