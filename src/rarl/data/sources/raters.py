"""Several values of one image, one from each rater, as one value: the mean, the median or the first. Who the
raters are plays no part; a value counts as often as it is given."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median

from rarl.data import Several
from rarl.data.sources import Labelled
from rarl.data.sources.scale import step_of
from rarl.errors import DataError

FINER = 100  # how much finer than that of the ratings the grid of their means is


def one_value_each(
    rows: Sequence[tuple[Labelled, str]], several: Several | None
) -> tuple[list[Labelled], dict[str, str]]:
    """One row for each id, in the order of their first rows, and a note of how many there were.

    Means lie on a grid that is a hundred times as fine as that of the ratings, as those of AVA's votes do. Of
    the other columns, those remain in which all rows of an image agree; `ratings` says how many there were.

    Args:
        rows: each with its place, for errors.
        several: what becomes of several values; None if there must not be any.

    Raises:
        DataError: if rows of one id have several values, and `several` is None, or several splits.
    """
    grouped: dict[str, list[tuple[Labelled, str]]] = {}
    for image, where in rows:
        grouped.setdefault(image.id, []).append((image, where))
    grid = step_of([image.value for image, _ in rows]) / FINER if several == "mean" and rows else 0.0
    images = []
    most = 0
    for group in grouped.values():
        first, place = group[0]
        for image, where in group[1:]:
            if image.split != first.split:
                raise DataError(f"{where}: {image.name} has another split in {place}; keep one of the rows")
            if several is None and image.value != first.value:
                raise DataError(
                    f"{where}: {image.name} has another value in {place}; keep one of the rows, or say what "
                    "becomes of several, as --several mean (or median, first)"
                )
        if several is None or len(group) == 1:
            images.append(
                first if several is None else replace(first, columns={**first.columns, "ratings": 1})
            )
            continue
        most = max(most, len(group))
        values = [image.value for image, _ in group]
        value = values[0]
        if several == "median":
            value = median(values)
        elif several == "mean":
            value = round(round(fmean(values) / grid) * grid, 9)
        common = {
            key: given
            for key, given in first.columns.items()
            if all(image.columns.get(key) == given for image, _ in group)
        }
        images.append(replace(first, value=value, columns={**common, "ratings": len(group)}))
    if several is None or not most:
        return images, {}
    how = {"mean": "their mean", "median": "their median", "first": "the first of them"}[several]
    return images, {"several ratings of an image": f"{how}; {len(rows):,} rows for {len(images):,} images"}
