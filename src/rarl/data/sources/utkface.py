"""UTKFace: faces of ages 0 to 116. The age is in the name of the file, `[age]_[gender]_[race]_[date and
time].jpg`, which ends in `.chip.jpg` if the face is cut out and aligned. Some names are malformed, but only
the age is needed. Lists of a split may have ages of their own. No image is opened here. The faces are for
non-commercial research."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rarl.data.listing import ListedFolder, walk_files
from rarl.data.names import without_suffixes
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.splits import Listed, divide, read_split_lists
from rarl.data.sources.tables import number
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import AGE

_AGE = re.compile("([0-9]+)_")
_DATE = re.compile("[0-9]{17}")
_WELL_FORMED = re.compile(r"[0-9]{1,3}_[01]_[0-4]_[0-9]{17}(\.(jpe?g|png|chip))+", re.IGNORECASE)
_LINK = "a link to a folder, or to nothing; put the folder or file itself there"


def read_utkface(
    raw: Path,
    splits: Sequence[str] = (),
    ages: tuple[float, float] | None = None,
    age_offset: int | None = None,
) -> Source:
    """The faces in the folder `raw` and the folders inside it, in the order of their names, with ages in
    years.

    A face that several folders have under the same file name counts once.

    Args:
        splits: lists as in `read_split_lists`. An age in a list replaces the one in the name.
        ages: the least and the greatest age; other faces are left out.
        age_offset: years to add to the ages in lists. By default the number that makes them the ages in the
            names (the common lists of ages 21-60 store the age minus 21).

    Raises:
        DataError: if there are no faces, a face is there in both versions, a link leads out of `raw`, or the
            lists don't fit.
        ConfigError: if `ages` is not a range, or there are no ages to add `age_offset` to.
    """
    if ages is not None and not ages[0] <= ages[1]:
        raise ConfigError(f"ages {ages[0]:g}-{ages[1]:g}: must be the least and the greatest age, as 21-60")
    lists = read_split_lists(splits)
    faces, left_out, no_photos = _faces(existing_folder(raw, "it must have the files of UTKFace in it"))
    notes: dict[str, Any] = {"layout": _layout(faces, raw)}
    notes["malformed_names"] = [face.name for face in faces if not _WELL_FORMED.fullmatch(_base(face.name))]
    notes |= no_photos
    division = divide(faces, lists, left_out, _base)
    left_out += division.left_out
    entries = {face.name: division.listed.get(_base(face.name), []) for face in division.images}
    faces, age_notes = with_listed_ages(division.images, entries, age_offset)
    notes |= {"split_lists": list(lists.notes)} if lists.notes else {}
    notes |= {**division.notes, **age_notes}
    if ages is not None:
        reason = f"is not within {ages[0]:g}-{ages[1]:g} (--ages)"
        within = [face for face in faces if ages[0] <= face.value <= ages[1]]
        names = {face.name for face in within}
        left_out += [LeftOut(f.name, f"age {f.value:g} {reason}") for f in faces if f.name not in names]
        notes["ages"] = list(ages)
        faces = within
    if not faces:
        raise DataError(
            f"{raw}: no face is left; the first that is left out: {_first_face_left_out(left_out)}"
        )
    return Source(AGE, faces, left_out, notes)


def _faces(raw: Path) -> tuple[list[Labelled], list[LeftOut], dict[str, Any]]:
    """The faces, what is left out, and a note of what is no photo."""
    folder = ListedFolder(raw)
    faces: dict[str, Labelled] = {}
    walked = walk_files(raw)
    left_out = [LeftOut(name, _LINK) for name in walked.links]
    left_out += [LeftOut(name, "its name is not readable; give it another") for name in walked.unreadable]
    # Files nearer to `raw` first: if a face is there twice, the copy deeper down is left out.
    for name in sorted(walked.files, key=lambda file: (file.count("/"), file)):
        face = _face(folder, name)
        if isinstance(face, LeftOut):
            left_out.append(face)
        elif (same := faces.setdefault(_base(name), face)) is not face:
            left_out.append(LeftOut(name, f"the same file name as {same.name}"))
    if not faces:
        raise DataError(
            f"{raw}: no file is named as in UTKFace, [age]_[gender]_[race]_[date].jpg; the first other file: "
            f"{_first_face_left_out(left_out)}"
        )
    return sorted(faces.values(), key=lambda face: face.name), left_out, walked.notes()


def _face(folder: ListedFolder, name: str) -> Labelled | LeftOut:
    base = _base(name)
    age = _AGE.match(base)
    if age is None:
        return LeftOut(name, "no age in front: not named as in UTKFace, [age]_[gender]_[race]_[date].jpg")
    if not AGE.contains(int(age[1])):
        return LeftOut(name, f"age {int(age[1])} is outside the range; {AGE.name} expects {AGE.value_range}")
    path = folder.find(name, str(folder.path))
    if path is None:
        return LeftOut(name, _LINK)
    return Labelled(path, name, float(age[1]), name, columns=_columns(base))


def _columns(base: str) -> dict[str, Any]:
    """Gender (0-1), race (0-4) and date, as far as they can be read. If a field is missing, none of them can:
    nobody knows which one it is."""
    fields = [field.strip() for field in base.partition(".")[0].split("_")]
    if len(fields) != 4:
        return {}
    columns: dict[str, Any] = {}
    for key, text, allowed in (("gender", fields[1], "01"), ("race", fields[2], "01234")):
        if len(text) == 1 and text in allowed:
            columns[key] = int(text)
    if _DATE.fullmatch(fields[3]):
        columns["date"] = fields[3]
    return columns


def _layout(faces: Sequence[Labelled], raw: Path) -> str:
    """Whether the faces are aligned or in the wild.

    Raises:
        DataError: if a face is there both ways, since it would occur twice.
    """
    aligned = {without_suffixes(_base(f.name)): f.name for f in faces if _is_aligned(f.name)}
    wild = [face.name for face in faces if not _is_aligned(face.name)]
    for name in wild:
        if (stem := without_suffixes(_base(name))) in aligned:
            raise DataError(
                f"{raw}: {aligned[stem]!r} and {name!r} are one face, aligned and in the wild; give a folder "
                "that has only one of the two"
            )
    if aligned and wild:
        return f"aligned ({len(faces) - len(wild)}) and in the wild ({len(wild)})"
    return "aligned" if aligned else "in the wild"


def _is_aligned(name: str) -> bool:
    return name.lower().endswith(".chip.jpg")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _first_face_left_out(left_out: Sequence[LeftOut]) -> str:
    return f"{left_out[0].name!r}: {left_out[0].reason}" if left_out else "there are none"


# ── ages in lists ────────────────────────────────────────────────────────────────────────────────────────

AGREEING = 0.99
"""To detect an offset, this share of a list's ages must differ by it from the ages in the names."""


def with_listed_ages(
    images: Sequence[Labelled], entries: Mapping[str, Sequence[Listed]], offset: int | None
) -> tuple[list[Labelled], dict[str, Any]]:
    """The images with the ages that lists give them, and notes: the offset, whether it was detected, and how
    many ages differ from those in the names.

    Args:
        entries: the entries for each image, by its name; the age is in the column `age`.
        offset: years to add to an age in a list; None to detect them.

    Raises:
        DataError: if an age is no number or, with the offset, out of range, an image has two ages, or no
            offset makes them the ages in the names.
        ConfigError: if there is an offset but no age.
    """
    found = {name: listed for name, each in entries.items() if (listed := _listed_age(each)) is not None}
    if not found:
        if offset is not None:
            raise ConfigError(
                f"--age-offset {offset}: no list of --split has a column age for these images; leave it out"
            )
        return list(images), {}
    years = _detected(images, found) if offset is None else offset
    aged, differing = [], 0
    for image in images:
        if image.name in found:
            age, where = found[image.name]
            value = AGE.check(age + years, f"{where}, age {age:g} with offset {years}")
            differing += value != image.value
            image = replace(image, value=value)
        aged.append(image)
    noted = {"years": years, "detected": offset is None}
    return aged, {"age_offset": noted, "ages_other_than_in_names": differing}


def _listed_age(entries: Sequence[Listed]) -> tuple[float, str] | None:
    """The age in the entries for an image, and its place; None if there is none."""
    ages: dict[float, str] = {}
    for entry in entries:
        for key, text in entry.columns.items():
            if str(key).strip().lower() == "age":
                age = number(text)
                if age is None:
                    raise DataError(f"{entry.where}: age {text!r} is not a number; mend it")
                ages.setdefault(age, entry.where)
    if len(ages) > 1:
        (one, place), (other, where) = list(ages.items())[:2]
        key = entries[0].key
        raise DataError(f"{where}: age {other:g} of {key!r} is {one:g} in {place}; keep one of them")
    return next(iter(ages.items()), None)


def _detected(images: Sequence[Labelled], found: Mapping[str, tuple[float, str]]) -> int:
    apart = Counter(image.value - found[image.name][0] for image in images if image.name in found)
    offset, agreeing = apart.most_common(1)[0]
    if agreeing < AGREEING * len(found) or not offset.is_integer():
        several = ", ".join(f"{years:g} ({count} times)" for years, count in apart.most_common(SHOWN))
        raise DataError(
            f"--split: the ages of the list are not those of the names by one offset, but by {several}; give "
            "--age-offset (0 if they are in years), or remove the column age"
        )
    return int(offset)
