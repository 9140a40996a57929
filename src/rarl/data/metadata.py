"""The columns of `metadata.jsonl` beside an image's file, id and value. `load_dataset("imagefolder")` reads
only tables in which a column has one type, the same in every split, and takes some names for those of further
images: that is seen to here."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rarl.data.sources import Labelled

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


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
