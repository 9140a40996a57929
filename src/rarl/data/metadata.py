"""The `metadata.jsonl` of a split that is made of files. `load_dataset("imagefolder")` reads only tables in
which a column has one type, the same in every split, and takes some names for those of further images: that
is seen to here."""

import json
import math
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from rarl.data.collection import METADATA
from rarl.data.orders import ORDERS
from rarl.data.placing import Placing
from rarl.data.sources import Labelled
from rarl.errors import DataError

RESERVED = ("file_name", "file_names", "image", "id", "value", "rule")
_OF_IMAGES = ("_file_name", "_file_names")  # datasets 5.2 opens what stands in such a column


def uniform_columns(images: Sequence[Labelled], split_of: Sequence[str], rule: str) -> list[dict[str, Any]]:
    """The columns of each image, with its rule where any image has one of its own, and else `rule`.

    Whole numbers beside others become such. A column that mixes other types, or that a split has nothing of,
    becomes texts, empty where an image has none.
    """
    types: dict[str, dict[str, set[type]]] = {}
    for image, split in zip(images, split_of, strict=True):
        for key, value in image.columns.items():
            if key not in RESERVED and not key.endswith(_OF_IMAGES) and _is_known(value):
                types.setdefault(key, {}).setdefault(split, set()).add(type(value))
    changes: dict[str, Callable[[Any], Any]] = {}
    for key, of_split in types.items():
        kinds = set().union(*of_split.values())
        if len(kinds) > 1 or len(of_split) < len(set(split_of)):
            everywhere = len(of_split) == len(set(split_of))
            changes[key] = float if kinds == {int, float} and everywhere else str
    with_rules = any(image.rule is not None for image in images)
    result = []
    for image in images:
        columns: dict[str, Any] = {"rule": image.rule or rule} if with_rules else {}
        for key in types:
            value = image.columns.get(key)
            if _is_known(value):
                columns[key] = changes[key](value) if key in changes else value
            elif changes.get(key) is str:
                columns[key] = ""
        result.append(columns)
    return result


def orders_of(orders: Sequence[Sequence[str]], ids: Container[str]) -> list[list[str]]:
    """What the orders say of the images `ids`."""
    remaining = ([name for name in order if name in ids] for order in orders)
    return [order for order in remaining if len(order) > 1]


def write_split(
    folder: Path,
    images: Sequence[tuple[Labelled, dict[str, Any]]],
    placing: Placing,
    orders: Sequence[Sequence[str]] | None,
) -> None:
    """Makes the folder of a split: its images, each with its columns, `metadata.jsonl`, and `orders.jsonl` in
    place of values where orders are given.

    Raises:
        DataError: if no order has two of the images.
    """
    folder.mkdir()
    names: dict[Path, str] = {}
    taken: set[str] = set()
    with open(folder / METADATA, "w", encoding="utf-8") as lines:
        for image, columns in images:
            if image.path not in names:
                names[image.path] = placing.place(image, folder, taken)
            fields: dict[str, Any] = {"file_name": names[image.path], "id": image.id}
            if orders is None:
                fields["value"] = float(image.value)
            lines.write(json.dumps(fields | columns) + "\n")
    if orders is not None:
        within = orders_of(orders, {image.id for image, _ in images})
        if not within:
            raise DataError(
                f"no order has two images of {folder.name}; give more orders, larger shares by --parts "
                "(train=1 for training alone), or another --seed"
            )
        lines_of = [json.dumps({"ids": ids}) + "\n" for ids in within]
        (folder / ORDERS).write_text("".join(lines_of), encoding="utf-8")


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
