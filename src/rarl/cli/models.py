"""The commands that use a model which is trained: `rarl evaluate` and `rarl rank`."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarl.cli.arguments import (
    JSON,
    MODEL,
    ValueRange,
    checked_arm,
    checked_images,
    checked_model,
    comma_separated,
    parse_counts,
    parse_range,
    quiet_loading,
    task_to_rank,
)
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import Task

if TYPE_CHECKING:
    from rarl.ranker import Ranked


def evaluate_command(
    model: MODEL,
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A collection's folder.")],
    images: Annotated[str, typer.Option(help="Numbers of images in a prompt.")] = "1,2,4,8",
    split: Annotated[str, typer.Option(help="The part of the collection.")] = "test",
    lists: Annotated[
        int,
        typer.Option(
            min=1, help="The most lists for each number of images above 1; no image is in two of them."
        ),
    ] = 200,
    position_lists: Annotated[
        int, typer.Option(min=0, help="Of these, asked in every rotation of their pictures; 0: none.")
    ] = 25,
    by: Annotated[
        Sequence[str] | None,
        typer.Option(
            metavar="COLUMN,...",
            parser=partial(comma_separated, option="--by"),
            help="Columns of metadata.jsonl by which single images are measured apart; default: those with "
            "2 to 12 values.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one pass.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Default: runs/evaluation/TASK-SPLIT.")] = None,
    arm: Annotated[
        str | None, typer.Option(help="The model's name in the results; default: its folder's.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Measure a model on a collection, greedily: error or accuracy alone, Kendall's tau in lists.

    Writes predictions.jsonl and metrics.json, beside the models evaluated into the same folder before, and
    prints the table of all of them; then this model's expected values, what its answers owe to the order of
    the pictures, and its numbers for the groups of images that the columns make.
    """
    from rarl.data.collection import load_collection
    from rarl.data.columns import by_problem, read_columns
    from rarl.evaluation.lists import groups_to_ask
    from rarl.evaluation.results import load_metrics, open_metrics
    from rarl.scoring.scoring import read_scoring

    numbers = parse_counts(images)
    if problem := by_problem(by, numbers):
        raise ConfigError(f"--by {','.join(by or ())}: {problem.replace('`images`', f'--images {images}')}")
    name = checked_model(model)
    quiet_loading(name)
    scoring = read_scoring(Path(name))
    data = load_collection(collection)
    data.split(split)
    if by:
        read_columns(data, split, by)  # a mistake is told before torch is imported
    folder = out or Path("runs/evaluation") / f"{data.task.name}-{split}"
    label = ("base" if model == "tiny" else Path(model).resolve().name) if arm is None else checked_arm(arm)
    there = open_metrics(folder, data.task.name, split, 0, data.digest(split))["arms"].get(label)
    groups_to_ask(data, folder, sorted(set(numbers)), split, lists, 0)  # another number of lists is refused
    if there is not None:
        measured = {1} if "mae" in there else set()
        measured |= {int(key[3:]) for key in there if key.startswith("tau") and key[3:].isdecimal()}
        if dropped := sorted(measured - set(numbers)):
            every = ",".join(map(str, sorted(measured | set(numbers))))
            raise ConfigError(
                f"--images {images}: {folder / 'metrics.json'} has results of '{label}' for "
                f"{', '.join(map(str, dropped))} images, which would be lost: give --images {every}, or keep "
                "both with --arm NAME or --out FOLDER"
            )
        print(f"the results of '{label}' in {folder} are replaced; --arm NAME keeps both", file=sys.stderr)

    with redirect_stdout(sys.stderr):
        from rich.console import Console

        from rarl.evaluation.evaluate import evaluate
        from rarl.files import counted
        from rarl.models.loading import load_model, load_processor, use_one_thread_for

        use_one_thread_for(name)
        with counted(Console(stderr=True), f"evaluating {label}") as progress:
            evaluate(
                load_model(name),
                load_processor(name),
                data,
                folder,
                arm=label,
                images=numbers,
                split=split,
                lists=lists,
                position_lists=position_lists,
                by=by,
                batch_size=batch_size,
                scoring=scoring,
                progress=progress,
            )
    metrics = load_metrics(folder / "metrics.json")
    if as_json:
        print(json.dumps(metrics))
        return
    from rarl.report.tables import expected_line, order_line, results_table, subgroup_table

    console = Console()
    console.print(results_table(metrics, data.task))
    for line in (expected_line(metrics["arms"][label]), order_line(metrics["arms"][label])):
        if line:
            console.print(line, highlight=False, markup=False)
    if found := metrics.get("subgroups", {}).get(label):
        console.print(subgroup_table(found, data.task, label))


def rank(
    model: MODEL,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files; up to 8 go into one prompt.")
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
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse all if an image can't be read; otherwise that one gets no value."
        ),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Put images in ascending order of a value, and give each its value.

    An image that is damaged, or of a shape that the model refuses, is a row that says so; the exit code is
    then 1.
    """

    name = checked_model(model)
    quiet_loading(name)
    measured = task_to_rank(model, task, rule, ends, step)
    files = checked_images(images, strict=strict)

    with redirect_stdout(sys.stderr):
        from rarl.models.loading import use_one_thread_for
        from rarl.ranker import Ranker

        use_one_thread_for(name)
        ranker = Ranker(name, measured, strict=strict)
        ranking = ranker.rank(files)
    if ranker.read_leniently:
        print(
            f"replies in another format than was asked for, and read leniently: {ranker.read_leniently}",
            file=sys.stderr,
        )
    wrong = sum(entry.problem is not None for entry in ranking)
    if as_json:
        rows = [
            {"rank": r.rank, "file": r.image, "value": r.value, "method": r.method, "problem": r.problem}
            for r in ranking
        ]
        print(json.dumps({"model": model, "task": measured.to_dict(), "ranking": rows}))
    else:
        _print_ranking(ranking, measured)
    if wrong:
        print(f"{wrong:,} of {len(ranking):,} images could not be read and got no value", file=sys.stderr)
        raise typer.Exit(1)


def _print_ranking(ranking: "Sequence[Ranked]", task: Task) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "file")
    table.add_column(Text(task.rule))  # Text, because rich would take [...] for markup
    for r in ranking:
        value = "-" if r.value is None else f"{r.value:g}"
        value = value if r.problem is None else f"- ({r.problem})"
        rank = "-" if r.rank is None else str(r.rank)
        table.add_row(rank, Text(str(r.image), overflow="fold"), Text(value, overflow="fold"))
    Console().print(table)


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or that of a grid of rarl reproduce.")
    ],
) -> None:
    """Write report.html and report.md into a run's folder: tables, curves, rankings, replies, configuration.

    The page needs nothing else: it can be sent, printed, and read on a phone.
    """
    from rarl.paper.tables import grid_tables_in, write_grid_report
    from rarl.report.page import write_report

    if not run.is_dir():
        raise DataError(f"{run}: no such folder; give that of a run, such as runs/demo")
    pages = [write_grid_report(folder) for folder in grid_tables_in(run)] or [write_report(run)]
    for page in pages:
        print(f"wrote {page} and {page.with_suffix('.md').name}")
