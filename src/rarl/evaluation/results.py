"""The two files of an evaluated folder, `metrics.json` and `predictions.jsonl`: several arms in a file, of
one task, split and seed. A file is replaced whole, so a reader never sees half of one. What the
numbers mean is `evaluation`'s."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rarl.errors import ConfigError, DataError
from rarl.files import write_text

HEAD = ("task", "split", "seed")
"""What all arms of a `metrics.json` have in common."""


def load_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A `metrics.json`: `task`, `split`, `seed`, `lists` (by number of images) and `arms`; `collection` and
    `subgroups` (ARM -> COLUMN -> VALUE -> METRIC -> entry) where the file has them.

    Raises:
        DataError: if the file is missing or is no metrics file.
    """
    file = Path(path)
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return {
            **{key: saved[key] for key in HEAD},
            **({"collection": str(saved["collection"])} if "collection" in saved else {}),
            "lists": dict(saved["lists"]),
            "arms": {arm: dict(metrics) for arm, metrics in saved["arms"].items()},
            **({"subgroups": _subgroups(saved["subgroups"])} if "subgroups" in saved else {}),
        }
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); rarl evaluate writes one") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not a metrics file of this library; move it away") from error


def open_metrics(
    folder: Path, task: str, split: str, seed: int, collection: str | None = None
) -> dict[str, Any]:
    """The folder's `metrics.json`, or one without arms where there is none yet.

    Args:
        collection: what tells the collection's split from another (`Collection.digest`).

    Raises:
        ConfigError: if it is of another task, split, seed or collection.
        DataError: as `load_metrics`.
    """
    path, head = folder / "metrics.json", {"task": task, "split": split, "seed": seed}
    if not path.exists():
        return {**head, **({"collection": collection} if collection else {}), "lists": {}, "arms": {}}
    saved = load_metrics(path)
    for key, wanted in head.items():
        if saved[key] != wanted:
            raise ConfigError(
                f"{path} is of {key} {saved[key]!r}, not {wanted!r}: evaluate into another folder"
            )
    if collection and saved.setdefault("collection", collection) != collection:
        raise ConfigError(
            f"{path} is of another collection, or of this one before its {split} part was changed: "
            "evaluate into another folder"
        )
    return saved


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Replace the folder's `metrics.json`; of `subgroups` the arms that are in `arms` and have any are kept,
    so that an arm which is dropped there leaves nothing behind."""
    written = {key: value for key, value in metrics.items() if key != "subgroups"}
    found = metrics.get("subgroups", {})
    if kept := {arm: columns for arm, columns in found.items() if columns and arm in metrics["arms"]}:
        written["subgroups"] = kept
    write_text(folder / "metrics.json", json.dumps(written, indent=2, allow_nan=False) + "\n")


def _subgroups(saved: dict[str, Any]) -> dict[str, Any]:
    return {
        arm: {
            column: {value: dict(metrics) for value, metrics in values.items()}
            for column, values in columns.items()
        }
        for arm, columns in saved.items()
    }


def write_predictions(folder: Path, arm: str, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Replace the arm's lines in the folder's `predictions.jsonl` and keep those of the other arms.

    Raises:
        DataError: if the file that is there holds something else.
    """
    path = folder / "predictions.jsonl"
    kept = []
    # Not splitlines: other marks that it takes for line ends may stand inside a reply.
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            if line and json.loads(line)["arm"] != arm:
                kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} line {number} is not a prediction; move the file away") from error
    kept += [json.dumps(prediction, allow_nan=False) for prediction in predictions]
    write_text(path, "".join(f"{line}\n" for line in kept))
