"""Files and folders that are whole or not there: each is written beside its name and takes it at the end, so
that an interruption leaves nothing half-made under a name that is read again. Also locks, for what two
commands at once would spoil, and the reader of JSONL. YAML is in yaml_files.py."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rarl.digests import DIGESTS, write_digests
from rarl.errors import ConfigError, DataError

LONGEST_FILE_NAME = 255  # bytes of the name of a file or folder, on nearly every file system


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: to a sibling that then takes its name."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.unlink(missing_ok=True)  # what an interrupted run left, or a link
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # a full disk is not kept full
        error.filename = path  # of one that says that the disk is full, there is none
        raise


def _beside(path: Path) -> Path:
    """The hidden sibling in which something is written until it is whole: always the same for one path."""
    name = f".{path.name}.unfinished"
    if len(os.fsencode(name)) > LONGEST_FILE_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.unfinished"
    return path.with_name(name)


def unfinished(folder: Path) -> Path:
    """An empty sibling of `folder` to write it in; what an interrupted run left there is removed."""
    temporary = _beside(folder)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def finish(temporary: Path, folder: Path) -> Path:
    """Gives a folder that is whole its name, in place of one that stands there already. Before, it gets the
    digests of its files (`rarl.digests`), and whoever may read one of them may read all.

    Args:
        temporary: made by `unfinished(folder)`, on the same disk as `folder`.
    """
    write_digests(temporary)
    _make_readable(temporary)
    if folder.exists():
        # A folder can't be replaced in one step: for a moment there is none, and then the new one.
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    return folder


def _make_readable(folder: Path) -> None:
    """Gives every file the permissions of a new one: safetensors 0.8 keeps what it writes to its owner."""
    allowed = (folder / DIGESTS).stat().st_mode  # which was just written
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | allowed)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `folder` when the block ends, and is removed when it is left early.

    Raises:
        FileExistsError: if there is a `folder`, before the block or at its end.
        ConfigError: if another command is writing it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(folder).with_suffix(".writing"))  # no name of `locked`
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another command is writing it: wait until it has ended, or choose another folder"
        ) from error
    try:
        if os.path.lexists(folder):  # now, because another command may have just written it
            raise FileExistsError(f"{folder} exists already")
        temporary = unfinished(folder)
        try:
            yield temporary
            # On Linux a rename replaces an empty folder, and nothing else.
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def locked(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Keeps other commands from the same work in a folder until the block ends, also from machines that share
    its disk; one that is killed keeps nobody out.

    Args:
        folder: made where there is none; the lock is a hidden file in it, which stays.
        what: the work, such as "training": a different one is not kept out.
        wait: whether to wait until the other has ended.

    Raises:
        ConfigError: if another command is at that work, and this one doesn't wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{what}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another command is at work here ({what}): wait until it has ended, or choose another "
            "folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


# ── JSONL ────────────────────────────────────────────────────────────────────────────────────────────────


def read_jsonl(
    path: Path,
    *,
    like: str = "an object",
    mend: str = "",
    fault: Callable[[DataError], None] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file, one by one, each with its place to name in an error: "a.jsonl line 3".
    Empty lines are skipped.

    Args:
        like: what a line must be, for the error about one that is JSON and no object.
        mend: how to mend a line that is not JSON.
        fault: gets the error of a line, which is then skipped; None raises it.

    Raises:
        DataError: for a line that is not a JSON object.
        OSError: if the file can't be read.
    """
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                yield where, _json_object(line, where, like, mend)
            except DataError as error:
                if fault is None:
                    raise
                fault(error)


def _json_object(line: bytes, where: str, like: str, mend: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}){mend and '; '}{mend}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: must be {like}, not {line.decode('utf-8-sig').strip()[:40]}")
    return value
