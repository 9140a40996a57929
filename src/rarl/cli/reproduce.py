"""The command `rarl reproduce`: a table of the paper, measured here."""

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rarl.cli.arguments import (
    JSON,
    checked_model,
    comma_separated,
    continued_by,
    parse_seeds,
    parse_shard,
    quiet_loading,
)
from rarl.errors import ConfigError

SET_BY_GRID = {
    "seed": "give the seeds by --seeds",
    "output": "give the grid's folder by --out",
    "sft.reasoning": "the arm sft has the template, and --arms sft_answer_only adds the answer alone",
}
"""Keys of a run's YAML that every cell has from elsewhere, and from where."""


def reproduce(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="table2 to table6 of the paper, or mutation, which is ours."),
    ],
    task: Annotated[
        str | None, typer.Option(help="What is measured; default: that of --data or --config, else digits.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub name, or tiny; default: that of --config, else tiny.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A collection; the digits need none.", metavar="COLLECTION")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG.yaml", help="A run of two stages; default for tiny: that of the demo."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Each is a run of every arm.")] = "0,1,2",
    arms: Annotated[
        Sequence[str] | None,
        typer.Option(
            help="Further arms, such as joint,sft_answer_only.",
            metavar="ARM,...",
            parser=partial(comma_separated, option="--arms"),
        ),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="The cells of machine I of N; copy their folders into one.")
    ] = "1/1",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the configuration; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The grid's folder; default: runs/reproduce/TASK-MODEL.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Train and evaluate the arms behind a table of the paper, and print them beside its numbers.

    What is finished is not run again, nor by another table of the same grid, and what was interrupted goes
    on where it stopped.
    """
    from rarl.paper.published import OWN_TABLES, PUBLISHED_TABLES

    if table not in (*PUBLISHED_TABLES, *OWN_TABLES):
        near = get_close_matches(table, (*PUBLISHED_TABLES, *OWN_TABLES), n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"unknown table '{table}': the paper's are {', '.join(PUBLISHED_TABLES)}, and "
            f"ours is {', '.join(OWN_TABLES)}{hint}"
        )
    runs, here, further = parse_seeds(seeds), parse_shard(shard), arms or ()

    from rarl.training.config import apply_override
    from rarl.yaml_files import read_yaml_mapping

    if config is None and model not in (None, "tiny"):
        raise ConfigError(
            f"--config: which stages and trainer's settings has {model}? Give a run's YAML, such as "
            "configs/utkface_3b_lora.yaml"
        )
    recipe = config or Path(__file__).parents[1] / "demo.yaml"
    mapping = read_yaml_mapping(recipe)
    if config is None:
        mapping |= {"task": None, "model": "tiny"}
    given = {"model": model, "data": None if data is None else str(data)}
    if data is not None:
        mapping["task"] = None
    mapping |= {key: value for key, value in {**given, "task": task}.items() if value is not None}
    if mapping.get("data") is None and mapping.get("task") is None:
        mapping["task"] = "digits"
    for override in overrides or []:
        if said := SET_BY_GRID.get(override.partition("=")[0].strip()):
            raise ConfigError(f"--set {override}: the cells of a grid have their own; {said}")
        apply_override(mapping, override)
    quiet_loading(checked_model(str(mapping.get("model", "tiny"))))

    flags = {"--task": task, "--model": model, "--data": data, "--config": config, "--seeds": seeds}
    flags |= {
        "--arms": None if arms is None else ",".join(arms),
        "--shard": None if shard == "1/1" else shard,
        "--out": out,
    }
    words_given = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    words_given += [word for override in overrides or [] for word in ("--set", override)]
    again = shlex.join(["rarl", "reproduce", table, *words_given])
    with continued_by(again), redirect_stdout(sys.stderr) if as_json else nullcontext():
        from rich.console import Console

        from rarl.paper.reproduce import plan_grid, print_table, run_grid
        from rarl.paper.tables import grid_tables

        planned = plan_grid(table, mapping, str(recipe), out=out, seeds=runs, further=further, shard=here)
        results = run_grid(planned, Console(stderr=as_json))
    if not results:  # not the first process
        return
    if as_json:
        print(json.dumps(results))
        return
    console = Console()
    made = "report.html, report.md and results.json are" if results["arms"] else "results.json is"
    for shown in grid_tables(results, planned.recipe.task):
        print_table(shown, console)
    console.print(f"{made} in {planned.folder}", highlight=False)
