"""Any COCO annotation file or files: one file alone, a file for each split as Roboflow has them, CVAT's
folders. Where the files and their images are is found here; the room's `__init__` counts, and has COCO's own
layout."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rarl.data import SPLIT_NAMES
from rarl.data.listing import Found, ListedFolder, walk_files
from rarl.data.sources import existing_folder
from rarl.errors import ConfigError, DataError

USUAL = (r".*_annotations\.coco\.json", r"instances_.*\.json")
"""The names that Roboflow, CVAT and COCO give: if there are any, other JSON files are passed over."""


def given_files(given: Sequence[str]) -> list[tuple[Path, str | None]]:
    """The files of `--annotations [PART=]FILE`, each with its split, if that is said.

    Raises:
        ConfigError: if PART is no split.
        DataError: if there is no such file.
    """
    files = []
    for option in given:
        name, equals, file = option.partition("=")
        split = SPLIT_NAMES.get(name.strip().lower()) if equals else None
        if equals and split is None and not os.path.isfile(option):
            raise ConfigError(
                f"--annotations {option}: there is no split '{name}'; write train=, val= or test="
            )
        path = Path(option if split is None else file.strip())
        if not path.is_file():
            raise DataError(f"--annotations {option}: {str(path)!r} is no file; check the path")
        files.append((path, split))
    return files


def found_files(raw: Path) -> list[Path]:
    """The annotation files in a folder and those below it: those with usual names, or all JSON files.

    Raises:
        DataError: if there are none.
    """
    existing_folder(raw, "the images must be in it, and the annotation files or --annotations FILE")
    there = [name for name in walk_files(raw).files if name.lower().endswith(".json")]
    for pattern in USUAL:
        if usual := [name for name in there if re.fullmatch(pattern, name.rpartition("/")[2].lower())]:
            return [raw / name for name in usual]
    if not there:
        raise DataError(f"{raw}: no annotation file; put the .json there, or name it by --annotations FILE")
    return [raw / name for name in there]


def splits_of(files: Sequence[tuple[Path, str | None]]) -> list[str | None]:
    """The split of each file: as said, or else the word in its name or that of its folder, such as
    `instances_train2017.json` and `valid/_annotations.coco.json`. One file alone, and files that are all of
    one split or none, have none: they are divided by seed.

    Raises:
        DataError: if only some files have a split.
    """
    splits = [split or _named_split(file) for file, split in files]
    if all(split is None for _, split in files) and len(set(splits)) == 1:
        return [None] * len(files)
    for (file, _), split in zip(files, splits, strict=True):
        if split is None:
            raise DataError(
                f"{file}: of which split is it? Name each file, as --annotations train={file}, or test=, val="
            )
    return splits


def _named_split(file: Path) -> str | None:
    words = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", file.stem.lower()) if word in SPLIT_NAMES}
    if len(words) == 1:
        return words.pop()
    return SPLIT_NAMES.get(re.sub(r"\d+$", "", file.parent.name.lower()))


def found_images(raw: Path, file: Path, names: Sequence[str]) -> tuple[Path, Found]:
    """The folder in which the images of a file are, and what each name means there.

    It is, of the usual ones, that in which most of the names are exactly files: beside the file, or in
    `images/train` or `train` for `instances_train.json`, in `images`, or in `raw`. If none has any, they are
    looked for in all of `raw`, by the end of their path.

    Raises:
        DataError: if a name leads out of its folder.
    """
    subset = file.stem.partition("_")[2] or file.stem
    above = file.parent.parent
    folders = [file.parent, raw / "images" / subset, raw / subset, raw / "images", raw / "data", raw]
    folders += [above / "images" / subset, above / subset, above / "images", above]
    inside = Path(os.path.abspath(raw))
    best, most = inside, 0
    for folder in dict.fromkeys(Path(os.path.abspath(each)) for each in folders):
        if not folder.is_dir() or not folder.is_relative_to(inside):
            continue
        listed = ListedFolder(folder)
        number = sum(_is_there(listed, name) for name in names)
        if number > most:
            best, most = folder, number
    return best, ListedFolder(best).find_all({name: str(file) for name in names})


def _is_there(folder: ListedFolder, name: str) -> bool:
    try:
        return folder.find(name, "") is not None
    except DataError:  # a name that leads out, or a link that does
        return False
