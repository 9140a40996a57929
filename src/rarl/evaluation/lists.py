"""The prompts that all arms of one folder are asked (section 4.1): every image of a split alone, and lists
that are drawn once and kept in a file. Nobody is asked here."""

from collections.abc import Sequence
from pathlib import Path

from rarl.data.collection import Collection
from rarl.data.groups import Group, disjoint_groups, load_groups, save_groups
from rarl.errors import ConfigError


def groups_to_ask(
    collection: Collection,
    folder: Path,
    counts: Sequence[int],
    split: str,
    number: int,
    seed: int,
    *,
    refused: frozenset[Path] | None = None,
) -> list[Group]:
    """The prompts to ask: single images, then at most `number` lists of each count, those of the folder where
    it has some.

    Args:
        refused: images that the processor refuses, which no list is drawn with. None: the processor is not
            known yet, so this is a check ahead, and new lists are not added to the folder's file.

    Raises:
        DataError: if the split is too small, or the file is not what it should be.
        ConfigError: if the folder has another number of lists.
    """
    rows = collection.split(split)
    path = folder / f"lists-{split}-{seed}.json"
    saved = load_groups(path, rows) if path.exists() else []
    drawn: list[Group] = []
    for count in counts:
        if count == 1:
            continue
        there = [group for group in saved if len(group.rows) == count]
        fresh = disjoint_groups([row for row in rows if row.path not in (refused or ())], count, number, seed)
        # Lists of an earlier version are as many as were asked for, although they share images.
        right = len(there) in (number, len(fresh))
        if refused is None and len(fresh) <= number:  # some fewer may be right: evaluation will know
            right = right or 0.9 * len(fresh) <= len(there) < len(fresh)
        if there and not right:
            wanted = f"{len(fresh)}, the most without an image in two" if len(fresh) < number else str(number)
            raise ConfigError(
                f"{path} holds {len(there)} lists of {count} images, not {wanted}: "
                "ask for as many, or evaluate into another folder"
            )
        if not there:
            there = fresh
            saved += there
            if refused is not None:
                save_groups(saved, path)
        drawn += there
    return [*(Group((row,)) for row in rows if 1 in counts), *drawn]
