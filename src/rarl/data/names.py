"""Names of files as they stand in manifests: each must lie inside the manifest's folder. Manifests come from
strangers, so `..`, absolute paths, URLs, NUL, and links that lead out of the folder are refused."""

import os
from pathlib import Path

from rarl.errors import DataError

_NOWHERE = frozenset(("", ".", ".."))  # what no part of a name may be


class Folder:
    """A folder whose files are found by name. Each sub-folder is listed once: a look at every file of 250,000
    takes long."""

    def __init__(self, path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None) -> None:
        """Links may lead anywhere in `within`, which is `path` itself if it is not given."""
        self.path = Path(os.path.abspath(path))
        self.within = self.path if within is None else Path(os.path.abspath(within))
        self._real = os.path.realpath(self.within)
        self._listings: dict[str, dict[str, bool]] = {}

    def find(self, name: str, where: str) -> Path | None:
        """The file `name`, such as "a.png" or "b/a.png"; None if there is no such file.

        Raises:
            DataError: if the name leads, or may lead, out of the folder, or a folder can't be read; the
                message begins with `where`.
        """
        parts = name.split("/")
        if not _NOWHERE.isdisjoint(parts) or "\0" in name or "\\" in name or ":/" in name:
            raise DataError(
                f"{where}: file_name {name!r} must name a file inside {self.path}, as 'a.png' or 'b/a.png'"
            )
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

    def _list(self, parent: str, where: str) -> dict[str, bool]:
        """The files of a sub-folder, each with whether it is a link."""
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
