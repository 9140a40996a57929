"""Files and folders that are whole or not there: each is written beside its name and takes it at the end, so
that an interruption leaves nothing half-made under a name that is read again. Also locks, for what two
commands at once would spoil; the readers of JSONL and YAML; and the progress bar of what takes long."""

import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from rarl.digests import DIGESTS, write_digests
from rarl.errors import ConfigError, DataError

LONGEST_YAML = 20_000  # characters; the configuration of a run has some thousands, and the parser is slow
MOST_ENTRIES = 10_000  # of a YAML text, with what its aliases stand for
DEEPEST_YAML = 50
LARGEST_INTEGER = 10**18
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


# ── YAML ─────────────────────────────────────────────────────────────────────────────────────────────────


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML 1.2 text spells: `1e-6` is a number, `no` and `on` are words.

    Raises:
        ConfigError: for wrong syntax, a key given twice, an unknown tag, or more than any configuration
            needs, such as aliases that stand for billions of entries; it names `where` and the line.
    """
    if len(text) > LONGEST_YAML:
        raise ConfigError(f"{where}: has {len(text):,} characters, more than {LONGEST_YAML:,}")
    if _nested_brackets(text) > DEEPEST_YAML:
        raise ConfigError(f"{where}: more than {DEEPEST_YAML} brackets in each other")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            return _plain_keys(_yaml().load(text), where)
    except ReusedAnchorWarning as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())[:100]}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(error.problem or error.context)
        if isinstance(error, DuplicateKeyError):
            key = re.match(r'found duplicate key "?(.*?)"? with value', problem, re.DOTALL)
            problem = f"key '{key[1] if key else problem}' is given twice"
        raise ConfigError(f"{where}{line}: {problem}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date such as 2026-99-99. YAMLError without a mark: a character that YAML forbids.
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises:
        ConfigError: if the file is missing, no text, or no YAML.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{path}: is no file")  # who opens a pipe waits for ever
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST_YAML + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > LONGEST_YAML:
        raise ConfigError(f"{path}: has more than {LONGEST_YAML:,} characters")
    return parse_yaml(text, str(path))


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: as `read_yaml`, or if the value is no mapping.
    """
    value = read_yaml(path)
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: must be a mapping such as `task: digits`, but is {kind}")
    return value


def yaml_text(value: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads back, and YAML 1.1 readers such as PyYAML too."""
    yaml = _yaml()
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.representer.add_representer(float, _represent_float)
    yaml.representer.add_representer(str, _represent_text)
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml


class _Constructor(SafeConstructor):
    """Makes values of a text whose aliases and merges stand for no more entries than can be looked at."""

    def construct_document(self, node: Node) -> Any:
        _count_entries(node, {}, 0)
        return super().construct_document(node)


def _count_entries(node: Node, known: dict[int, int | None], depth: int) -> int:
    """The number of entries of a node, with what its aliases stand for.

    Args:
        known: the numbers of nodes that were counted before; None for one that is being counted.
    """
    if depth > DEEPEST_YAML:
        raise MarkedYAMLError(problem="is too deep", problem_mark=node.start_mark)
    if id(node) in known:
        if (entries := known[id(node)]) is None:
            raise MarkedYAMLError(problem="an alias stands within itself", problem_mark=node.start_mark)
        return entries
    known[id(node)] = None
    children: list[Node] = []
    if isinstance(node, SequenceNode):
        children = node.value
    elif isinstance(node, MappingNode):
        children = [part for pair in node.value for part in pair]
    entries = 1 + sum(_count_entries(child, known, depth + 1) for child in children)
    if entries > MOST_ENTRIES:
        problem = f"stands for more than {MOST_ENTRIES:,} entries"
        raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    known[id(node)] = entries
    return entries


def _nested_brackets(text: str) -> int:
    """How many brackets are open at once, where every one counts: thousands take the parser seconds."""
    deepest = depth = 0
    for mark in re.findall(r"[][{}]", text):
        depth = max(depth + (1 if mark in "[{" else -1), 0)
        deepest = max(deepest, depth)
    return deepest


def _plain_keys(value: Any, where: str, seen: dict[int, Any] | None = None) -> Any:
    """`value` with texts for keys: a key that is a number in YAML is a name here. What an alias shares stays
    shared."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, list):
        plain_list: list[Any] = []
        seen[id(value)] = plain_list
        plain_list += [_plain_keys(entry, where, seen) for entry in value]
        return plain_list
    if isinstance(value, dict):
        plain: dict[str, Any] = {}
        seen[id(value)] = plain
        for key, entry in value.items():
            if isinstance(key, tuple | dict | list):
                raise ConfigError(f"{where}: a key must be a plain name, not {key!r}")
            _check_integer(key, where)
            plain[str(key)] = _plain_keys(entry, where, seen)
        return plain
    _check_integer(value, where)
    return value


def _check_integer(value: Any, where: str) -> None:
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:  # Python spells out no more than 4,300 digits
        raise ConfigError(f"{where}: a number of more than 18 digits")


def _represent_float(representer: Any, value: float) -> Any:
    # YAML 1.1 wants a dot: to it, 1e-06 is a text.
    node = type(representer).represent_float(representer, value)
    if "e" in node.value and "." not in node.value:
        node.value = node.value.replace("e", ".0e", 1)
    return node


def _represent_text(representer: Any, text: str) -> Any:
    # In YAML 1.1 these words are true and false.
    word = text.lower() in ("yes", "no", "on", "off", "y", "n")
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style="'" if word else None)


# ── what takes long ──────────────────────────────────────────────────────────────────────────────────────


class _SpeedColumn(ProgressColumn):
    """How many of the unit are done in a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self._unit}/s")


def progress_bar(console: Console, unit: str | None = None) -> Progress:
    """A bar that goes when it is done. None where there is no terminal: it would leave empty lines.

    Args:
        unit: what is counted, if the speed is to be shown.
    """
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn()] if unit is None else [_SpeedColumn(unit), TimeRemainingColumn()]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def counted(console: Console, label: str, unit: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, moved by a function of how much is done and of how much there is; with `unit`, it shows
    the speed."""
    with progress_bar(console, unit) as progress:
        bar = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
