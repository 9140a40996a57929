"""Many image files, scored one by one: any number of them, since neither images nor more than a row each are
held. What is known already is not measured again. Lists of a few images are up to `ranker`."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from rarl.ranking.kept import Kept
from rarl.ranking.measured import Measured

if TYPE_CHECKING:
    from rarl.ranking.ranker import Ranker

Progress = Callable[[int, int], None]
"""Called with the number done and the number of all."""

_LOOK = 1.0  # seconds between two looks at what other processes have kept


def shard_of(files: Sequence[str], shard: tuple[int, int] | None) -> Sequence[str]:
    """The files of a part, as (2, 3) for the second of three: every third one, so that parts take as long."""
    return files if shard is None else files[shard[0] - 1 :: shard[1]]


def score_files(
    files: Sequence[str],
    make_ranker: Callable[[], "Ranker"],
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> dict[str, Measured]:
    """What the model says of each file.

    Args:
        make_ranker: called only if a file is still to be measured.
        kept: where rows are kept as they come, and taken from if they are there already.
        progress: called before the first batch and after each.

    Raises:
        ConfigError: if another command keeps rows in the same place.
        DataError: if a process that opens files dies.
    """
    found = {} if kept is None else kept.read(files)
    missing = [file for file in files if file not in found]
    if not missing:
        return found
    with nullcontext() if kept is None else kept.adding() as rows:
        ranker = make_ranker()
        if progress is not None:
            progress(len(found), len(files))
        for batch in ranker.measure_each(missing):
            # A distribution is larger than its row, and of a table nobody asks for it.
            measured = {missing[place]: replace(said, distribution=None) for place, said in batch}
            if rows is not None:
                rows.add(measured)
            found |= measured
            if progress is not None:
                progress(len(found), len(files))
    return found


def wait_for(files: Sequence[str], kept: Kept) -> Mapping[str, Measured]:
    """What all processes together have kept of the files, once that is everything."""
    while len(found := kept.read(files)) < len(files):
        time.sleep(_LOOK)
    return found
