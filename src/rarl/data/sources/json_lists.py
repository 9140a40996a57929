"""The lists of a large JSON file, entry by entry: `json.load` of 450 MB of annotations takes several GB, and
this takes a few MB. What the entries mean is for the sources."""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rarl.errors import DataError

PIECE = 1 << 20  # bytes read at a time
LONGEST = 1 << 26  # characters of a single entry

WHITE_SPACE = re.compile(r"[ \t\n\r]*")
PART_OF_NUMBER = re.compile(r"[-+.0-9eE]*")  # a number at the end of a piece may go on: 12|.5

Entry = tuple[str, int, Any]
"""The name of a list, the number of the entry in it (from 1), and the entry."""


def read_lists(file: Path, names: Sequence[str]) -> Iterator[Entry]:
    """The entries of the lists called `names` in the object that the file holds, as they come in the file.

    Raises:
        DataError: if the file can't be read or is not such an object, if one of the lists is missing or there
            twice, or if an entry is longer than `LONGEST`. What came before has been yielded by then.
    """
    try:
        with open(file, "rb") as stream:
            yield from _lists(_Window(file, stream), names)
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error


def _lists(window: "_Window", names: Sequence[str]) -> Iterator[Entry]:
    seen: list[str] = []
    for _ in window.items("{", "}"):
        key = window.value()
        if not isinstance(key, str):
            raise window.error("a name in quotes is missing")
        window.take(":")
        if key not in names:
            window.skip()
            continue
        if key in seen:
            raise DataError(f"{window.file}: '{key}' is there twice; keep one of the two")
        seen.append(key)
        if window.next() != "[":
            raise DataError(f"{window.file}: '{key}' must be a list")
        for number in window.items("[", "]"):
            yield key, number, window.value()
    if window.next():
        raise window.error("there is more after the end")
    for name in names:
        if name not in seen:
            raise DataError(f"{window.file}: no '{name}'; there must be the lists {', '.join(names)}")


class _Window:
    """The part of a JSON text that is being read."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.file = file
        self._stream = stream
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._before = 0  # characters in front of the window
        self._ended = False

    def items(self, opening: str, closing: str) -> Iterator[int]:
        """Stands at each item between two brackets in turn; whoever asks for the next has read the last."""
        self.take(opening)
        if self.next() == closing:
            self.take(closing)
            return
        number = 1
        yield number
        while self.next() == ",":
            self.take(",")
            number += 1
            yield number
        self.take(closing)

    def next(self) -> str:
        """The next character that is no white space, or "" at the end; it stays where it is."""
        while True:
            match = WHITE_SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, mark: str) -> None:
        """Passes over `mark`, which must be next."""
        if self.next() != mark:
            raise self.error(f"'{mark}' is missing")
        self._at += 1

    def value(self) -> Any:
        """The next value, whole."""
        self.next()
        while True:
            problem = "an entry goes on behind this"
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:  # or the rest is not yet in the window
                problem = error.msg
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from error
            else:
                if self._ended or not PART_OF_NUMBER.fullmatch(self._text, end):
                    self._at = end
                    return value
            if len(self._text) - self._at > LONGEST:
                raise self.error(f"{problem}, or an entry is longer than {LONGEST:,} characters")
            if not self._more():
                raise self.error(problem)

    def skip(self) -> None:
        """Passes over the next value; of a list, entry by entry."""
        if self.next() != "[":
            self.value()
            return
        for _ in self.items("[", "]"):
            self.value()

    def error(self, problem: str) -> DataError:
        place = self._before + self._at
        return DataError(
            f"{self.file}: not JSON, from character {place:,} on ({problem}); is the download whole?"
        )

    def _more(self) -> bool:
        """Reads on, at least as much as is left in the window; whether there was more."""
        rest = self._text[self._at :]
        self._before += self._at
        self._at = 0
        data = b"" if self._ended else self._stream.read(max(PIECE, len(rest)))
        was_ended, self._ended = self._ended, not data
        try:
            self._text = rest + self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.file}: not UTF-8 ({error.reason}); save it as UTF-8") from error
        return not was_ended
