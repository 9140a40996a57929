"""The two files of an evaluated folder, `metrics.json` and `predictions.jsonl`, read and written. Each holds
several arms of one task, split and seed, and is replaced as a whole, so a reader never sees half of one. What
the numbers mean is in `docs/evaluation.md`."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rarl.errors import ConfigError, DataError
from rarl.evaluation.prediction import Prediction
from rarl.files import read_jsonl, write_text

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
            **({"subgroups": _read_subgroups(saved["subgroups"])} if "subgroups" in saved else {}),
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
            f"{path} is of another collection, or of this one before its {split} split was changed: "
            "evaluate into another folder"
        )
    return saved


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Replace the folder's `metrics.json`. Of `subgroups`, only arms that are in `arms` are kept, so that an
    arm which is dropped leaves nothing behind."""
    written = {key: value for key, value in metrics.items() if key != "subgroups"}
    found = metrics.get("subgroups", {})
    if kept := {arm: columns for arm, columns in found.items() if columns and arm in metrics["arms"]}:
        written["subgroups"] = kept
    write_text(folder / "metrics.json", json.dumps(written, indent=2, allow_nan=False) + "\n")


def _read_subgroups(saved: dict[str, Any]) -> dict[str, Any]:
    return {
        arm: {
            column: {value: dict(metrics) for value, metrics in values.items()}
            for column, values in columns.items()
        }
        for arm, columns in saved.items()
    }


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The predictions of a `predictions.jsonl`, line by line, of all its arms.

    Raises:
        DataError: for a line that is no prediction; it names the file and the line.
        OSError: if the file can't be read.
    """
    for where, line in read_jsonl(path, mend="was it changed?"):
        yield Prediction.from_json(line, where)


def write_predictions(folder: Path, arm: str, predictions: Sequence[Prediction]) -> None:
    """Replace the arm's lines in the folder's `predictions.jsonl` and keep those of the other arms.

    Raises:
        DataError: if the file that is there holds something else.
    """
    path = folder / "predictions.jsonl"
    lines = [prediction.to_json() for prediction in predictions]
    kept = []
    if path.exists():
        try:
            kept = [line for where, line in read_jsonl(path) if Prediction.from_json(line, where).arm != arm]
        except DataError as error:
            raise DataError(f"{error}; move the file away") from error
    write_text(path, "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in [*kept, *lines]))
