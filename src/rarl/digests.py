"""What a folder held when it was finished: the length and the SHA-256 of every file, in a file of its own. So
one bit that a disk or a copy has changed is found before it changes what a model says. Whether a folder has
all that it needs is decided elsewhere."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

DIGESTS = "digests.json"
_LONGEST = 2**24  # bytes of that file


def write_digests(folder: Path) -> None:
    """Writes `digests.json` into a folder: an entry for each file in it and below, except for hidden ones."""
    entries = {name: {"bytes": size, "sha256": digest} for name, size, digest in sorted(_measured(folder))}
    temporary = folder / f".{DIGESTS}.unfinished"
    temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / DIGESTS)


def _measured(folder: Path) -> Iterator[tuple[str, int, str]]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.as_posix() != DIGESTS and not any(p.startswith(".") for p in name.parts):
            yield name.as_posix(), path.stat().st_size, _sha256(path)


def damage(folder: Path, *, weights: bool = True) -> str | None:
    """What has changed in a folder since its digests were written, such as "model.safetensors is cut (5 of 10
    bytes)". None if nothing has, or if the folder has no digests; files that were added don't matter.

    Args:
        weights: whether to look into `*.safetensors`, which are long.

    Raises:
        OSError: if a file can't be read.
    """
    file = folder / DIGESTS
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _LONGEST:
            return f"{DIGESTS} is too long"
        entries = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in json.loads(file.read_text(encoding="utf-8")).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{DIGESTS} can't be read"
    for name, (size, _) in entries.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            return f"{name} is missing"
        if (there := path.stat().st_size) != size:
            return f"{name} is {'cut' if there < size else 'longer'} ({there:,} of {size:,} bytes)"
    for name, (_, digest) in entries.items():
        if (weights or not name.endswith(".safetensors")) and _sha256(folder / name) != digest:
            return f"{name} is not what was written"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
