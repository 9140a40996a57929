"""The files of a folder: found by name without leading out of it, and walked through without what systems
leave among photos, such as `__MACOSX` and `Thumbs.db`. What a name means that is not written quite so is up
to `names`. No file is opened."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rarl.data.names import Matches, is_readable, match_names
from rarl.errors import DataError

# ── what is no photo ─────────────────────────────────────────────────────────────────────────────────────

# Left by macOS, Windows, Synology, QNAP, Linux and web servers. All are compared without case.
_FOLDERS = (
    *("__MACOSX", "Network Trash Folder", "Temporary Items", "$RECYCLE.BIN", "RECYCLER"),
    *("System Volume Information", "@eaDir", "#recycle", "#snapshot", "@tmp", "@Recycle"),
    *("@Recently-Snapshot", "lost+found", "_vti_cnf"),
)
_FILES = (
    *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Picasa.ini", "ZbThumbnail.info"),
    "Icon\r",
)
_PREPARED = {"task.yaml", "preparation.json"}  # of a collection that `rarl data prepare` made
_KNOWN = {name.lower(): name.strip() for name in (*_FOLDERS, *_FILES)}


def no_photo(name: str) -> str | None:
    """What says that a path is that of no photo, such as "__MACOSX" or "._*"; None if nothing does. Hidden
    files and folders are no photos, ".*", with what is in them."""
    for part in name.replace("\\", "/").split("/"):
        if part.lower() in _KNOWN:
            return _KNOWN[part.lower()]
        if part.startswith("._"):
            return "._*"
        if part.startswith("."):
            return part if part in (".DS_Store", ".thumbnails") else ".*"
    return None


@dataclass
class Walked:
    """What is in a folder and those below it. Names have "/" between folders.

    Attributes:
        files: all but the following, by folder and name.
        links: links to folders, which are not followed.
        unreadable: names that no file can hold or no message show; escaped.
        no_photos: how many files were passed over, by what says that they are no photos.
    """

    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    no_photos: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Walked") -> None:
        """Joins what another walk found."""
        self.files += other.files
        self.links += other.links
        self.unreadable += other.unreadable
        self.no_photos += other.no_photos

    def notes(self) -> dict[str, dict[str, int]]:
        """How many files were passed over, as a note of a source; nothing if none was."""
        return {"left out as no photos": dict(self.no_photos.most_common())} if self.no_photos else {}


def is_prepared(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is a collection that was made of photos."""
    return _PREPARED.issubset(names)


def walk_files(root: Path, sub: str = "", *, prepared: bool = False) -> Walked:
    """The files in the folder `sub` of `root`, named from `root`; in all of `root` if `sub` is empty.

    Args:
        prepared: also those of collections below it. Otherwise these are no photos: they are made of some.

    Raises:
        DataError: if a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        inner = os.path.relpath(error.filename, root).replace(os.sep, "/")
        if inner != "." and no_photo(inner) is not None:
            return  # such as lost+found, which nobody may read
        raise DataError(f"{error.filename}: can't be read ({error.strerror or error})") from error

    walked = Walked()
    found: list[tuple[str, str]] = []
    for at, folders, files in os.walk(root / sub if sub else root, onerror=refuse):
        inner = os.path.relpath(at, root).replace(os.sep, "/")
        inside = "" if inner == "." else f"{inner}/"
        if not prepared and inner != (sub or ".") and is_prepared(files):
            folders.clear()
            walked.no_photos["collections"] += 1
            continue
        for name in folders:
            if os.path.islink(os.path.join(at, name)) and no_photo(inside + name) is None:
                walked.links.append(inside + name)
        for name in files:
            whole = inside + name
            if (kind := no_photo(whole)) is not None:
                walked.no_photos[kind] += 1
            elif not is_readable(whole):
                walked.unreadable.append(ascii(whole)[1:-1])
            else:
                found.append((inside, name))
    walked.files = [inside + name for inside, name in sorted(found)]
    walked.links.sort()
    walked.unreadable.sort()
    return walked


# ── files by name ────────────────────────────────────────────────────────────────────────────────────────

_NOWHERE = frozenset(("", ".", ".."))  # no part of a name may be one of these


@dataclass(frozen=True)
class Found:
    """The files that names mean.

    Attributes:
        files: for each name that means a file: the file's own name in the folder, and its path.
        matches: how the names were matched that are not written exactly so.
        no_photos: for each name of what is no photo, what says so.
        outside: for each other name that means no file and leads out of the folder, or may: that it does.
    """

    files: Mapping[str, tuple[str, Path]]
    matches: Matches
    no_photos: Mapping[str, str]
    outside: Mapping[str, str]

    def reason(self, name: str) -> str:
        """Why a name that is not in `files` means no file."""
        if name in self.no_photos:
            return f"no photo ({self.no_photos[name]})"
        if name in self.outside:
            return self.outside[name]
        return self.matches.reason(name)


class ListedFolder:
    """A folder whose files are found by name. Each sub-folder is listed once, since asking the disk about
    every file of 250,000 takes long."""

    def __init__(self, path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None) -> None:
        """Links may lead anywhere in `within`, or in `path` itself if it is not given."""
        self.path = Path(os.path.abspath(path))
        self.within = self.path if within is None else Path(os.path.abspath(within))
        self._real = os.path.realpath(self.within)
        self._listings: dict[str, dict[str, bool]] = {}
        self._forms: dict[str, dict[str, list[str]]] = {}  # folder -> normal form -> names on the disk

    def find(self, name: str, where: str) -> Path | None:
        """The file `name`, such as "a.png" or "b/a.png", also if the disk has it in another Unicode normal
        form, as after a copy from or to a Mac; None if there is no such file.

        Raises:
            DataError: if the name leads out of the folder, or may, or if a folder can't be read; the message
                begins with `where`.
        """
        if self._leads_out(name):
            raise self._outside(name, where)
        path = self._find_exactly(name, where)
        if path is None and not name.isascii() and (other := self._in_other_form(name)) is not None:
            path = self._find_exactly(other, where)
        if path is None and "\\" in name:  # a file may have it in its name; elsewhere it is between folders
            raise self._outside(name, where)
        return path

    def _find_exactly(self, name: str, where: str) -> Path | None:
        parts = name.split("/")
        parent = "/".join(parts[:-1])
        if parent not in self._listings:
            try:
                self._listings[parent] = self._list(parent, where)
            except OSError as error:
                folder = str(self.path / parent)
                raise DataError(f"{where}: {folder!r} can't be read ({error.strerror or error})") from error
        is_link = self._listings[parent].get(parts[-1])
        if is_link is None:
            return None
        path = self.path / name
        if is_link:
            self._check(path, where)
            if not path.is_file():
                return None
        return path

    def find_all(self, names: Mapping[str, str]) -> Found:
        """The files that names mean: those of exactly these names, and for the others what `match_names`
        finds among all files of the folder and those below it.

        Args:
            names: each with its place, for errors.

        Raises:
            DataError: if a link leads out of the folder, or a folder can't be read.
        """
        files: dict[str, tuple[str, Path]] = {}
        no_photos = {name: kind for name in names if (kind := _known_no_photo(name)) is not None}
        others = []
        for name, where in names.items():
            if name in no_photos:
                continue
            path = None if self._leads_out(name) else self._find_exactly(name, where)
            if path is not None:
                files[name] = (name, path)
            else:
                others.append(name)
        matches = Matches()
        if others:
            there = walk_files(self.path).files
            matches = match_names(others, there, taken=files)
            for name, own in matches.found.items():
                path = self.find(own, names[name])
                if path is not None:  # a link to nothing is no file
                    files[name] = (own, path)
        outside = {
            name: f"no such file, {self._inside(name)}"
            for name in others
            if name not in files and name not in matches.several
            if self._leads_out(name) or "\\" in name
        }
        return Found(files, matches, no_photos, outside)

    def _in_other_form(self, name: str) -> str | None:
        """What the disk has in place of `name`, if that is the same but for the normal form and nothing else
        is."""
        found: list[str] = []
        for part in name.split("/"):
            inside = "/".join(found)
            if inside not in self._forms:
                forms: dict[str, list[str]] = {}
                folder = self.path / inside
                for entry in os.listdir(folder) if folder.is_dir() else ():
                    forms.setdefault(unicodedata.normalize("NFC", entry), []).append(entry)
                self._forms[inside] = forms
            fitting = self._forms[inside].get(unicodedata.normalize("NFC", part), [])
            if part not in fitting and len(fitting) != 1:
                return None
            found.append(part if part in fitting else fitting[0])
        return "/".join(found)

    def _leads_out(self, name: str) -> bool:
        return not _NOWHERE.isdisjoint(name.split("/")) or "\0" in name or ":/" in name

    def _outside(self, name: str, where: str) -> DataError:
        return DataError(f"{where}: {self._inside(name)}")

    def _inside(self, name: str) -> str:
        return f"file_name {name!r} must name a file inside {self.path}, as 'a.png' or 'b/a.png'"

    def _list(self, parent: str, where: str) -> dict[str, bool]:
        """The files of a sub-folder, and for each whether it is a link."""
        folder = self.path / parent
        if not folder.is_dir():
            return {}
        self._check(folder, where)
        # A link is not followed here: it may lead to itself.
        with_links = ((entry, entry.is_symlink()) for entry in os.scandir(folder))
        return {entry.name: is_link for entry, is_link in with_links if is_link or not entry.is_dir()}

    def _check(self, path: Path, where: str) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._real]) != self._real:
            raise DataError(
                f"{where}: {path} is a link that leads out of {self.within}; put the file itself there"
            )


def _known_no_photo(name: str) -> str | None:
    """As `no_photo`, but what is merely hidden counts where it is named."""
    parts = name.replace("\\", "/").split("/")
    kind = no_photo("/".join(part for part in parts if part not in _NOWHERE))
    return None if kind == ".*" else kind
