"""The command `rarl`. Each command checks what it is given, imports torch only then, and leaves the work to
the library; mistakes that a user can mend are a line each on stderr, without a traceback."""

import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from rarl.errors import ConfigError, RarlError

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="rarl",
    help="Teach a vision-language model to score images on an ordinal scale and rank them (arXiv 2601.20585)",
    epilog="Example: rarl demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
data_app = typer.Typer(
    help="Collections of images with values.",
    no_args_is_help=True,
    epilog="Example: rarl data prepare digits data/digits",
)
app.add_typer(data_app, name="data")

SOURCES = ("digits",)
LARGEST_SEED = 2**32 - 1  # numpy's
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder such as runs/demo/rarl, a hub name, or tiny.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Raises:
        SystemExit: 0, 1 for what can't be done, 2 for wrong usage or configuration, 130 when interrupted.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        # A library's notes to its callers are not for the users of a command.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|torch)\b")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="rarl")
    except RarlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        if error.filename is None:
            raise
        # A folder that can't be written, a full disk: nothing that the library could know beforehand.
        print(f"error: {error.filename}: can't be read or written ({error.strerror})", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@contextmanager
def continued_by(command: str) -> Iterator[None]:
    """Tells how to go on when the user interrupts what runs within."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with: {command}", file=sys.stderr)
        raise typer.Exit(130) from None


def _quiet(model: str) -> None:
    """No bars while weights are read from a disk; a download from the hub keeps its own."""
    if model == "tiny" or Path(model).is_dir():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _version(wanted: bool) -> None:
    if wanted:
        from rarl import __version__

        print(f"rarl {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: rarl demo --out runs/demo --seed 0")
def demo(
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    seed: Annotated[
        int,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of the groups, the training and the model's start."),
    ] = 0,
) -> None:
    """Train and evaluate the whole method on handwritten digits, on a CPU in minutes; print the table.

    SFT, stage 1 (regression) and stage 2 with response mutation (RARL) are trained from the embedded model
    and evaluated beside it. Given again, the command continues a run that was interrupted.
    """
    _quiet("tiny")
    with continued_by(shlex.join(["rarl", "demo", "--out", str(out), "--seed", str(seed)])):
        from rarl.demo import run_demo

        run_demo(out, seed)


@app.command(
    epilog="Example: rarl train configs/qwen2.5-vl-3b.yaml --set data=data/faces --set output=runs/faces"
)
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="The run: task, model, stages, trainer.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a value, as stages.0.max_steps=10; repeatable."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
) -> None:
    """Train and evaluate the stages of one YAML in order, each from the model of the one before.

    The configuration is checked whole before anything runs. The output folder gets config.yaml as resolved, a
    model folder for each stage, metrics.json and predictions.jsonl.
    """
    from rarl.arguments import checked_model
    from rarl.data.collection import load_collection
    from rarl.training.checkpoints import check_output
    from rarl.training.config import load_config

    run = load_config(config, overrides or [])
    _quiet(checked_model(run.model))
    check_output(run.output, run.to_dict(), resume=resume)
    if resume and not (run.output / "config.yaml").is_file():
        print(f"{run.output} holds no run to continue: a new one begins", file=sys.stderr)
    if run.data is not None:
        load_collection(run.data)
    flags = [word for override in overrides or [] for word in ("--set", override)]
    again = shlex.join(["rarl", "train", str(config), *flags, "--resume"])
    with continued_by(again):
        from rich.console import Console

        from rarl.report import results_table
        from rarl.training.stages import run as run_stages

        console = Console()
        metrics = run_stages(run, resume=resume, console=console)
        console.print(results_table(metrics, run.task, model_name=run.model))


@app.command(epilog="Example: rarl evaluate runs/demo/rarl runs/demo/data --images 1,2,4,8")
def evaluate(
    model: MODEL,
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A collection's folder.")],
    images: Annotated[str, typer.Option(help="Numbers of images in a prompt.")] = "1,2,4,8",
    split: Annotated[str, typer.Option(help="The part of the collection.")] = "test",
    lists: Annotated[int, typer.Option(min=1, help="Lists for each number of images above 1.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in one pass.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Default: runs/evaluation/TASK-SPLIT.")] = None,
    arm: Annotated[
        str | None, typer.Option(help="The model's name in the results; default: its folder's.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Measure a model on a collection, greedily: error or accuracy alone, Kendall's tau in lists.

    Writes predictions.jsonl and metrics.json, beside the models evaluated into the same folder before, and
    prints the table of all of them.
    """
    from rarl.arguments import checked_model, counts
    from rarl.data.collection import load_collection
    from rarl.results import load_metrics, open_metrics

    numbers = counts(images)
    name = checked_model(model)
    _quiet(name)
    data = load_collection(collection)
    data.split(split)
    folder = out or Path("runs/evaluation") / f"{data.task.name}-{split}"
    label = arm or ("base" if model == "tiny" else Path(model).resolve().name)
    if label in open_metrics(folder, data.task.name, split, seed=0)["arms"]:
        print(f"the results of '{label}' in {folder} are replaced; --arm NAME keeps both", file=sys.stderr)

    with redirect_stdout(sys.stderr):
        from rich.console import Console

        from rarl.evaluation import evaluate as evaluate_model
        from rarl.models.loading import load_model, load_processor
        from rarl.training.progress import progress_bar

        with progress_bar(Console(stderr=True)) as progress:
            bar = progress.add_task(f"evaluating {label}", total=None)
            evaluate_model(
                load_model(name),
                load_processor(name),
                data,
                folder,
                arm=label,
                images=numbers,
                split=split,
                lists=lists,
                batch_size=batch_size,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    metrics = load_metrics(folder / "metrics.json")
    if as_json:
        print(json.dumps(metrics))
        return
    from rarl.report import results_table

    Console().print(results_table(metrics, data.task))


@app.command(epilog='Example: rarl rank runs/age/rarl *.jpg --rule "facial age" --range 0-116')
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
        str | None, typer.Option("--range", metavar="LOW-HIGH", help="The values of --rule.")
    ] = None,
    step: Annotated[float | None, typer.Option(help="The grid of the values of --rule; default: 1.")] = None,
    as_json: JSON = False,
) -> None:
    """Put images in ascending order of a value, and give each its value."""
    from rarl.arguments import checked_images, checked_model, scale

    name = checked_model(model)
    _quiet(name)
    measured = scale(model, task, rule, ends, step)
    files = checked_images(images)

    with redirect_stdout(sys.stderr):
        from rarl.ranker import Ranker

        ranking = Ranker(name, measured).rank(files)
    if as_json:
        rows = [{"rank": r.rank, "file": r.image, "value": r.value, "method": r.method} for r in ranking]
        print(json.dumps({"model": model, "task": measured.to_dict(), "ranking": rows}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "file")
    table.add_column(Text(measured.rule))  # Text, because rich would take [...] for markup
    for r in ranking:
        value = "-" if r.value is None else f"{r.value:g}"
        table.add_row("-" if r.rank is None else str(r.rank), Text(str(r.image), overflow="fold"), value)
    Console().print(table)


@app.command(epilog="Example: rarl base --seed 1 bases/1")
def base(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")],
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="0 gives the base that ships with the package.")
    ] = 0,
) -> None:
    """Build the embedded base model anew: a tiny Qwen2.5-VL that reads digits roughly. Takes some minutes."""
    from rarl.arguments import empty_folder

    empty_folder(out)
    with continued_by(shlex.join(["rarl", "base", "--seed", str(seed), str(out)])):
        from rich.console import Console

        from rarl.demo import digits_base

        digits_base(out, seed, Console())
    print(f"wrote {out}")


@data_app.command(epilog="Example: rarl data prepare digits data/digits")
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Where the images come from: digits.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The collection's folder to write.")],
) -> None:
    """Write a source's images and values as a collection: train, validation, test, and task.yaml."""
    if source not in SOURCES:
        near = get_close_matches(source, SOURCES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(f"unknown source '{source}': {hint}the sources are {', '.join(SOURCES)}")
    from rarl.data.digits import prepare_digits

    collection = prepare_digits(out)
    parts = ", ".join(f"{name} {len(rows)}" for name, rows in collection.splits.items())
    print(f"wrote {out}: {parts}")
