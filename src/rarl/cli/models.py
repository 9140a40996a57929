"""The commands that measure what is trained: `rarl evaluate`, and `rarl report` of a whole run."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rarl.cli.arguments import (
    JSON,
    MODEL,
    TRUST,
    checked_arm,
    checked_model,
    comma_separated,
    parse_counts,
    quiet_loading,
)
from rarl.errors import ConfigError, DataError


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
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts in one pass; of an endpoint, requests at once.")
    ] = 16,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ask MODEL there: an OpenAI-compatible API, http://localhost:8000/v1."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: runs/evaluation/TASK-SPLIT.")] = None,
    arm: Annotated[
        str | None, typer.Option(help="The model's name in the results; default: its folder's.")
    ] = None,
    trust_remote_code: TRUST = False,
    as_json: JSON = False,
) -> None:
    """Measure a model on a collection, greedily: error or accuracy alone, Kendall's tau in lists.

    On several GPUs, start it with `torchrun --nproc_per_node N -m rarl evaluate …`: each answers its share.

    Writes predictions.jsonl and metrics.json, beside the models evaluated into the same folder before, and
    prints the table of all of them; then this model's expected values, what its answers owe to the order of
    the pictures, and its numbers for the groups of images that the columns make. MODEL may be any chat model
    that sees images, by its name on the hub or, with --endpoint, on a server; its key is RARL_API_KEY in the
    environment.
    """
    from rarl.data.collection import load_collection
    from rarl.data.columns import by_problem, read_columns
    from rarl.evaluation.lists import groups_to_ask
    from rarl.evaluation.results import load_metrics, open_metrics
    from rarl.models.generation.endpoint import Endpoint
    from rarl.models.loading import trained_task
    from rarl.scoring.scoring import read_scoring

    numbers = parse_counts(images)
    if problem := by_problem(by, numbers):
        raise ConfigError(f"--by {','.join(by or ())}: {problem.replace('`images`', f'--images {images}')}")
    served = None if endpoint is None else Endpoint(endpoint, model, concurrency=batch_size)
    name = model if served else checked_model(model)
    quiet_loading(name)
    data = load_collection(collection)
    data.split(split)
    # Another task's temperature and reasoning are not this one's.
    known = served is None and trained_task(name) == data.task
    scoring = read_scoring(Path(name)) if known else None
    if by:
        read_columns(data, split, by)  # a mistake is told before torch is imported
    folder = out or Path("runs/evaluation") / f"{data.task.name}-{split}"
    label = ("base" if model == "tiny" else Path(model).resolve().name) if arm is None else checked_arm(arm)
    there = open_metrics(folder, data.task.name, split, 0, data.digest(split))["arms"].get(label)
    if max(numbers) > (size := len(data.split(split))):
        raise ConfigError(
            f"--images {images}: {split} has {size:,} images, and no list of {max(numbers)}; give smaller "
            "numbers, such as --images 1,2"
        )
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

        from rarl.evaluation.asking import join_processes
        from rarl.evaluation.evaluate import evaluate
        from rarl.models.loading import load_model, load_processor, use_one_thread_for
        from rarl.progress import counted

        if served is None:
            use_one_thread_for(name)
        first = join_processes()
        with counted(Console(stderr=True, quiet=not first), f"evaluating {label}") as progress:
            evaluate(
                served or load_model(name, trust_remote_code=trust_remote_code),
                None if served else load_processor(name, trust_remote_code=trust_remote_code),
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
    if not first:
        return
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
