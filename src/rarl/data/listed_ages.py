"""Ages that a split list has for its images, which may differ from those in the names of the files: they are
stored minus an offset, and some were corrected by whoever made the list. The list has the last word."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rarl.data.sources import SHOWN, Labelled
from rarl.data.split_lists import Listed
from rarl.data.tables import number
from rarl.errors import ConfigError, DataError
from rarl.tasks import AGE

AGREEING = 0.99
"""The share of a list's ages that must be apart from those of the names by one offset, to detect it."""


def with_listed_ages(
    images: Sequence[Labelled], entries: Mapping[str, Sequence[Listed]], offset: int | None
) -> tuple[list[Labelled], dict[str, Any]]:
    """The images with the ages of their lists' entries, and notes: the offset, whether it was detected, and
    how many ages are not those of the names.

    Args:
        entries: for each image, by its name; an age is that of a column `age`.
        offset: years to add to a list's age; None to detect them.

    Raises:
        DataError: if an age is no number, or out of range with the offset, or an image has two, or no offset
            makes them those of the names.
        ConfigError: if there is an offset and no age.
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
    """The age in an image's entries, and where it stands."""
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
