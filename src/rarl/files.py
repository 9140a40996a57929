"""Files and folders that are whole or not there: each is written beside its name and takes it at the end, so
that whatever is interrupted leaves nothing half-made under a name that is read again. And locks, for what two
commands at once would spoil."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rarl.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: to a sibling that then takes its name."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.unfinished")
    temporary.unlink(missing_ok=True)  # what an interrupted run left, or a link
    temporary.write_bytes(data)
    os.replace(temporary, path)


def unfinished(folder: Path) -> Path:
    """An empty sibling of `folder` to write it in; what an interrupted run left there is removed."""
    temporary = folder.with_name(f".{folder.name}.unfinished")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def finish(temporary: Path, folder: Path) -> Path:
    """Gives a folder that is whole its name, in place of one that stands there already.

    Args:
        temporary: made by `unfinished(folder)`, on the same disk as `folder`.
    """
    if folder.exists():
        # A folder can't be replaced in one step: for a moment there is none, and then the new one.
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `folder` when the block ends, and is removed when it is left early.

    Raises:
        FileExistsError: if there is a `folder`, before the block or at its end.
    """
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already")
    temporary = unfinished(folder)
    try:
        yield temporary
        # On Linux a rename replaces an empty folder, and nothing else.
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def at_work(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
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


def progress_bar(console: Console) -> Progress:
    """A bar that goes when it is done. None where there is no terminal: it would leave empty lines."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
