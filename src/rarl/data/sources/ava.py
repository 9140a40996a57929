"""AVA: photos with the votes of many people for each score from 1 to 10. The value is the mean score. Only
`AVA.txt` and the names of the files in the folder `images` are read; no image is opened here."""

import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rarl.data.listing import ListedFolder
from rarl.data.sources import Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.splits import divide, read_split_lists
from rarl.errors import DataError
from rarl.method.tasks import AESTHETICS

TABLE = "AVA.txt"
TABLE_COLUMNS = 15  # index, image id, votes for 1..10, two tags, challenge
SCORES = range(1, 11)
NEEDED = 12  # with all ten counts of votes
MEAN_DIGITS = 4  # of the mean; the task's step is 0.01
LONGEST_NUMBER = 15  # digits of a number


def read_ava(raw: Path, splits: Sequence[str] = ()) -> Source:
    """The photos of `raw/AVA.txt` that are in `raw/images`, in the order of the table.

    The mean of the votes is rounded to 4 digits. A row that can't be read, has no votes or has no image is
    left out. A row that occurs twice counts once.

    Args:
        splits: lists as in `read_split_lists`.

    Raises:
        DataError: if the table or the folder of images is missing, an image has two rows with different
            votes, nothing is left, or the lists don't fit.
    """
    existing_folder(raw, f"it must have {TABLE} and a folder images in it")
    lists = read_split_lists(splits)
    folder = ListedFolder(_image_folder(raw))
    photos: list[Labelled] = []
    left_out: list[LeftOut] = []
    first: dict[int, tuple[int, tuple[int, ...]]] = {}
    read: dict[str, tuple[str, list[int]]] = {}
    table = raw / TABLE
    for line, fields in _table_lines(table):
        where, place = f"{table} line {line}", f"{TABLE} line {line}"
        try:
            numbers = _numbers(fields)
        except ValueError as error:
            left_out.append(LeftOut(_named(fields) or place, f"{place}: {error}"))
            continue
        image_id, votes = numbers[1], tuple(numbers[2:NEEDED])
        before, same = first.setdefault(image_id, (line, votes))
        if votes != same:
            raise DataError(
                f"{where}: image {image_id} has other votes in line {before}; remove one of the rows"
            )
        if before != line:
            continue
        read[f"{image_id}.jpg"] = place, numbers
    found = folder.find_all({name: str(raw / place) for name, (place, _) in read.items()})
    for name, (place, numbers) in read.items():
        if name in found.files:
            photos.append(_photo(*found.files[name], numbers))
        elif name in found.matches.several:
            left_out.append(LeftOut(name, f"{place}: {found.reason(name)}"))
        else:
            left_out.append(LeftOut(name, f"{place}: no such image in {folder.path.name}"))
    if not photos:
        reason = f"{left_out[0].name}: {left_out[0].reason}" if left_out else "it has no rows"
        raise DataError(f"{table}: no row has votes and an image in {folder.path}; {reason}")
    division = divide(photos, lists, left_out)
    notes: dict[str, Any] = {"value": f"mean of the votes for 1 to 10, {MEAN_DIGITS} digits"}
    notes |= found.matches.notes()
    notes |= {"split_lists": list(lists.notes), **division.notes} if lists.notes else {}
    return Source(AESTHETICS, division.images, [*left_out, *division.left_out], notes)


def _photo(name: str, path: Path, numbers: Sequence[int]) -> Labelled:
    votes = numbers[2:NEEDED]
    mean = sum(map(operator.mul, SCORES, votes)) / sum(votes)
    columns: dict[str, Any] = {"votes": sum(votes), "tags": tuple(filter(None, numbers[12:14]))}
    if len(numbers) == TABLE_COLUMNS:
        columns["challenge"] = numbers[14]
    return Labelled(path, name, round(mean, MEAN_DIGITS), str(numbers[1]), columns=columns)


def _numbers(fields: Sequence[str]) -> list[int]:
    """The columns of a row.

    Raises:
        ValueError: if they can't be read; it says why.
    """
    if not NEEDED <= len(fields) <= TABLE_COLUMNS:
        raise ValueError(f"{len(fields)} columns; there must be {TABLE_COLUMNS}")
    together = "".join(fields)
    if not (together.isascii() and together.isdigit() and len(max(fields, key=len)) <= LONGEST_NUMBER):
        raise ValueError("a column is not a whole number from 0 on")
    numbers = [int(text) for text in fields]
    if not any(numbers[2:NEEDED]):
        raise ValueError("no votes")
    return numbers


def _named(fields: Sequence[str]) -> str | None:
    """The image of a row that can't be read, as far as it names one."""
    named = len(fields) > 1 and fields[1].isascii() and fields[1].isdigit()
    return f"{fields[1]}.jpg" if named else None


def _table_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line that has any."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; AVA's table of votes goes there")
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if fields := line.split():
                    yield number, fields
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text ({error}); get it again") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error


def _image_folder(raw: Path) -> Path:
    """`raw/images` or `raw/image`, or the only folder inside it that has the images."""
    for name in ("images", "image"):
        folder = raw / name
        if folder.is_dir():
            try:
                if _has_images(folder):
                    return folder
                inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
                nested = [path for path in inside if _has_images(path)]
            except OSError as error:
                raise DataError(f"{folder}: can't be read ({error.strerror or error})") from error
            if len(nested) == 1:
                return nested[0]
    raise DataError(f"{raw / 'images'}: no images; AVA's, such as 953619.jpg, go into that folder")


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".jpg") for entry in entries)
