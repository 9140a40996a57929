"""Divides the images of a source into train, validation and test as its lists say: which image an entry
means, and what becomes of images in no list. Images without lists are divided when they are prepared."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rarl.data.sources import SHOWN, Labelled, LeftOut
from rarl.data.split_lists import Listed, SplitLists
from rarl.errors import DataError

_IMAGE_SUFFIXES = re.compile(r"(\.(jpe?g|png|webp|bmp|gif|chip))+$", re.IGNORECASE)


@dataclass(frozen=True)
class Division:
    """Images with their parts, what else is left out, and the entries for an image, by what it is called."""

    images: Sequence[Labelled]
    left_out: Sequence[LeftOut] = ()
    listed: dict[str, list[Listed]] = field(default_factory=dict)


def divide(
    images: Sequence[Labelled],
    lists: SplitLists,
    left_out: Iterable[LeftOut] = (),
    called: Callable[[str], str] = str,
) -> Division:
    """Gives each image the part that the lists say; without lists they stay as they are.

    A list may call an image by its name, by the end of its name ("b.jpg" for "a/b.jpg"), by a path that ends
    with its name ("/data/a/b.jpg"), and by each of these without image suffixes ("b"). Where there is a list
    of training images, an image in no list is left out; where there is none, it belongs to train. An entry
    that is no image is left out, unless it is one of `left_out` already. The same image twice in one part is
    fine.

    Args:
        left_out: of the same source, so that nothing is left out twice.
        called: what the lists are to know a name by, such as the name without its folders.

    Raises:
        DataError: if an entry fits several images, an image has two parts, or a part has none of the images.
    """
    if not lists.entries:
        return Division(images)
    names = _Names((called(image.name) for image in images), (called(each.name) for each in left_out))
    listed, missing = _listed(lists, names)
    _check_parts(lists, listed, images)
    rest = None if any(entry.part == "train" for entry in lists.entries) else "train"
    kept = []
    for image in images:
        entries = listed.get(called(image.name))
        part = entries[0].part if entries else rest
        if part is None:
            missing.append(LeftOut(image.name, "in no list of --split"))
        else:
            kept.append(replace(image, split=part))
    return Division(kept, missing, listed)


def without_suffixes(name: str) -> str:
    """The name without suffixes of images: "a" for "a.jpg.chip.jpg"."""
    return _IMAGE_SUFFIXES.sub("", name)


def _listed(lists: SplitLists, names: "_Names") -> tuple[dict[str, list[Listed]], list[LeftOut]]:
    """The entries for each image, by name, and the entries that are no image."""
    first: dict[str, Listed] = {}
    listed: dict[str, list[Listed]] = {}
    missing = []
    for entry in lists.entries:
        name = names.find(entry)
        other = first.setdefault(name or entry.key, entry)
        if other.part != entry.part:
            raise DataError(
                f"{entry.where}: {name or entry.key!r} is of {entry.part} here and of {other.part} in "
                f"{other.where}; remove one of the two"
            )
        if name in names.present:
            listed.setdefault(name, []).append(entry)
        elif name is None and other is entry:
            file = Path(entry.where).name
            missing.append(LeftOut(entry.key, f"listed, but there is no such file ({file})"))
    return listed, missing


class _Names:
    """The names of images, found by what a list calls them; `absent` are those of images left out."""

    def __init__(self, present: Iterable[str], absent: Iterable[str]) -> None:
        self.present = set(present)
        self._all = self.present.union(absent)
        self._exact = _Ends((name, name) for name in self._all)
        self._stems = _Ends((without_suffixes(name), name) for name in self._all)

    def find(self, entry: Listed) -> str | None:
        name = self._exact.find(entry.key)
        if name is None:
            name = self._stems.find(without_suffixes(entry.key))
        if name == _SEVERAL:
            stem = "/" + without_suffixes(entry.key.rpartition("/")[2])
            fitting = sorted(name for name in self._all if f"/{without_suffixes(name)}".endswith(stem))
            several = " or ".join(map(repr, fitting[:SHOWN]))
            raise DataError(f"{entry.where}: {entry.key!r} may be {several}; write the whole name")
        return name


_SEVERAL = ""


class _Ends:
    """Names by what they are called and by the ends of that, such as "b" for "a/b"; `_SEVERAL` where that
    fits several."""

    def __init__(self, called: Iterable[tuple[str, str]]) -> None:
        self._whole: dict[str, str] = {}
        self._ends: dict[str, str] = {}
        for call, name in called:
            self._whole[call] = _SEVERAL if call in self._whole else name
            for end in _ends(call):
                self._ends[end] = _SEVERAL if end in self._ends else name

    def find(self, key: str) -> str | None:
        for names, call in ((self._whole, key), (self._ends, key), *((self._whole, e) for e in _ends(key))):
            if call in names:
                return names[call]
        return None


def _ends(path: str) -> Iterator[str]:
    """ "b/c" and "c" for "a/b/c"."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _check_parts(lists: SplitLists, listed: dict[str, list[Listed]], images: Sequence[Labelled]) -> None:
    parts = {entries[0].part for entries in listed.values()}
    for entry in lists.entries:
        if entry.part not in parts:
            names = ", ".join(repr(image.name) for image in images[:SHOWN]) or "none"
            raise DataError(
                f"{entry.where}: neither {entry.key!r} nor any other entry of {entry.part} is an image that "
                f"is there, such as {names}; check that the list is one of these images"
            )
