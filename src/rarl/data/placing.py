"""How image files come into a collection: as hard links to the source's files, as copies, or made smaller
where that is asked for; never altered otherwise."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rarl.data.examination import Examined
from rarl.data.images import FILE_SUFFIXES, encoded, image_suffix, open_image, shrunk
from rarl.data.sources import Labelled


@dataclass
class Placing:
    """How image files come into the collection."""

    copy: bool
    max_pixels: int | None
    examined: Mapping[Path, Examined]
    counts: dict[str, int] = field(default_factory=lambda: {"linked": 0, "copied": 0, "shrunk": 0})

    def place(self, image: Labelled, folder: Path, taken: set[str]) -> str:
        """Puts the file into the folder, and returns the name it has there."""
        size = self.examined[image.path].size
        shrink = self.max_pixels is not None and size is not None and size[0] * size[1] > self.max_pixels
        name = self._name(image, taken, shrink)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if shrink and self.max_pixels is not None:
            smaller = shrunk(open_image(image.path), self.max_pixels)
            target.write_bytes(encoded(smaller, target.suffix))
            self.counts["shrunk"] += 1
            return name
        if not self.copy:
            try:
                # A link to a link would lead out of the collection.
                os.link(os.path.realpath(image.path), target)
            except FileExistsError:
                raise  # to copy there would be to write into a file of the source
            except OSError:
                pass  # another disk, or a file system without hard links
            else:
                self.counts["linked"] += 1
                return name
        shutil.copyfile(image.path, target)
        self.counts["copied"] += 1
        return name

    def _name(self, image: Labelled, taken: set[str], shrink: bool) -> str:
        """The source's name, with what a collection or `imagefolder` can't have in it replaced."""
        parts = [re.sub(r"[\\:\0]|^\.+|^__+", "_", part) for part in image.name.split("/")]
        name = "/".join(parts)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in FILE_SUFFIXES:
            stem, suffix = name, image_suffix(image.path.read_bytes(), str(image.path))
        if shrink and suffix.lower() not in (".jpg", ".jpeg", ".png"):
            stem, suffix = stem + suffix, ".png"
        number, name = 1, stem + suffix
        while name.casefold() in taken:  # some file systems don't tell a.jpg from A.jpg
            number, name = number + 1, f"{stem}-{number + 1}{suffix}"
        taken.add(name.casefold())
        # A folder is a name too: no later file may be called like it.
        taken.update(str(folder).casefold() for folder in PurePosixPath(name).parents)
        return name
