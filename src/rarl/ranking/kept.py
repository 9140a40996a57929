"""The rows of a ranking, kept as they come in a file beside it, so that the same command goes on after it was
stopped, and several processes can share the images. A row counts as long as its image file stays as it was.
What is to be measured is up to `files`; the ranking itself is made and written in `table`."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rarl.errors import ConfigError, DataError
from rarl.files import locked, read_jsonl
from rarl.method.tasks import Task
from rarl.models.loading import model_digest
from rarl.ranking.measured import Measured

FORMAT = 2
"""Of these files; a change that old rows don't survive raises it."""


@dataclass(frozen=True)
class Asked:
    """What tells the rows of one command from those of another: the model, the task, and how it is asked.

    Attributes:
        options: how the model is asked, as plain values; empty for greedy replies.
    """

    model: str
    digest: str | None
    task: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, task: Task, options: Mapping[str, Any]) -> "Asked":
        """Of a model folder its contents count, and not where it is."""
        return cls(model, model_digest(model), task.to_dict(), options)

    def to_json(self) -> dict[str, Any]:
        """The first line of a file of rows, as an object."""
        fields = {"model": self.model, "digest": self.digest, "task": self.task, "options": self.options}
        return {"rarl rank": FORMAT, **fields}

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """What differs in the first line of other rows, in words; None if nothing does."""
        if other.get("rarl rank") != FORMAT:
            return "no rows of `rarl rank`, or of another version of it"
        digests = self.digest, other.get("digest")
        if digests[0] != digests[1] or (digests[0] is None and other.get("model") != self.model):
            return f"rows of another model, {other.get('model')}"
        for key, mine in (("task", self.task), ("options", self.options)):
            if other.get(key) != dict(mine):
                return f"rows of another {key.removesuffix('s')}, {json.dumps(other.get(key))}"
        return None


Stamp = tuple[int, int] | None
"""Size and time of the last change of a file; None if there is none."""


class Kept:
    """The rows of the commands that work on one ranking.

    Args:
        out: the file of the ranking; the rows are in files beside it.
        asked: of this command.
        shard: the part of this command, as (2, 3) for the second of three; None for all.

    Raises:
        ConfigError: if the ranking or rows beside it are of another command.
    """

    def __init__(self, out: Path, asked: Asked, shard: tuple[int, int] | None = None) -> None:
        self.out = out
        self.asked = asked
        part = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
        self.path = out.with_name(f"{out.name}.rows{part}.jsonl")
        self._stamps: dict[str, Stamp] = {}
        if not self._parts() and out.exists():
            raise ConfigError(
                f"{out} is there already, with no rows beside it: give another --out, or remove it"
            )
        for path in self._parts():
            self._check(path)

    def read(self, files: Sequence[str]) -> dict[str, Measured]:
        """What is known of these files, from the rows of all parts. A file that was changed since is not."""
        self._stamps = {file: _stamp(file) for file in files}
        found: dict[str, Measured] = {}
        for path in self._parts():
            for where, row in _whole_lines(path):
                file = row.get("file")
                if file in self._stamps and file not in found and _stamp_in(row) == self._stamps[file]:
                    found[file] = _measured(row, where)
        return found

    @contextmanager
    def adding(self) -> Iterator["Rows"]:
        """Rows are added within the block, and by no other command meanwhile.

        Raises:
            ConfigError: if another command adds rows to the same part.
        """
        with locked(self.path.parent, self.path.name):
            if not _has_head(self.path):
                self.path.write_text(json.dumps(self.asked.to_json()) + "\n", encoding="utf-8")
            _cut_torn_line(self.path)
            with open(self.path, "a", encoding="utf-8") as file:
                yield Rows(file, self._stamps)

    def _parts(self) -> list[Path]:
        folder = self.out.parent
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        start = f"{self.out.name}.rows"
        return [folder / name for name in names if name.startswith(start) and name.endswith(".jsonl")]

    def _check(self, path: Path) -> None:
        if not _has_head(path):
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            line = file.readline()
        try:
            head = json.loads(line)
        except ValueError:
            head = None
        difference = self.asked.difference(head if isinstance(head, dict) else {})
        if difference is not None:
            raise ConfigError(f"{path} has {difference}: give another --out, or remove it and {self.out}")


class Rows:
    """A file that rows are added to."""

    def __init__(self, file: TextIO, stamps: Mapping[str, Stamp]) -> None:
        self._file, self._stamps = file, stamps

    def add(self, measured: Mapping[str, Measured]) -> None:
        """Adds what was measured of files; what was added is there even if the process is killed next."""
        for file, said in measured.items():
            row: dict[str, Any] = {"file": file, "stamp": self._stamps.get(file), "value": said.value}
            row |= {"mean": said.mean} if said.mean != said.value else {}
            row |= {"interval": said.interval} if said.interval is not None else {}
            row |= {"problem": said.problem} if said.problem is not None else {}
            self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _stamp_in(row: Mapping[str, Any]) -> Stamp:
    stamp = row.get("stamp")
    return (stamp[0], stamp[1]) if isinstance(stamp, list) and len(stamp) == 2 else None


def _measured(row: Mapping[str, Any], where: str) -> Measured:
    value, mean, interval, problem = (row.get(key) for key in ("value", "mean", "interval", "problem"))
    numbers = isinstance(value, int | float | None) and isinstance(mean, int | float | None)
    if not (value is None) != (problem is None) or not numbers:
        raise DataError(f"{where}: no row of `rarl rank`; remove the line")
    ends = tuple(interval) if isinstance(interval, list) and len(interval) == 2 else None
    return Measured(value, ends, problem=problem, mean=mean)


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a file of rows, without the first. The last one may still be written, or have been when
    its process was killed: it counts once it is whole."""
    torn: list[DataError] = []
    for where, row in read_jsonl(path, mend="remove the line", fault=torn.append):
        if torn:
            raise torn[0]  # it was not the last
        if "rarl rank" not in row:
            yield where, row


def _has_head(path: Path) -> bool:
    """Whether the first line is whole."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.readline().endswith(b"\n")


def _cut_torn_line(path: Path) -> None:
    """Removes what is left of a line whose writing was interrupted."""
    with open(path, "r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
