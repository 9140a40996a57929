"""The annotations of COCO 2017 and COCO-ReM as counts: how many of each category are in each image. A file of
450 MB is read as a stream, in one pass and little memory, and only what is counted is kept of it. Annotations
are counted as the file lists them; nothing is mended."""

import codecs
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from rarl.data.names import spelling
from rarl.data.sources import LeftOut
from rarl.errors import DataError

PIECE = 1 << 16  # bytes read at a time
LONGEST_ENTRY = 1 << 26  # bytes
LONGEST_NAME = 1000  # bytes

COCO_LISTS: Mapping[str, Collection[str]] = {
    "images": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
}
"""The lists that a file must have, and the keys of their entries that are read. Masks and boxes are not."""

Pair = tuple[int, int]
"""Two ids, such as those of an image and of a category."""


@dataclass(frozen=True)
class Annotations:
    """The counts of one file.

    Attributes:
        file: the file.
        images: the file name of each image id.
        categories: the name of each category id; no name occurs twice (one that nothing is annotated
            as gives way), and none contains a "#".
        counts: how many annotations each pair has, crowds apart; a pair that is missing has none.
        crowds: how many crowd annotations each pair has, likewise.
        left_out: annotations whose id occurred before in their image, or whose image or category is not in
            the file.
    """

    file: Path
    images: dict[int, str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    counts: Counter[Pair] = field(default_factory=Counter)
    crowds: Counter[Pair] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """Every pair that has an annotation of either kind, in the order of the ids."""
        return sorted(self.counts.keys() | self.crowds.keys())


def read_annotations(file: Path) -> Annotations:
    """The counts of a file such as `instances_val2017.json`. An annotation without `iscrowd` is no crowd.

    Raises:
        DataError: if the file is malformed; it names the list and the entry.
    """
    read = Annotations(file)
    ids: set[Pair] = set()
    again: dict[int, str] = {}
    for key, number, entry in stream_lists(file, COCO_LISTS):
        where = f"{file}: {key} entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: must be an object, not {_short(entry)}")
        if key == "images":
            _add_image(read, entry, where)
        elif key == "categories":
            _add_category(read, entry, where, again)
        else:
            _add_annotation(read, entry, where, ids)
    _drop_unused_twins(read, again)
    _leave_out_strangers(read)
    return read


def _add_image(read: Annotations, entry: Mapping[str, Any], where: str) -> None:
    image = _id(entry, "id", where)
    if image in read.images:
        raise DataError(f"{where}: id {image} is there twice; give each image an id of its own")
    read.images[image] = _name_field(entry, "file_name", where)


def _add_category(read: Annotations, entry: Mapping[str, Any], where: str, again: dict[int, str]) -> None:
    category, name = _id(entry, "id", where), spelling(_name_field(entry, "name", where)).strip()
    if "#" in name or not name.isprintable():
        raise DataError(f"{where}: name {name!r} must be printable and without '#': it goes into ids")
    twice = f"{where}: id {category} or name {name!r} is there twice; give each its own"
    if category in read.categories:
        raise DataError(twice)
    if name in read.categories.values():
        again[category] = twice
    read.categories[category] = name


def _drop_unused_twins(read: Annotations, again: Mapping[int, str]) -> None:
    """Of two categories of one name the one that nothing is annotated as is dropped: Roboflow's exports begin
    with a category that only groups the others, and often has the name of one.

    Raises:
        DataError: if both have annotations, or neither has.
    """
    used = {category for _, category in read.pairs()}
    for category, problem in again.items():
        twins = [each for each, name in read.categories.items() if name == read.categories[category]]
        unused = [each for each in twins if each not in used]
        if len(twins) - len(unused) != 1:
            raise DataError(problem)
        for each in unused:
            del read.categories[each]


def _add_annotation(read: Annotations, entry: Mapping[str, Any], where: str, ids: set[Pair]) -> None:
    pair = _id(entry, "image_id", where), _id(entry, "category_id", where)
    crowd = 0 if entry.get("iscrowd") is None else entry["iscrowd"]
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise DataError(f"{where}: 'iscrowd' must be 0 or 1, not {_short(crowd)}")
    # Not all that write such files number the annotations, or go on counting in the next image.
    number = None if entry.get("id") is None else _id(entry, "id", where)
    if number is not None and (number, pair[0]) in ids:
        reason = f"id {number} again; an id counts once"
        read.left_out.append(LeftOut(f"{read.file.name} annotations {where.rpartition(' ')[2]}", reason))
        return
    if number is not None:
        ids.add((number, pair[0]))
    (read.crowds if crowd else read.counts)[pair] += 1


def _leave_out_strangers(read: Annotations) -> None:
    strangers: Counter[str] = Counter()
    for counter in (read.counts, read.crowds):
        for image, category in list(counter):
            if image not in read.images:
                strangers[f"image_id {image}"] += counter.pop((image, category))
            elif category not in read.categories:
                strangers[f"category_id {category}"] += counter.pop((image, category))
    for name, count in strangers.items():
        reason = f"not in the file, and has {count} annotation{'s' if count > 1 else ''}"
        read.left_out.append(LeftOut(f"{read.file.name} {name}", reason))


def _id(entry: Mapping[str, Any], key: str, where: str) -> int:
    """A whole number, also if it is written as a text or with a point, as tables make it of one."""
    value = _value(entry, key, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where}: '{key}' must be a whole number, not {_short(value)}")
    return value


_WHOLE = re.compile(r"-?[0-9]{1,18}")


def _name_field(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = _value(entry, key, where)
    try:
        if isinstance(value, str) and value.strip() and len(value.encode()) <= LONGEST_NAME:
            return value.strip()
    except UnicodeEncodeError:
        pass  # half of a surrogate pair: no file could hold it
    raise DataError(f"{where}: '{key}' must be a text, neither empty nor long, not {_short(value)}")


def _value(entry: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise DataError(f"{where}: no '{key}'; the keys there are {_short(', '.join(entry)) or 'none'}")
    return entry[key]


def _short(value: object) -> str:
    """A value for a message, cut: hostile ones are long."""
    shown = value if isinstance(value, str) else ascii(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


# ── the file as a stream ─────────────────────────────────────────────────────────────────────────────────

Event = tuple[str, Any]
"""One step of ijson's through a JSON text, such as ("map_key", "id") or ("start_array", None)."""

# Half of a surrogate pair, escaped: YAJL would read the first half as a "?".
_HALF_CHARACTER = re.compile(rb"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def stream_lists(file: Path, lists: Mapping[str, Collection[str] | None]) -> Iterator[tuple[str, int, Any]]:
    """The entries of some lists of the object that a JSON file holds, in the order of the file: the name of
    the list, the number of the entry in it (from 1), and the entry. What precedes an error has been yielded
    by then.

    Args:
        lists: the names of the lists, each with the keys of its entries that are wanted, or None for all.
            Other keys of an entry have the value None.

    Raises:
        DataError: if the file can't be read or is not such an object, a list is missing or there twice, or an
            entry is longer than `LONGEST_ENTRY`.
    """
    try:
        with open(file, "rb") as stream:
            if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                stream.seek(0)
            pieces = _Pieces(file, stream)
            try:
                events = ijson.basic_parse(pieces, use_float=True, buf_size=PIECE)
                yield from _entries(file, events, pieces, lists)
                for _ in events:
                    pass  # so that anything after the end is an error
            except (ijson.JSONError, ValueError, RecursionError) as error:
                raise pieces.error(str(error).partition("\n")[0]) from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error


def _entries(
    file: Path, events: Iterator[Event], pieces: "_Pieces", lists: Mapping[str, Collection[str] | None]
) -> Iterator[tuple[str, int, Any]]:
    if next(events) != ("start_map", None):
        raise pieces.error("'{' is missing")
    seen: list[str] = []
    for _, key in iter(lambda: next(events), ("end_map", None)):
        event, value = next(events)
        pieces.place, pieces.since = f"'{key}'", 0
        if key in lists:
            if key in seen:
                raise DataError(f"{file}: '{key}' is there twice; keep one of the two")
            seen.append(key)
            if event != "start_array":
                raise DataError(f"{file}: '{key}' must be a list")
        if event != "start_array":
            _skip(events, event)
            continue
        for number, (event, value) in enumerate(iter(lambda: next(events), ("end_array", None)), 1):
            pieces.place = f"{key} entry {number}"
            if key in lists:
                yield key, number, _built_value(events, event, value, lists[key])
            else:
                _skip(events, event)
            pieces.since = 0
    for name in lists:
        if name not in seen:
            raise DataError(f"{file}: no '{name}'; there must be the lists {', '.join(lists)}")


def _built_value(events: Iterator[Event], event: str, value: Any, keys: Collection[str] | None = None) -> Any:
    """The value that `event` begins; of an object, only the values of `keys` are built, if they are given."""
    if event == "start_array":
        return [_built_value(events, *begun) for begun in iter(lambda: next(events), ("end_array", None))]
    if event != "start_map":
        return value
    fields = {}
    for _, key in iter(lambda: next(events), ("end_map", None)):
        event, value = next(events)
        if keys is None or key in keys:
            fields[key] = _built_value(events, event, value)
        else:
            _skip(events, event)
            fields[key] = None
    return fields


def _skip(events: Iterator[Event], event: str) -> None:
    """Passes over the value that `event` begins."""
    if event not in ("start_array", "start_map"):
        return
    depth = 1
    for event, _ in events:
        if event == "number":  # nearly all of them, in masks
            continue
        if event in ("start_array", "start_map"):
            depth += 1
        elif event in ("end_array", "end_map"):
            depth -= 1
            if depth == 0:
                return


class _Pieces:
    """A file as ijson reads it, piece by piece. It checks the encoding, and that no entry goes on forever.

    Attributes:
        place: the list or entry that is being read, for errors.
        since: bytes read since the last entry.
    """

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.place = ""
        self.since = 0
        self._file = file
        self._stream = stream
        self._read = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._end = b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes at most; ijson calls it once with 0 to see that these are bytes."""
        if size == 0:
            return b""
        data = self._stream.read(size)
        self._read += len(data)
        self.since += len(data)
        if self.since > LONGEST_ENTRY:
            raise self.error(f"an entry is longer than {LONGEST_ENTRY:,} bytes")
        try:
            self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._file}: not UTF-8 ({error.reason}); save it as UTF-8") from error
        joined = self._end + data
        self._end = joined[-12:]
        half = _HALF_CHARACTER.search(joined) if b"\\u" in joined else None
        # At the end of a piece, the other half may be in the next.
        if half is not None and (half.end() + 6 <= len(joined) or not data):
            raise self.error(f"{half[0].decode()} is half of a character")
        return data

    def error(self, problem: str) -> DataError:
        place = f"in or after {self.place}, " if self.place else ""
        read = f"within the first {self._read:,} bytes"
        return DataError(f"{self._file}: not JSON, {place}{read} ({problem}); is the download whole?")
