"""The command `rarl data export`: the prompts of a collection for another engine, and which reward it loads.
The work is in `rarl.data.exporting`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from rarl.cli.arguments import LARGEST_SEED, parse_counts
from rarl.errors import DataError

REWARDS = {
    "verl": "verl_reward",
    "swift": "swift_plugin",
    "easyr1": "easyr1_reward",
    "openrlhf": "openrlhf_reward",
}
"""The file of `rarl.integrations` that each engine loads."""


def export_command(
    engine: Annotated[
        Literal["verl", "swift", "easyr1", "openrlhf"], typer.Argument(help="Who reads the files.")
    ],
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A collection's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    images: Annotated[str, typer.Option(help="Numbers of images in a prompt.")] = "1,2,4,8",
    prompts: Annotated[
        int, typer.Option(min=1, help="Prompts of each number of images, for training.")
    ] = 1000,
    validation_prompts: Annotated[
        int, typer.Option(min=1, help="The most of them for validation; there, no image is used twice.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the groups.")] = 0,
) -> None:
    """Write prompts, images and truths for training in verl, ms-swift, EasyR1 or OpenRLHF.

    The rewards are those of this library; docs/engines.md has a command for each engine.
    """
    from rarl import integrations
    from rarl.data.collection import load_collection
    from rarl.data.exporting import export

    numbers = parse_counts(images)
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already; remove it or choose another folder")
    for written in export(
        load_collection(collection),
        engine,
        out,
        images=numbers,
        prompts=prompts,
        validation_prompts=validation_prompts,
        seed=seed,
    ):
        counts = ", ".join(f"{number} of {count}" for count, number in written.prompts.items())
        print(f"wrote {written.path}: prompts by images: {counts}")
    print(f"the reward: {Path(next(iter(integrations.__path__))) / (REWARDS[engine] + '.py')}")
