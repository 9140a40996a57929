"""Where COCO 2017 and COCO-ReM lie on a disk: the files of annotations and the folders of images, in the
layouts that their download pages describe."""

import os
from collections.abc import Sequence
from pathlib import Path

from rarl.data.names import Folder
from rarl.data.sources import existing_folder
from rarl.errors import DataError

KINDS = {
    "COCO-ReM": {"train": "instances_trainrem.json", "test": "instances_valrem.json"},
    "COCO": {"train": "instances_train2017.json", "test": "instances_val2017.json"},
}
IMAGES = {"train": "train2017", "test": "val2017"}

ANNOTATION_FOLDERS = (".", "annotations", "coco_rem", "coco", "coco/annotations", "../coco_rem")
IMAGE_FOLDERS = (".", "coco", "images", "../coco")


def annotation_files(raw: Path, annotations: Path | None = None) -> tuple[str, dict[str, Path]]:
    """The kind of annotations and the file of each split; COCO-ReM's, where there are any of them.

    Args:
        raw: looked through, with its usual sub-folders and the folder `coco_rem` beside it.
        annotations: looked through instead.

    Raises:
        DataError: if there are none, or only those of one split: the two kinds are never mixed.
    """
    existing_folder(raw, "it must have train2017 and val2017 in it")
    folders = [_inside(raw, name) for name in ANNOTATION_FOLDERS]
    if annotations is not None:
        folders = [existing_folder(annotations, "it must have the annotation files in it")]
    for kind, names in KINDS.items():
        found = {split: file for split, name in names.items() if (file := _first(folders, name))}
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


def image_folder(raw: Path, name: str) -> Folder:
    """The folder of images called `name`, which may be a link.

    Raises:
        DataError: if there is none.
    """
    folders = [_inside(raw, folder) / name for folder in IMAGE_FOLDERS]
    for folder in folders:
        if folder.is_dir():
            return Folder(folder)
    raise DataError(
        f"{folders[0]}: no such folder; the images of {name} go there or into {folders[1]}, all of them"
    )


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _inside(raw: Path, name: str) -> Path:
    return Path(os.path.normpath(os.path.abspath(raw) + "/" + name))
