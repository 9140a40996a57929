"""COCO's annotations as the paper's counting task: how many objects of a category are in an image. Of COCO
2017 and COCO-ReM, training images come from train2017 and test images from val2017; of any other files, see
`files`. What a file says is read by `annotations`; no image is opened here."""

import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rarl.data.listing import ListedFolder
from rarl.data.names import words_like
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.coco.annotations import Annotations, Pair, read_annotations
from rarl.data.sources.coco.files import found_files, found_images, given_files, splits_of
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import COUNT, Task

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
    file is None if it is missing. The name is None for what is divided by seed; `folder` is that of the
    images, as messages name it."""

    name: str | None
    folder: str
    annotations: Annotations
    images: dict[int, tuple[str, Path | None]]

    def category(self, pair: Pair) -> str:
        return self.annotations.categories[pair[1]]

    def row(self, pair: Pair, value: int, task: Task) -> Labelled | None:
        """The row of a pair; None if the image is missing."""
        name, path = self.images[pair[0]]
        category = self.category(pair)
        row_id = f"{name}#{category}"
        number = task.check(value, f"{self.annotations.file}: {row_id}")
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
    return _counts(splits, COUNT, {"annotations": kind}, categories, zeros, crowds)


def read_coco_files(
    raw: Path,
    annotations: Sequence[str] = (),
    categories: Sequence[str] = (),
    zeros: bool = False,
    crowds: bool = False,
) -> Source:
    """As `read_coco`, from any COCO annotation files. COCO's and COCO-ReM's own, with both splits, are read
    as `read_coco` does. The range goes to the largest count, or to 10 at least.

    Args:
        raw: the folder that the images are in, and the annotation files unless they are named; or one
            file, with the images beside it or in `images`.
        annotations: the files, each as FILE or SPLIT=FILE. Without, all in `raw` that have usual names.

    Raises:
        DataError: as `read_coco`; also if only some of the files have a split.
        ConfigError: likewise.
    """
    if raw.is_file():
        if annotations:
            raise ConfigError(f"{raw}: RAW is a file; with --annotations, it is the images' folder")
        named: list[tuple[Path, str | None]] = [(raw, None)]
        raw = raw.absolute().parent
        raw = raw.parent if raw.name.lower() == "annotations" else raw
    elif annotations:
        named = given_files(annotations)
        existing_folder(raw, "the images must be in it")
    elif _is_official(raw):
        return read_coco(raw, categories, zeros, crowds)
    else:
        named = [(file, None) for file in found_files(raw)]
    try:
        read, foreign = _read_all([file for file, _ in named], given=bool(annotations))
        of_file = [(file, split) for file, split in named if any(file == each.file for each in read)]
        matches: dict[str, str] = {}
        splits = []
        for each, split in zip(read, splits_of(of_file), strict=True):
            folder, found = found_images(raw, each.file, list(each.images.values()))
            matches |= found.matches.notes()
            images: dict[int, tuple[str, Path | None]] = {}
            for image, name in each.images.items():
                own, path = found.files.get(name, (name, None))
                if path is not None:
                    own = path.relative_to(os.path.abspath(raw)).as_posix()
                images[image] = (own, path)
            splits.append(_SplitFiles(split, str(folder), each, images))
    except OSError as error:
        raise DataError(f"{error.filename or raw}: can't be read ({error.strerror or error})") from error
    most = max((count for split in splits for count in split.annotations.counts.values()), default=0)
    task = replace(COUNT, high=max(10, most))
    how = "by seed" if splits[0].name is None else "a file each"
    source = _counts(splits, task, {"splits": how, **matches}, categories, zeros, crowds)
    return replace(source, left_out=[*foreign, *source.left_out])


def _read_all(files: Sequence[Path], given: bool) -> tuple[list[Annotations], list[LeftOut]]:
    """What the files say. Those that were not `given` but found may be no annotations, and are left out then.

    Raises:
        DataError: if a file is malformed that was given, or all are.
    """
    read: list[Annotations] = []
    problems: list[DataError] = []
    foreign = []
    for file in files:
        try:
            read.append(read_annotations(file))
        except DataError as error:
            problems.append(error)
            foreign.append(LeftOut(file.name, str(error).removeprefix(f"{file}: ")))
    if problems and (given or not read):
        raise problems[0]
    return read, foreign


def _is_official(raw: Path) -> bool:
    """Whether `read_coco` finds all that it needs."""
    try:
        annotation_files(raw)
        for name in IMAGES.values():
            image_folder(raw, name)
    except DataError:
        return False
    return True


def _counts(
    splits: Sequence[_SplitFiles],
    task: Task,
    first_notes: Mapping[str, Any],
    categories: Sequence[str],
    zeros: bool,
    crowds: bool,
) -> Source:
    _check_names(splits)
    chosen = _chosen(categories, splits)
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    notes: dict[str, Any] = {**first_notes, "crowd pairs kept": crowds}
    for split in splits:
        found, lost = _counted(split, chosen, crowds, task)
        drawn = _zeros(split, found, task) if zeros else []
        rows += sorted(found + drawn, key=lambda row: row.id)
        left_out += [*split.annotations.left_out, *lost]
        key = split.name or "all"
        if key in notes:  # several files of one split
            key = f"{key}, {split.annotations.file.name}"
        notes[key] = {
            "file": "/".join(split.annotations.file.parts[-2:]),
            "images": "/".join(Path(split.folder).parts[-2:]),
            "pairs": len(found),
            "crowd pairs": sum(split.category(pair) in chosen for pair in split.annotations.crowds),
            "zeros": len(drawn),
        }
    return Source(task, rows, left_out, notes)


def _split_files(split: str, annotations: Annotations, folder: ListedFolder) -> _SplitFiles:
    images: dict[int, tuple[str, Path | None]] = {}
    for image, file_name in annotations.images.items():
        where = f"{annotations.file}: image {image}"
        name, path = file_name, folder.find(file_name, where)
        while path is None and "/" in name:  # such as "train2017/000000000009.jpg"
            name = name.partition("/")[2]
            path = folder.find(name, where)
        images[image] = (name, path)
    return _SplitFiles(split, str(folder.path), annotations, images)


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
    chosen: set[str] = set()
    for name in categories:
        meant = words_like(name, known)
        chosen.update(meant)
        if len(meant) != 1:
            near = get_close_matches(name, known, n=SHOWN, cutoff=0.5) or list(known)[:SHOWN]
            raise ConfigError(
                f"unknown category {name!r}; the nearest are {', '.join(map(_in_quotes, near))}"
            )
    return chosen or set(known)


def _in_quotes(name: str) -> str:
    """A name as `--categories` takes it."""
    return f'"{name}"' if "," in name else name


def _counted(
    split: _SplitFiles, chosen: Collection[str], crowds: bool, task: Task
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
        elif (row := split.row(pair, count, task)) is not None:
            rows.append(row)
        else:
            missing[name] = None
    left_out += [
        LeftOut(name, f"no such image in the folder of {Path(split.folder).name}") for name in missing
    ]
    if not rows:
        raise DataError(
            f"{split.annotations.file}: none of its images in {Path(split.folder).name} has a count; "
            f"{len(missing)} are missing and {len(left_out) - len(missing)} pairs are crowds"
        )
    return rows, left_out


def _zeros(split: _SplitFiles, rows: Iterable[Labelled], task: Task) -> list[Labelled]:
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
            drawn += [split.row(pair, 0, task) for pair in pairs]
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
