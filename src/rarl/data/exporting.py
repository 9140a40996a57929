"""Groups of a collection as the files that other engines train on: prompts of Table 1 with `<image>` where a
picture goes, paths of images, and the truth for the rewards of `rarl.integrations`. Images stay where they
are, except for those that the engines would show otherwise than this library does."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rarl.data.collection import Collection
from rarl.data.groups import Group, disjoint_groups, draw_groups
from rarl.data.images import encoded, is_plain, open_image
from rarl.errors import DataError
from rarl.files import new_folder
from rarl.method.labels import label_of
from rarl.method.prompts import messages
from rarl.method.tasks import Task

Engine = Literal["verl", "swift", "easyr1", "openrlhf"]
IMAGE_TAG = "<image>"


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how many prompts it has of each number of images."""

    path: Path
    prompts: dict[int, int]


def export(
    collection: Collection,
    engine: Engine,
    out: Path,
    *,
    images: Sequence[int] = (1, 2, 4, 8),
    prompts: int = 1000,
    validation_prompts: int = 100,
    seed: int = 0,
) -> list[Exported]:
    """Writes the folder `out` with `train` and, where the collection has that part, `validation`: Parquet for
    verl and EasyR1, JSONL for ms-swift and OpenRLHF. Images that are turned by EXIF, transparent or of 16
    bits are written into it as this library reads them.

    The prompts of training are drawn as `draw_groups` draws them, those of validation without an image in two
    prompts of one number of images.

    Args:
        images: the numbers of images in a prompt.
        prompts: of each number of images, for training.
        validation_prompts: the most of each number of images, for validation.

    Raises:
        DataError: if a part has too few images, or knows orders alone and `images` has 1, an image can't be
            read, or a rule holds the text `<image>`.
        FileExistsError: if there is an `out`.
    """
    for split in ("train", "validation"):
        if 1 in images and split in collection.splits and not collection.knows_values(split):
            raise DataError(
                f"{collection.root / split} knows orders alone, and one image has none: export lists, "
                "as with --images 2,4"
            )
    drawn: dict[str, list[Group]] = {"train": []}
    for count in images:
        drawn["train"] += draw_groups(collection.split("train"), count, prompts, seed)
    if "validation" in collection.splits:
        rows = collection.split("validation")
        drawn["validation"] = [
            group for count in images for group in disjoint_groups(rows, count, validation_prompts, seed)
        ]
    written = []
    with new_folder(out) as folder:
        shown = _shown_images(
            [row.path for groups in drawn.values() for g in groups for row in g.rows], folder, out
        )
        for split, groups in drawn.items():
            rows_of_file = [
                _row(engine, group, collection.task, split, number, shown)
                for number, group in enumerate(groups)
            ]
            name = _write(engine, folder / split, rows_of_file).name
            counts = {count: sum(len(group.rows) == count for group in groups) for count in images}
            written.append(Exported(out / name, counts))
    return written


def _shown_images(paths: Iterable[Path], folder: Path, out: Path) -> dict[Path, str]:
    """For each image file the one that an engine reads: itself, or an upright copy in `folder`, which will be
    `out`."""
    shown: dict[Path, str] = {}
    for path in dict.fromkeys(paths):
        shown[path] = str(path.resolve())
        if not is_plain(path):
            name = Path("images") / f"{len(shown)}.png"
            (folder / name.parent).mkdir(exist_ok=True)
            (folder / name).write_bytes(encoded(open_image(path), name.suffix))
            shown[path] = str(out.resolve() / name)
    return shown


def _row(
    engine: Engine, group: Group, task: Task, split: str, number: int, shown: Mapping[Path, str]
) -> dict[str, Any]:
    """What the engine reads of one prompt."""
    system, user = _texts(group, task)
    paths = [shown[row.path] for row in group.rows]
    columns = {
        **group.truth,
        "delta": float(task.delta),
        "range": [float(task.low), float(task.high)],
        "step": float(task.step),
    }
    source = f"{task.name}/{len(group.rows)}"
    chat = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    if engine == "verl":
        return {
            "data_source": source,
            "prompt": chat,
            "images": paths,
            "reward_model": {"style": "rule", "ground_truth": label_of(columns)},
            "extra_info": {"index": number, "split": split},
        }
    if engine == "easyr1":  # its prompts are a user's turn alone
        return {"problem": f"{system}\n\n{user}", "images": paths, "answer": label_of(columns)}
    if engine == "openrlhf":
        return {"prompt": chat, "images": paths, "label": label_of(columns), "datasource": source}
    return {"messages": chat, "images": paths, **columns}


def _texts(group: Group, task: Task) -> tuple[str, str]:
    """The system and the user message of a prompt as texts, with `IMAGE_TAG` for each picture."""
    rule = group.rule or task.rule
    if IMAGE_TAG in rule:
        raise DataError(
            f"the rule {rule!r} holds {IMAGE_TAG}, which engines take for a picture: change the rule"
        )
    system, user = (
        "".join(part.get("text", IMAGE_TAG) for part in message["content"])
        for message in messages(len(group.rows), rule, task.value_range)
    )
    return system, user


def _write(engine: Engine, path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes the rows in the engine's format beside `path`, which has no suffix."""
    if engine in ("verl", "easyr1"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = path.with_suffix(".parquet")
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
        return file
    file = path.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file
