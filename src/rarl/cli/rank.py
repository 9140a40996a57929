"""The command `rarl rank`: images of any number in order, on the screen, in a table, on a contact sheet. It
checks what it is given before torch is imported; scoring, keeping and ranking are `rarl.ranking`'s."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarl.cli.arguments import (
    JSON,
    MODEL,
    TRUST,
    ValueRange,
    checked_images,
    checked_model,
    continued_by,
    parse_range,
    parse_shard,
    quiet_loading,
    task_to_rank,
)
from rarl.errors import ConfigError
from rarl.method.tasks import Task

if TYPE_CHECKING:
    from rarl.ranking.kept import Kept
    from rarl.ranking.measured import Measured
    from rarl.ranking.ranker import Ranker

LISTED = "the order is that of the model's own list"
UNLISTED = "the model's list was no ranking of all images, so each was scored alone"


def rank(
    model: MODEL,
    what: Annotated[
        list[Path],
        typer.Argument(
            metavar="WHAT...",
            help="Image files, folders (with all below them), collections, tables of files.",
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="age, count, aesthetics or digits; default: the model's own.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help='What is measured, such as "facial age".')] = None,
    ends: Annotated[
        ValueRange | None,
        typer.Option("--range", metavar="LOW-HIGH", parser=parse_range, help="The values of --rule."),
    ] = None,
    step: Annotated[float | None, typer.Option(help="The grid of the values of --rule; default: 1.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .csv, .parquet or .json file for the ranking. Rows are kept beside it as they come."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Show only the first N; --out has all.", metavar="N")
    ] = None,
    descending: Annotated[bool, typer.Option("--descending", help="The highest value first.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="A .png or .jpg file: the first images with their values.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="greedy|mean|mean-fast|listed|values|windows",
            help="How images are scored, or few of them put in order; default: as the model's folder says.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="i/n", help="Score only this part: 2/3 on the second of three.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="The most images in one pass.")] = 128,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse all if an image can't be read; otherwise that one gets no value."
        ),
    ] = False,
    trust_remote_code: TRUST = False,
    as_json: JSON = False,
) -> None:
    """Put images in ascending order of a value, and give each its value.

    A few images go into one prompt, where the model's folder says that it does best so (any other model: 2 to
    8), unless there is --out or --method values; others are scored one by one. With --out the same command
    goes on where it was stopped, and torchrun or --shard divides the images.

    An image that gets no value is a row that says why; the exit code is then 1.
    """
    from rarl.files import locked
    from rarl.ranking.given import given_images
    from rarl.ranking.kept import Asked, Kept
    from rarl.ranking.sheet import check_sheet, draw_sheet
    from rarl.ranking.table import check_suffix, ranking_of
    from rarl.scoring.scoring import scoring_for

    process, processes = _of_torchrun()
    part = (process + 1, processes) if processes > 1 else None if shard is None else parse_shard(shard)
    if out is None and (shard is not None or processes > 1):
        raise ConfigError("several processes share what they keep beside --out: give --out scores.csv")
    if shard is not None and processes > 1:
        raise ConfigError("--shard and torchrun both divide the images: use one of them")
    if out is not None:
        check_suffix(out)
    if sheet is not None:
        check_sheet(sheet)
    name = checked_model(model)
    quiet_loading(name)
    measured = task_to_rank(model, task, rule, ends, step)
    given = given_images(what)
    if process == 0:
        for note in given.notes:
            print(note, file=sys.stderr)
    files = list(given.files)
    scoring = scoring_for(model, measured, method)
    options: dict[str, object] = {"method": scoring.method, "temperature": scoring.temperature}
    options |= {"sampled": scoring.sampled} if scoring.is_sampled else {}
    asked = Asked.of(name, measured, options)
    kept = None if out is None else Kept(out, asked, part)
    listed = out is None and len(files) in scoring.listed
    if method == "listed" and not listed:
        known = ", ".join(map(str, scoring.listed))
        raise ConfigError(
            f"--method listed: a list has {known} images here, and no --out; these are {len(files):,}"
        )
    length = scoring.window(len(files)) if out is None else 0
    if method == "windows" and not length:
        raise ConfigError(
            f"--method windows: a list has {min(scoring.lengths)} images or more here, and no --out; these "
            f"are {len(files):,}"
        )
    checked_images(files, strict=strict)
    if process == 0 and not listed:
        joined = f"; the order is by values joined with those in lists of {length}" if length else ""
        print(scoring.of_values + scoring.chosen_on + joined, file=sys.stderr)

    made = _Made(name, measured, method, batch_size, trust_remote_code)
    stopped = nullcontext() if kept is None else continued_by(shlex.join(["rarl", *sys.argv[1:]]))
    with stopped, redirect_stdout(sys.stderr):
        if listed:
            ranking = made().rank(files, descending=descending)
        else:
            found = _scored(files, made, kept, part, process if processes > 1 else None)
            if len(found) < len(files):
                # Other processes have the rest. Torchrun would end them if this one did not end with 0.
                failed = any(said.value is None for said in found.values())
                raise typer.Exit(1 if failed and processes == 1 else 0)
            if length:
                scores = [found[file] for file in files]
                ranking = made().rank_by_values(files, scores, descending=descending)
            else:
                ranking = ranking_of(measured, ((f, found[f]) for f in files), descending=descending)
        made.say_lenient()
        if listed:
            own = any(row.method == "listed" for row in ranking)
            said = LISTED if own else f"{UNLISTED}; {scoring.of_values}"
            print(said + scoring.chosen_on, file=sys.stderr)
    if kept is not None:
        with locked(kept.out.parent, kept.out.name, wait=True):
            ranking.save(kept.out)
        print(f"wrote {kept.out}: {len(files):,} images", file=sys.stderr)
    first = ranking if top is None else ranking[:top]
    if sheet is not None:
        draw_sheet(first, sheet)
        print(f"wrote {sheet}", file=sys.stderr)
    if as_json:
        rows = [{**row.to_dict(), "method": row.method} for row in first]
        print(json.dumps({"model": model, "task": measured.to_dict(), "ranking": rows}))
    elif out is None or top is not None:
        from rich.console import Console

        Console().print(first.table())
    wrong = sum(row.value is None for row in ranking)
    if wrong:
        print(f"{wrong:,} of {len(files):,} images got no value", file=sys.stderr)
        raise typer.Exit(1)


class _Made:
    """The ranker, made once it is needed: that takes torch."""

    def __init__(self, model: str, task: Task, method: str | None, batch_size: int, trusted: bool) -> None:
        self._model, self._task, self._method = model, task, method
        self._batch_size, self._trusted = batch_size, trusted
        self._ranker: Ranker | None = None

    def __call__(self) -> "Ranker":
        if self._ranker is not None:
            return self._ranker
        from rarl.models.loading import use_one_thread_for
        from rarl.models.machine import use_own_gpu
        from rarl.ranking.ranker import Ranker

        use_one_thread_for(self._model)
        use_own_gpu()
        self._ranker = Ranker(
            self._model,
            self._task,
            method=self._method,
            batch_size=self._batch_size,
            trust_remote_code=self._trusted,
        )
        return self._ranker

    def say_lenient(self) -> None:
        if self._ranker is not None and self._ranker.read_leniently:
            print(
                "replies in another format than was asked for, and read leniently: "
                f"{self._ranker.read_leniently:,}",
                file=sys.stderr,
            )


def _scored(
    files: Sequence[str],
    made: _Made,
    kept: "Kept | None",
    part: tuple[int, int] | None,
    process: int | None,
) -> "Mapping[str, Measured]":
    """What is known of the files when this command's part of them is scored.

    Args:
        process: the number among those of torchrun; the first waits for the others.
    """
    from rarl.ranking.files import score_files, shard_of, wait_for

    with _speed_shown() as progress:
        found = score_files(shard_of(files, part), made, kept, progress)
    if kept is None or part is None:
        return found
    if process is not None:
        return wait_for(files, kept) if process == 0 else found
    together = kept.read(files)
    if len(together) < len(files):
        print(
            f"part {part[0]} of {part[1]} is done; of {len(files):,} images {len(together):,} are scored. "
            f"The part that ends last writes {kept.out}, or the command without --shard",
            file=sys.stderr,
        )
    return together


@contextmanager
def _speed_shown() -> "Iterator[Callable[[int, int], None]]":
    """A progress bar with images a second, and what it came to in a line at the end."""
    from rich.console import Console

    from rarl.progress import counted

    calls: list[tuple[float, int]] = []
    with counted(Console(stderr=True), "scoring", unit="images") as move:

        def progress(done: int, total: int) -> None:
            calls.append((time.monotonic(), done))
            del calls[1:-1]
            move(done, total)

        yield progress
    if len(calls) == 2:
        seconds, images = (after - before for before, after in zip(*calls, strict=True))
        rate = images / max(seconds, 1e-3)
        print(f"scored {images:,} images in {seconds:,.1f} s, {rate:,.0f} a second", file=sys.stderr)


def _of_torchrun() -> tuple[int, int]:
    """The number of this process, from 0, and of all that torchrun started."""
    words = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return (int(words[0]), int(words[1])) if all(map(str.isdecimal, words)) else (0, 1)
