"""Disks that are full: which errors of the system, of safetensors and of torch say so, and the one sentence
that a user reads in place of them. Nothing is written here."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rarl.errors import DiskError


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Makes a `DiskError` of what goes wrong within because a disk is full.

    Args:
        folder: where most is written, to be named where the error names no file.
    """
    try:
        yield
    except Exception as error:
        if (why := why_not_written(error, folder)) is None:
            raise
        raise DiskError(why) from error


_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "it is too large",
}
# Without an errno: safetensors 0.8, and torch 2.13, which says no more than that it has failed.
_SAID = ("No space left on device", "PytorchStreamWriter failed writing", "unexpected pos ")


def why_not_written(error: BaseException, folder: Path) -> str | None:
    """A sentence, if an error or one that it comes from says that a disk is full; otherwise None."""
    seen: BaseException | None = error
    while seen is not None:
        why = _FULL.get(seen.errno or 0) if isinstance(seen, OSError) else None
        if why is None and any(words in str(seen) for words in _SAID):
            why = _FULL[errno.ENOSPC]
        if why is not None:
            place = getattr(seen, "filename", None) or folder
            return f"{place}: can't be written, {why}: make room"
        seen = seen.__cause__ or seen.__context__
    return None
