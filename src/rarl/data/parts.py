"""Dividing a source's images into parts with a seed, so that each part has values from the whole scale and no
image stands in two. What a source or a list says of an image's part is kept."""

import random
from collections.abc import Iterable, Mapping, Sequence

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rarl.data.sources import Labelled
from rarl.data.split_lists import PARTS as CALLED
from rarl.errors import ConfigError, DataError

PARTS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def parse_parts(text: str) -> dict[str, float]:
    """Shares such as "train=0.8,validation=0.1,test=0.1"; other names than these three may stand there too.

    Raises:
        ConfigError: if that is not what it is, or the shares don't add up to 1.
    """
    wanted = "must be shares that add up to 1, such as train=0.8,validation=0.1,test=0.1"
    parts: dict[str, float] = {}
    for word in text.split(","):
        name, _, share = (piece.strip() for piece in word.partition("="))
        name = CALLED.get(name.lower(), name)
        try:
            number = float(share)
        except ValueError:
            raise ConfigError(f"--parts {text}: {word.strip()!r} is no share; {wanted}") from None
        if not (name.isidentifier() and 0 < number <= 1) or name.lower() in map(str.lower, parts):
            raise ConfigError(f"--parts {text}: {word.strip()!r} is no share of a new part; {wanted}")
        parts[name] = number
    if "train" not in parts or abs(sum(parts.values()) - 1) > 1e-6:
        raise ConfigError(f"--parts {text}: {wanted}, with train among them")
    return parts


def divide_by_seed(
    images: Sequence[Labelled],
    together: Iterable[Sequence[int]],
    parts: Mapping[str, float],
    seed: int,
) -> list[str]:
    """The part of each image.

    Where no image has a part yet, all are divided. Where some have, the others belong to train, and the parts
    that no image has are taken out of train: without a list for validation it is a share of train.

    Args:
        together: indices that must come into one part, such as those of byte-identical files.
        parts: the share of each part.

    Raises:
        DataError: if a part would be empty.
    """
    given = {image.split for image in images if image.split is not None}
    names = ["train", *(name for name in parts if name not in given and name != "train")]
    units = _units(len(images), together)
    # Of a unit that a list has put into several parts, or into another than train, each stays where it is.
    open_units = [unit for unit in units if all(images[index].split in (None, "train") for index in unit)]
    result = [image.split or "train" for image in images]
    generator = random.Random(f"{seed}:parts")
    generator.shuffle(open_units)
    # The largest first: what is left can make up for it.
    open_units.sort(key=lambda unit: (images[unit[0]].value, -len(unit)))
    whole = sum(parts.get(name, 0.0) for name in names)
    lacking = dict.fromkeys(names, 0.0)
    for unit in open_units if len(names) > 1 else ():
        for name in names:
            lacking[name] += len(unit) * parts.get(name, 0.0) / whole
        # The part that lacks most; chance decides between equals.
        most = max(names, key=lambda name: (round(lacking[name], 9), generator.random()))
        lacking[most] -= len(unit)
        for index in unit:
            result[index] = most
    for name in names:
        if name not in result:
            raise DataError(
                f"none of the {len(images)} images comes into {name}: they are too few, or belong together; "
                "give more images, larger shares by --parts, or parts of your own"
            )
    return result


def _units(number: int, together: Iterable[Sequence[int]]) -> list[list[int]]:
    """Sets of indices, ascending, that hang together through one or several of `together`."""
    edges = [(group[0], other) for group in together for other in group[1:]]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_array(([True] * len(edges), (rows, columns)), shape=(number, number))
    units: dict[int, list[int]] = {}
    for index, label in enumerate(connected_components(graph, directed=False)[1].tolist()):
        units.setdefault(label, []).append(index)
    return list(units.values())
