"""Names as people have them: which file, value or category a name means that is not written quite as that one
is. The one place where names are matched; it knows texts alone and opens nothing (`listing` finds files).
Exact names come first, and a looser reading counts only where one name alone fits it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

SHOWN_NAMES = 5
_SURROGATE = "Cs"  # a byte of a file's name that is not UTF-8, or half of a pair: no file could hold it
_CONTROL = "Cc"
_INVISIBLE = "Cf"  # joiners, marks of direction
_LOOKS = "\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}"  # whether an emoji is in colour

# Chains too: "a.jpg.chip.jpg". Formats that are no images here are what a table says of converted photos.
_SUFFIXES = re.compile(r"(\.(jpe?g|jfif|png|webp|bmp|gif|tiff?|hei[cf]|avif|dcm|chip))+$", re.IGNORECASE)


def is_readable(name: str) -> bool:
    """Whether a name can stand in a file and in a message: it is UTF-8 and has no control characters. Spaces
    and joiners of any script are readable."""
    return not any(unicodedata.category(mark) in (_SURROGATE, _CONTROL) for mark in name)


def without_suffixes(name: str) -> str:
    """The name without suffixes of images: "a" for "a.jpg.chip.jpg"."""
    return _SUFFIXES.sub("", name)


def spelling(text: str) -> str:
    """A text in one spelling: two that look the same have the same one. Normal form C, every space a plain
    one, no invisible marks. Upper and lower case stay."""
    plain = unicodedata.normalize("NFC", text)
    if plain.isascii():
        return plain
    kinds = ((mark, unicodedata.category(mark)) for mark in plain)
    return "".join(
        " " if kind == "Zs" else mark for mark, kind in kinds if kind != _INVISIBLE and mark not in _LOOKS
    )


def same_word(text: str) -> str:
    """What two names of a value, a column or a category have in common if they are the same word: the
    spelling, without case, without spaces around it and with one between its parts."""
    return " ".join(spelling(text).split()).casefold()


def words_like(wanted: str, there: Iterable[str]) -> list[str]:
    """Which of the words that are there a word means: the one written exactly so, or else all that are the
    same word."""
    known = list(there)
    return [wanted] if wanted in known else [word for word in known if same_word(word) == same_word(wanted)]


@dataclass(frozen=True)
class Matches:
    """What names mean.

    Attributes:
        found: for each name that means one of those that are there: which.
        loosely: of these, the ones that are not written exactly so: how they differ.
        several: for each name that may mean several: which, a few of them; or the one that another name means
            as well, or better.
    """

    found: Mapping[str, str] = field(default_factory=dict)
    loosely: Mapping[str, str] = field(default_factory=dict)
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def notes(self) -> dict[str, str]:
        """What was matched loosely, to be said once: a note of a source, or nothing."""
        if not self.loosely:
            return {}
        counts = Counter(self.loosely.values())
        ways = ", ".join(f"{number:,} {how}" for how, number in counts.most_common())
        name = next(iter(self.loosely))
        return {"names matched loosely": f"{ways}; such as {name!r} for {self.found[name]!r}"}

    def reason(self, name: str) -> str:
        """Why a name that is not in `found` means nothing."""
        if len(self.several.get(name, ())) == 1:
            return f"no such file; {self.several[name][0]!r} is meant by another name"
        if name in self.several:
            return f"may be {' or '.join(map(repr, self.several[name]))}; write the whole name"
        return "no such file"


def match_names(
    wanted: Iterable[str], there: Iterable[str], *, taken: Iterable[str] = (), shared: bool = False
) -> Matches:
    """What each of the names `wanted` means, of the names `there`, with "/" between folders.

    A name is, in this order: exactly so; in another Unicode normal form; with backslashes or doubled slashes;
    with other spaces or invisible marks; with its suffix in another case; in another case; and each of these
    without suffixes of images, and as a spreadsheet writes numbers, "7" or "7.0" for "007"; and then as the
    end of a path on either side: "b.jpg" for "a/b.jpg", "/data/b.jpg" for "b.jpg", and where that is an
    address, the path in it; and last as Label Studio calls what was uploaded. The first reading that one name
    alone fits is taken; where several fit, the name means none, and no later reading is tried.

    Args:
        taken: names that are there and that other names mean exactly.
        shared: whether several names may mean the same one. Otherwise they do so only in another spelling of
            it; looser readings are for names that no better one means, and only one name may claim it.
    """
    remaining = list(dict.fromkeys(wanted))
    exact = set(there)
    found = {name: name for name in remaining if name in exact}
    claimed = {*taken, *found}
    loosely: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    remaining = [name for name in remaining if name not in found]
    # Of 250,000 names only the few are read in every way that may mean one of those that are not exact.
    core = {each for name in remaining for each in _cores(name)}
    names = sorted(name for name in exact if not core.isdisjoint(_cores(name))) if remaining else []
    for reading in _READINGS:
        if not remaining:
            break
        index = _Index(names, reading)
        claims: dict[str, list[str]] = {}
        for name in remaining:
            fitting = index.find(name)
            if len(fitting) == 1:
                claims.setdefault(fitting[0], []).append(name)
            elif fitting:
                several[name] = fitting[:SHOWN_NAMES]
        for name, claimants in claims.items():
            alone = name not in claimed and len({_plain(each) for each in claimants}) == 1
            if shared or reading.same or alone:
                found |= dict.fromkeys(claimants, name)
                loosely |= dict.fromkeys(claimants, reading.how)
                claimed.add(name)
            else:
                several |= {each: [name] for each in claimants}
        remaining = [name for name in remaining if name not in found and name not in several]
    return Matches(found, loosely, several)


# ── the readings ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Reading:
    """One way to read names.

    Attributes:
        how: the way, as a message says it.
        key: what two names have in common that are the same in this reading; "" for none.
        same: whether names with one key are one name, in another spelling.
        ends: whether the end of a path is enough, on either side.
        asked: the key of a name that means one of those that are there, where theirs has another.
    """

    how: str
    key: Callable[[str], str]
    same: bool = False
    ends: bool = False
    asked: Callable[[str], str] | None = None


class _Index:
    """The names that are there, by their keys."""

    def __init__(self, names: Sequence[str], reading: _Reading) -> None:
        self._reading = reading
        self._whole: dict[str, list[str]] = {}
        self._ends: dict[str, list[str]] = {}
        for name in names:
            key = reading.key(name)
            self._whole.setdefault(key, []).append(name)
            for end in _path_ends(key) if reading.ends else ():
                self._ends.setdefault(end, []).append(name)

    def find(self, name: str) -> list[str]:
        """All names that `name` may mean; of paths that it ends with, only the longest."""
        key = (self._reading.asked or self._reading.key)(name)
        if not key.rpartition("/")[2]:
            return []
        if key in self._whole or not self._reading.ends:
            return self._whole.get(key, [])
        longest = next((self._whole[end] for end in _path_ends(key) if end in self._whole), [])
        return self._ends.get(key) or longest


def _path_ends(path: str) -> Iterator[str]:
    """ "b/c" and "c" for "a/b/c"."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


_SLASHES = re.compile(r"/(\.?/)+")  # "a//b" and "a/./b" are "a/b"


def _normal(name: str) -> str:
    path = _composed(name).replace("\\", "/").removeprefix("./")
    return _SLASHES.sub("/", path) if "//" in path or "/./" in path else path


def _plain(name: str) -> str:
    return spelling(_normal(name))


def _path_of_address(name: str) -> str:
    """The path in an address, such as Label Studio's "/data/local-files/?d=a%20b.jpg"."""
    path, _, query = name.partition("?")
    return _plain(unquote(query.removeprefix("d=") if query.startswith("d=") else path))


def _suffix_lowered(name: str) -> str:
    stem = without_suffixes(plain := _plain(name))
    return stem + plain[len(stem) :].lower()


def _lowered(name: str) -> str:
    return _plain(name).casefold()


def _stem(name: str) -> str:
    return without_suffixes(_plain(name))


def _lowered_stem(name: str) -> str:
    return _stem(name).casefold()


_NUMBER = re.compile(r"([0-9]+)(\.0+)?")


def _number(name: str) -> str:
    """A name that is a number, without zeros before it and after its point, as spreadsheets write."""
    folder, slash, last = _stem(name).rpartition("/")
    found = _NUMBER.fullmatch(last)
    return folder + slash + (found[1].lstrip("0") or "0") if found else ""


def _bare_number(name: str) -> str:
    """The same of a name without a suffix: no spreadsheet makes "7.jpg" of "007.jpg"."""
    return _number(name) if _stem(name) == _plain(name) else ""


_UPLOAD = re.compile(r"(?:^|/)upload/[0-9]+/(?:[0-9a-f]{8}-)?([^/]+)$")


def _of_upload(name: str) -> str:
    """What Label Studio calls a file without the folder and the prefix that it has given it, "b_c.jpg" for
    "/data/upload/3/1a2b3c4d-b_c.jpg"; "" for any other name."""
    found = _UPLOAD.search(_path_of_address(name))
    return _uploaded(found[1]) if found else ""


def _uploaded(name: str) -> str:
    """A name as Label Studio writes that of a file that is uploaded."""
    folder, slash, last = _plain(name).rpartition("/")
    return folder + slash + _valid(last)


def _valid(name: str) -> str:
    """As Django's `get_valid_filename`."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))


def _cores(name: str) -> set[str]:
    """What two names have in common, one of them at least, if they are the same in any reading."""
    stems = [_lowered_stem(name)]
    if "%" in name or "?" in name:
        stems.append(_lowered_stem(_path_of_address(name)))
    if "upload" in name:
        stems.append(_lowered_stem(_of_upload(name)))
    ends = {stem.rpartition("/")[2] for stem in stems}
    return ends | {_number(end) or _valid(end) for end in ends}


_WHOLE = (
    _Reading("in another Unicode form", _composed, same=True),
    _Reading("with other slashes", _normal, same=True),
    _Reading("with other spaces or invisible marks", _plain, same=True),
    _Reading("in another case", _suffix_lowered),
    _Reading("in another case", _lowered),
)
_STEMS = (
    _Reading("without the suffix or with another", _stem),
    _Reading("without the suffix or with another", _lowered_stem),
    _Reading("as a number", _number, asked=_bare_number),
)
_AT_END = tuple(
    _Reading("by the end of the path", key, ends=True)
    for key in (_normal, _plain, _path_of_address, _suffix_lowered, _lowered, _stem, _lowered_stem)
)
_NUMBER_AT_END = _Reading("by the end of the path", _number, ends=True, asked=_bare_number)
_LAST = _Reading("as Label Studio calls uploads", _uploaded, ends=True, asked=_of_upload)
_READINGS = (*_WHOLE, *_STEMS, *_AT_END, _NUMBER_AT_END, _LAST)
