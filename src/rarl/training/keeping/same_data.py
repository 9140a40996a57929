"""Whether a run that goes on has the collection that it was begun with, although it is at another path:
moved, copied, or on another machine. A run's folder keeps the digests of its splits in `collection.json`;
they say nothing of pixels. No torch is needed."""

import json
from pathlib import Path
from typing import Any

from rarl.data.collection import Collection, load_collection
from rarl.errors import DataError
from rarl.files import write_text

DIGESTS_FILE = "collection.json"


def keep_digests(output: Path, collection: Collection) -> None:
    """Writes the digests of the collection into the folder of a run that begins. Of a run that goes on they
    stay as they are."""
    file = output / DIGESTS_FILE
    if not (file.exists() and (output / "config.yaml").exists()):
        write_text(file, json.dumps(_digests(collection), indent=1) + "\n")


def is_same_collection(output: Path, before: Any, now: Any) -> bool:
    """Whether the collection at `now` has the task and the rows of the one that the run in `output` was begun
    with, at `before`. For a run of an earlier version, that one must still be there to be compared.

    Raises:
        DataError: if there is no collection at `now`.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return False
    return _known_digests(output, before) == _digests(load_collection(now))


def _known_digests(output: Path, before: str) -> Any:
    try:
        return json.loads((output / DIGESTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    try:
        return _digests(load_collection(before))
    except DataError:
        return None


def _digests(collection: Collection) -> dict[str, str]:
    return {name: collection.digest(name) for name in collection.splits}
