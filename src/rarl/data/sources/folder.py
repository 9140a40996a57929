"""Anyone's folder of images. The values come from a table, from the names of sub-folders or from annotations
in the format of Pascal VOC, or only orders are known. The scale is as the user says, and otherwise follows
from the values."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rarl.data import SPLIT_NAMES, Several
from rarl.data.images import FILE_SUFFIXES
from rarl.data.listing import Found, ListedFolder, Walked, is_prepared, no_photo, walk_files
from rarl.data.names import is_readable, same_word
from rarl.data.sources import Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.raters import one_value_each
from rarl.data.sources.scale import Scale, check_grid
from rarl.data.sources.splits import FILE_COLUMNS, SPLIT_COLUMNS, divide, read_split_lists
from rarl.data.sources.tables import TableRow, columns, is_gap, number, numbers_as_written, read_table
from rarl.data.sources.voc import read_voc
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import Task

NO_SUB_FOLDER = "in no sub-folder of a value"
VALUE_COLUMNS = ("value", "label", "score", "rating", "grade", "age", "count", "target", "y")


def read_folder(
    raw: Path,
    scale: Scale,
    labels: Path | None = None,
    orders: Path | None = None,
    objects: Sequence[str] = (),
    columns: tuple[str | None, str | None] = (None, None),
    splits: Sequence[str] = (),
    several: Several | None = None,
) -> Source:
    """The images of a folder with their values.

    With `labels`, the images are the rows of a table, which may also have the columns `split` and `rule`.
    With `orders`, only orders are known: lines `{"ids": [... file names, ascending ...]}`. With `objects`,
    the value is the number of these in annotations of Pascal VOC. With none of the three, the folder has a
    sub-folder for each value, such as `3/IMG_1.jpg`, directly or within train, validation and test.

    Args:
        raw: the folder; every name in a table or an order is that of a file in it.
        scale: what the user says about the task.
        columns: the names of the table's columns for file and value, if they are not the usual ones.
        splits: lists as in `read_split_lists`.
        several: what becomes of several values of one image in the table; None if there must not be any.

    Raises:
        DataError: if a file is missing or malformed, a name leads out of the folder, or a value is no value
            or out of range; it names the file and the row. Images that are missing are left out.
        ConfigError: if the scale does not fit the values.
    """
    existing_folder(raw, "the folder of the images is needed")
    if labels is not None:
        images, left_out, notes, rated = _from_table(raw, labels, columns, scale, several)
        source = _of_values(raw, images, left_out, notes, scale, rated)
    elif orders is not None:
        source = _from_orders(raw, orders, scale)
    elif objects:
        source = read_voc(raw, objects)
        source = replace(source, task=scale.said_of(source.task))
        if scale.step is not None:
            check_grid([image.value for image in source.images], source.task.low, source.task.step)
    else:
        images, left_out, notes = _from_folders(raw, scale)
        source = _of_values(raw, images, left_out, notes, scale)
    if not splits:
        return source
    lists = read_split_lists(splits)
    divided = divide([replace(image, split=None) for image in source.images], lists, source.left_out)
    return replace(
        source,
        images=divided.images,
        left_out=[*source.left_out, *divided.left_out],
        notes={**source.notes, "splits": list(lists.notes), **divided.notes},
    )


def _of_values(
    raw: Path,
    images: list[Labelled],
    left_out: list[LeftOut],
    notes: dict[str, Any],
    scale: Scale,
    rated: Sequence[float] = (),
) -> Source:
    """The source of images with values. Its task follows from the values of those that can be opened, and
    from the ratings that these are made of."""
    if not images and left_out:
        raise DataError(
            f"{raw}: no image is left; {len(left_out)} are left out, the first being {left_out[0].name!r}: "
            f"{left_out[0].reason}"
        )

    def settle(values: Sequence[float]) -> tuple[Task, dict[str, Any]]:
        return scale.task(values, raw, rated)

    task, _ = settle([image.value for image in images])
    return Source(task, images, left_out, notes, settle=settle)


def _from_table(
    raw: Path, labels: Path, said: tuple[str | None, str | None], scale: Scale, several: Several | None
) -> tuple[list[Labelled], list[LeftOut], dict[str, Any], list[float]]:
    """The images, what was left out, notes, and all ratings that the values of the images are made of."""
    rows = read_table(labels)
    file_keys = columns(
        rows, [said[0]] if said[0] else FILE_COLUMNS, "the image file", labels, "--file-column"
    )
    value_keys = columns(rows, [said[1]] if said[1] else VALUE_COLUMNS, "the value", labels, "--value-column")
    if len(value_keys) > 1:
        raise ConfigError(
            f"{labels}: which column is the value, {' or '.join(value_keys)}? Say --value-column"
        )
    [value_key] = value_keys
    file_key, names, found = _best_column(raw, rows, file_keys, labels)
    if "" in names:
        raise DataError(f"{rows[names.index('')][0]}: no {file_key}; name the image's file")
    there = dict.fromkeys(key for _, row in rows for key in row)
    keys = {same_word(str(name)): name for name in there} | {str(name): name for name in there}
    split_key = next((keys[name] for name in SPLIT_COLUMNS if name in keys), None)
    rule_key = keys.get("rule")
    given_values = [row.get(value_key) for _, row in rows]
    notes: dict[str, Any] = {"labels": f"{labels.name}, columns {file_key} and {value_key}"}
    if not scale.names:
        given_values, written = numbers_as_written(given_values)
        notes |= written
    values = [
        None if scale.is_gap(given) else scale.value(given, where)
        for given, (where, _) in zip(given_values, rows, strict=True)
    ]
    if gaps := values.count(None):
        notes["rows without a value"] = gaps
    rated: list[tuple[Labelled, str]] = []
    left_out: list[LeftOut] = []
    for given, value, (where, row) in zip(names, values, rows, strict=True):
        if value is None or given not in found.files:
            reason = "no value" if value is None else found.reason(given)
            left_out.append(LeftOut(given, f"{reason} ({where})"))
            continue
        name, path = found.files[given]
        rule = str(row[rule_key]).strip() or None if rule_key and row.get(rule_key) is not None else None
        row_id = name if rule is None else f"{name}#{rule}"
        known = {file_key, value_key, split_key, rule_key}
        rest = {str(key): given for key, given in row.items() if key not in known and _is_plain(key, given)}
        rated.append(
            (Labelled(path, name, value, row_id, rule, _table_split(row, split_key, where), rest), where)
        )
    images, several_notes = one_value_each(rated, several)
    notes |= {**several_notes, **found.matches.notes()}
    named = {image.name for image in images}
    walked = walk_files(raw)
    strays = sum(Path(name).suffix.lower() in FILE_SUFFIXES for name in set(walked.files) - named)
    if strays:
        notes["images without a row"] = strays
    notes |= walked.notes()
    return images, left_out, notes, [image.value for image, _ in rated]


def _best_column(
    raw: Path, rows: Sequence[TableRow], keys: Sequence[str], labels: Path
) -> tuple[str, list[str], Found]:
    """Of the columns that may name the images the one that names most files, and these most exactly: what it
    is called, its names, and the files. An id need not be a name, and one that is a number fits a file that
    is numbered: such names count only where no column has others.

    Raises:
        ConfigError: if two columns of numbers name different files.
    """
    folder = ListedFolder(raw)
    tried = []
    for key in keys:
        names = [_file_of(row, key) for _, row in rows]
        places: dict[str, str] = {}
        for name, (where, _) in zip(names, rows, strict=True):
            places.setdefault(name, where)
        found = folder.find_all(places)
        tried.append((key, names, found))
        if len(found.files) == len(places) and not found.matches.loosely:
            break

    def fit(given: tuple[str, list[str], Found]) -> tuple[int, int, int]:
        files, loosely = given[2].files, given[2].matches.loosely
        return sum(number(name) is None for name in files), len(files), -len(loosely)

    best = max(tried, key=fit)
    for key, names, found in tried:
        pairs = [(best[2].files.get(a), found.files.get(b)) for a, b in zip(best[1], names, strict=True)]
        if not fit(best)[0] and any(a is not None and b is not None and a != b for a, b in pairs):
            first, second = (name for name in keys if name in (best[0], key))
            raise ConfigError(
                f"{labels}: which column names the images, {first} or {second}? Both have numbers of files; "
                "say --file-column"
            )
    return best


def _file_of(row: Mapping[str, Any], key: str) -> str:
    """The name of the image's file; "" for none. Tables may hold ids as numbers, even as 17.0."""
    given = row.get(key)
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return "" if given is None else str(given).strip().removeprefix("./")


def _table_split(row: Mapping[str, Any], key: str | None, where: str) -> str | None:
    if key is None or is_gap(row.get(key)):
        return None
    split = SPLIT_NAMES.get(same_word(str(row[key])))
    if split is None:
        raise DataError(
            f"{where}: {key} {row[key]!r} is no split; it must be train, validation or test; rename the "
            "column if it says something else"
        )
    return split


def _is_plain(key: object, value: object) -> bool:
    """Whether a column may go into `metadata.jsonl`: its name has no meaning there, and JSON can hold the
    value."""
    return key not in ("id", "file_name", "value", "") and isinstance(value, str | int | float | bool | None)


def _from_folders(raw: Path, scale: Scale) -> tuple[list[Labelled], list[LeftOut], dict[str, Any]]:
    left_out: list[LeftOut] = []
    walked = Walked()
    top = _sub_folders(raw, left_out, "", walked)
    notes = {}
    while len(top) == 1 and _is_wrapper(raw / top[0], scale):
        raw = raw / top[0]
        notes["folder"] = str(raw)
        top = _sub_folders(raw, left_out, "", walked)
    packed = _packed(left_out)
    if not top and not packed:
        raise DataError(
            f"{raw}: no sub-folders; either each value has one, such as {raw / '3' / 'a.jpg'}, or a table "
            "says the values, as --labels FILE"
        )
    firsts = [*top, *(parts[0] for parts in packed.values())]
    marked = all(name.lower() in SPLIT_NAMES for name in firsts)
    images: list[Labelled] = []
    for first in top:
        if not marked:
            images += _of_value(raw, first, first, scale, None, left_out, walked)
            continue
        for second in _sub_folders(raw / first, left_out, f"{first}/", walked):
            split = SPLIT_NAMES[first.lower()]
            images += _of_value(raw, f"{first}/{second}", second, scale, split, left_out, walked)
    folder = ListedFolder(raw)
    for name, parts in packed.items():
        if len(parts) < 2 + marked:
            continue
        left_out.remove(LeftOut(name, NO_SUB_FOLDER))
        value = scale.value(parts[marked], str(raw / name))
        part = SPLIT_NAMES[parts[0].lower()] if marked else None
        images += _with_value(folder, [name], value, part, left_out)
    return images, left_out, notes | walked.notes()


def _is_wrapper(folder: Path, scale: Scale) -> bool:
    """Whether a folder that is alone only holds those of the values, as archives do: its name is neither a
    value nor a split, and there are folders in it and no images."""
    try:
        scale.value(folder.name, "")
    except DataError:
        names = _names_in(str(folder))
        return (
            folder.name.lower() not in SPLIT_NAMES
            and not folder.is_symlink()
            and any((folder / name).is_dir() for name in names if no_photo(name) is None)
            and not any(Path(name).suffix.lower() in FILE_SUFFIXES for name in names)
        )
    return False


def _packed(left_out: Sequence[LeftOut]) -> dict[str, list[str]]:
    """Of the files in no sub-folder those whose names say one, such as "3\\a.jpg", with the parts of the
    name: archives from Windows are unpacked so elsewhere."""
    names = (each.name for each in left_out if each.reason == NO_SUB_FOLDER and "/" not in each.name)
    return {name: name.split("\\") for name in names if "\\" in name and is_readable(name)}


def _sub_folders(folder: Path, left_out: list[LeftOut], prefix: str, walked: Walked) -> list[str]:
    """The names of the sub-folders. Files beside them are left out, and what is no photo is counted."""
    names = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(error) from error
    for entry in entries:
        if (kind := no_photo(entry.name)) is not None:
            if entry.is_dir(follow_symlinks=False):
                walked.no_photos[kind] += walk_files(folder, entry.name).no_photos.total()
            else:
                walked.no_photos[kind] += 1
        elif entry.is_dir():
            if is_prepared(_names_in(entry.path)):
                walked.no_photos["collections"] += 1
            else:
                names.append(entry.name)
        else:
            left_out.append(LeftOut(prefix + entry.name, NO_SUB_FOLDER))
    return names


def _of_value(
    raw: Path,
    sub: str,
    name: str,
    scale: Scale,
    split: str | None,
    left_out: list[LeftOut],
    walked: Walked,
) -> list[Labelled]:
    """The images in the folder of one value, and in the folders inside it."""
    here = walk_files(raw, sub)
    try:
        value = scale.value(name, f"{raw / sub}")
    except DataError:
        if any(Path(file).suffix.lower() in FILE_SUFFIXES for file in here.files):
            raise
        left_out.append(LeftOut(sub, f"no image in it, and {name!r} is no value"))
        return []
    walked.add(here)
    left_out += [LeftOut(link, "a link to a folder, which is not followed") for link in here.links]
    left_out += [LeftOut(file, "its name is not readable; give it another") for file in here.unreadable]
    return _with_value(ListedFolder(raw), here.files, value, split, left_out)


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise _unreadable(error) from error


def _with_value(
    folder: ListedFolder, files: Sequence[str], value: float, split: str | None, left_out: list[LeftOut]
) -> list[Labelled]:
    """The files as images of one value. Links that lead out of the folder, or to nothing, are left out."""
    images = []
    for file in files:
        try:
            path = folder.find(file, "")
        except DataError as error:
            left_out.append(LeftOut(file, str(error).removeprefix(": ")))
            continue
        if path is None:
            left_out.append(LeftOut(file, "a link to nothing"))
        else:
            images.append(Labelled(path, file, value, file, split=split))
    return images


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: can't be read ({error.strerror or error})")


def _from_orders(raw: Path, file: Path, scale: Scale) -> Source:
    task, notes = scale.ordered(raw)
    given = _orders(file)
    places: dict[str, str] = {}
    for where, names in given:
        for name in names:
            places.setdefault(name, where)
    found = ListedFolder(raw).find_all(places)
    images: dict[str, Labelled] = {}
    orders: list[list[str]] = []
    for where, names in given:
        order = [found.files[name] for name in names if name in found.files]
        for name, path in order:
            images.setdefault(name, Labelled(path, name, task.low, name))
        orders.append([name for name, _ in order])
        if len(set(orders[-1])) < len(order):
            raise DataError(f"{where}: two names mean one file; an order has each image once")
    missing = [
        LeftOut(name, f"{found.reason(name)} ({where})")
        for name, where in places.items()
        if name not in found.files
    ]
    return Source(task, list(images.values()), missing, notes | found.matches.notes(), orders)


def _orders(file: Path) -> list[tuple[str, list[str]]]:
    rows: list[TableRow] = read_table(file)
    orders = []
    for where, row in rows:
        names = row.get("ids")
        if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
            raise DataError(f'{where}: must be {{"ids": [...]}} with two file names or more, ascending')
        if len(set(names)) < len(names):
            raise DataError(f"{where}: a name is listed twice; an order has each image once")
        orders.append((where, names))
    return orders
