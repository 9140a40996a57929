"""The command `rarl`. Each command checks what it is given, imports torch only then, and leaves the work to
the library; mistakes that a user can mend are a line each on stderr, without a traceback."""

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rarl.cli.arguments import LARGEST_SEED, continued_by, quiet_loading
from rarl.cli.data import data_app
from rarl.cli.export import export_command
from rarl.cli.merge import PUSH, merge
from rarl.cli.models import evaluate_command, report
from rarl.cli.plan import plan
from rarl.cli.rank import rank
from rarl.cli.reproduce import reproduce
from rarl.errors import ConfigError, RarlError
from rarl.signals import Stopped, stopped_by_sigterm

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
data_app.command("export", epilog="Example: rarl data export verl data/faces exported/faces")(export_command)
app.add_typer(data_app, name="data")
app.command("evaluate", epilog="Example: rarl evaluate runs/demo/rarl runs/demo/data --images 1,2,4,8")(
    evaluate_command
)
app.command(epilog="Example: rarl rank runs/age/rarl photos --out scores.csv --top 20 --sheet top.png")(rank)
app.command(epilog="Example: rarl merge adapters/age models/age")(merge)
app.command(epilog="Example: rarl reproduce table6 --task digits --seeds 0")(reproduce)
app.command(epilog="Example: rarl report runs/demo")(report)
app.command(epilog="Example: rarl plan configs/utkface_3b.yaml --cards 8 --card-memory 80")(plan)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Raises:
        SystemExit: 0, 1 for what can't be done, 2 for wrong usage or configuration, 130 when interrupted, 143
            when stopped by SIGTERM.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        # A library's notes to its callers are not for the users of a command.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|torch)\b")
    try:
        with stopped_by_sigterm():
            app(args=None if arguments is None else list(arguments), prog_name="rarl")
    except RarlError as error:
        print(f"error: {_readable(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        from rarl.disk import why_not_written

        if (full := why_not_written(error, Path())) is not None:
            print(f"error: {full}", file=sys.stderr)
            sys.exit(1)
        if error.filename is None:
            raise
        # A folder that can't be written, a full disk: nothing that the library could know beforehand.
        print(f"error: {error.filename}: can't be read or written ({error.strerror})", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, Stopped) as error:
        print(error if isinstance(error, Stopped) else "interrupted", file=sys.stderr)
        sys.exit(error.code if isinstance(error, Stopped) else 130)


def _readable(message: str) -> str:
    """A message without what a terminal would obey: texts of strangers stand in it, and may be long."""
    lines = (line if len(line) <= 2000 else f"{line[:2000]}…" for line in message.split("\n"))
    return "\n".join(
        "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in line) for line in lines
    )


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
    quiet_loading("tiny")
    with continued_by(shlex.join(["rarl", "demo", "--out", str(out), "--seed", str(seed)])):
        from rarl.demo import run_demo

        run_demo(out, seed)


@app.command(
    epilog="Example: rarl train configs/utkface_3b_lora.yaml --set data=data/faces --set output=runs/faces"
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
    push_to_hub: PUSH = None,
) -> None:
    """Train and evaluate the stages of one YAML in order, each from the model of the one before.

    The configuration is checked whole before anything runs. The output folder gets config.yaml as resolved, a
    model folder for each stage with its model card, metrics.json and predictions.jsonl. --push-to-hub is for
    the model of the last stage."""
    from rarl.cli.arguments import checked_model
    from rarl.data.collection import load_collection
    from rarl.models.folders.hub import check_push, push
    from rarl.training.config import check_trainer_fields, load_config
    from rarl.training.keeping.checkpoints import check_output

    run = load_config(config, overrides or [])
    quiet_loading(checked_model(run.model))
    try:
        check_output(run.output, run.to_dict(), resume=resume)
    except ConfigError:
        check_trainer_fields(run)  # what is wrong in the file comes first; it needs torch, so not sooner
        raise
    if resume and not (run.output / "config.yaml").is_file():
        print(f"{run.output} holds no run to continue: a new one begins", file=sys.stderr)
    if run.data is not None:
        load_collection(run.data)
    if push_to_hub is not None:
        check_push(push_to_hub)
    flags = [word for override in overrides or [] for word in ("--set", override)]
    flags += ["--push-to-hub", push_to_hub] if push_to_hub else []
    again = shlex.join(["rarl", "train", str(config), *flags, "--resume"])
    with continued_by(again):
        from accelerate import PartialState
        from rich.console import Console

        from rarl.models.loading import use_one_thread_for
        from rarl.report.model_card import write_model_cards
        from rarl.report.tables import results_table
        from rarl.training.run import train_and_evaluate

        console = Console()
        use_one_thread_for(run.model)
        metrics = train_and_evaluate(run, resume=resume, console=console)
        console.print(results_table(metrics, run.task, model_name=run.model))
        if PartialState().is_main_process:
            write_model_cards(run, metrics)
            if push_to_hub is not None:
                print(f"uploaded to {push(run.output / run.stages[-1].name, push_to_hub)}")


@app.command(epilog="Example: rarl base --seed 1 bases/1")
def base(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")],
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="0 gives the base that ships with the package.")
    ] = 0,
    data: Annotated[
        Path | None, typer.Option(help="A collection with a part `pretrain`; default: the digits.")
    ] = None,
    format_only: Annotated[
        bool, typer.Option("--format-only", help="Learn the format alone: every value is the middle one.")
    ] = False,
) -> None:
    """Build the embedded base model anew: a tiny Qwen2.5-VL that reads its images roughly.

    It is trained on the part `pretrain` of the collection, on labels that are mostly moved; some minutes.
    """
    from rarl.cli.arguments import empty_folder
    from rarl.data.collection import load_collection

    empty_folder(out)
    collection = None if data is None else load_collection(data)
    flags = [] if data is None else ["--data", str(data)]
    flags += ["--format-only"] if format_only else []
    with continued_by(shlex.join(["rarl", "base", "--seed", str(seed), *flags, str(out)])):
        from rich.console import Console

        from rarl.models.pretraining import make_base

        make_base(out, seed, Console(), collection, format_only=format_only)
    print(f"wrote {out}")
