"""The command `rarl plan`: what a run needs, before it is paid for."""

import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarl.cli.arguments import JSON
from rarl.errors import ConfigError

PARTS = (
    *("weights", "reference", "gradients", "optimizer", "engine", "images"),
    *("activations", "head", "generation", "peak"),
)

if TYPE_CHECKING:
    from rich.console import Console

    from rarl.plan.measure import Measured
    from rarl.plan.run import Plan


def parse_size(text: str) -> tuple[int, int]:
    """A size such as "640x480", in pixels.

    Raises:
        ConfigError: if it is none.
    """
    match = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise ConfigError(f"--image-size {text}: must be width x height in pixels, such as 640x480")
    return int(match[1]), int(match[2])


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value, as in rarl train; repeatable."),
    ] = None,
    cards: Annotated[int, typer.Option(min=1, help="How many cards train together.")] = 1,
    card_memory: Annotated[float, typer.Option(min=0.1, help="GB of one card.")] = 80.0,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Of every image, in place of the collection's."),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Plan for a CPU: float32, and activations are kept.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Take a few real steps of each arm on this machine.")
    ] = False,
    step_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of a step of a stage, where they are known.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Say what a run needs: tokens of its prompts, memory of each card, steps, hours; nothing is trained.

    Where it doesn't fit, it says what to change, and the exit code is 1. The model's weights are not read,
    and the collection need not be there yet.
    """
    from rarl.training.config import load_config

    size = None if image_size is None else parse_size(image_size)
    run = load_config(config, overrides or [])
    with redirect_stdout(sys.stderr):
        from rich.console import Console

        from rarl.plan.run import plan_run

        made = plan_run(run, cards=cards, card=card_memory * 1e9, size=size, gpu=not cpu)
        measured = None
        if measure:
            from rarl.models.loading import use_one_thread_for
            from rarl.plan.measure import measure as measure_run

            use_one_thread_for(run.model)  # as in training
            measured = measure_run(run, Console(stderr=True))
    seconds = {} if step_seconds is None else {stage.name: step_seconds for stage in made.stages}
    seconds |= measured.seconds if measured else {}
    hours = made.hours(seconds)
    if as_json:
        found = made.to_dict() | {"hours": hours}
        if measured:
            found["measured"] = {
                "seconds": measured.seconds,
                "peak": measured.peak,
                "device": measured.device,
            }
        print(json.dumps(found))
    else:
        _print_plan(made, hours, measured, Console())
    if made.advice:
        raise typer.Exit(1)


def _print_plan(
    made: "Plan", hours: dict[str, float], measured: "Measured | None", console: "Console"
) -> None:
    from rich.table import Table

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(
        f"{made.model} ({made.family}): {made.parameters / 1e9:.3g} billion parameters, of which "
        f"{made.trained / 1e6:,.1f} million are trained"
    )
    lengths = Table("stage", "steps", title="prompts, and their tokens")
    for name in ("images", "prompts", "least", "median", "most"):
        lengths.add_column(name, justify="right")
    for stage in made.stages:
        for place, each in enumerate(stage.lengths):
            name, steps = (stage.name, f"{stage.steps:,}") if place == 0 else ("", "")
            numbers = (each.images, each.prompts, each.least, each.median, each.most)
            lengths.add_row(name, steps, *(f"{number:,}" for number in numbers))
    console.print(lengths)
    columns = [(stage, engine) for stage in made.stages for engine in stage.memory]
    one = "GB on one card" if made.cards == 1 else f"GB on each of {made.cards} cards"
    sizes = Table(title=f"{one} of {made.card / 1e9:g} GB")
    sizes.add_column("for")
    for stage, engine in columns:
        sizes.add_column(
            stage.name if made.cards == 1 else f"{stage.name}, {engine.upper()}", justify="right"
        )
    for part in PARTS:
        if any(getattr(stage.memory[engine], part) for stage, engine in columns):
            sizes.add_row(part, *(_gb(getattr(stage.memory[engine], part)) for stage, engine in columns))
    sizes.add_row("fits", *("yes" if stage.fits(engine, made.card) else "no" for stage, engine in columns))
    console.print(sizes)
    for stage in made.stages:
        say(f"{stage.name}: {stage.steps:,} steps, {stage.prompts:,} prompts, {stage.responses:,} responses")
    if made.sft_steps is not None:
        say(f"SFT: {made.sft_steps:,} steps")
    for arm, value in hours.items():
        say(f"{arm}: {value:.2g} hours")
    if not hours:
        say(
            "hours: not known; --measure takes a few steps here, --step-seconds takes what you know of a step"
        )
    if measured:
        for arm, peak in measured.peak.items():
            took = f"{measured.seconds[arm]:.3g} s a step, peak at most {_gb(peak)} GB"
            say(f"measured on {measured.device}: {arm} {took}")
    for note in made.notes:
        say(f"note: {note}")
    if made.advice:
        say("it doesn't fit. What to change, any of:")
        for line in made.advice:
            say(f"  - {line}")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2g}" if size < 10e9 else f"{size / 1e9:.0f}"
