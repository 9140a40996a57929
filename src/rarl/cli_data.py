"""The commands under `rarl data`: `prepare`, and `check`, which says what is in a collection."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rarl.arguments import JSON, counts, quiet_loading
from rarl.cli_prepare import prepare_app

data_app = typer.Typer(
    help="Collections of images with values.",
    no_args_is_help=True,
    epilog="Example: rarl data check data/faces",
)
data_app.add_typer(prepare_app, name="prepare")


@data_app.command(epilog="Example: rarl data check data/faces --model Qwen/Qwen2.5-VL-3B-Instruct")
def check(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION", help="A collection's folder.")],
    model: Annotated[
        str | None, typer.Option(help="A model's name or folder: how many tokens images and prompts cost it.")
    ] = None,
    images: Annotated[str, typer.Option(help="Numbers of images in a list.")] = "2,4,8",
    plot: Annotated[
        Path | None, typer.Option(help="The picture of the values; default: values.png in the collection.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Say what is in a collection: values, ties, sizes, and what is wrong, with exit code 1 if anything is.

    Every image is opened once. Wrong are images that are broken, that are in several parts, or that have
    several values, and lines that can't be read.
    """
    from rich.console import Console

    from rarl.check_report import print_check, save_histograms
    from rarl.data.checking import check_collection
    from rarl.data.collection import inspect_collection
    from rarl.progress_bar import progress_bar

    numbers = counts(images)
    of_image, of_prompt = _costs(model)
    found, problems = inspect_collection(collection)
    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("opening images", total=None)
        checked = check_collection(
            found,
            problems,
            of_image,
            of_prompt,
            numbers,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json:
        print(json.dumps(checked.to_dict()))
    else:
        print_check(checked, Console())
    picture = plot or collection / "values.png"
    if checked.bins or plot is not None:
        try:
            save_histograms(checked, picture)
            print(f"the values as a picture: {picture}", file=sys.stderr)
        except OSError as error:
            if plot is not None:
                raise
            print(f"no picture, {picture}: {error.strerror}; --plot puts it elsewhere", file=sys.stderr)
    if checked.faults:
        raise typer.Exit(1)


Costs = tuple[Callable[[int, int], int], Callable[[str, str, int], int]]


def _costs(model: str | None) -> Costs | tuple[None, None]:
    """How many tokens an image, and the text of a prompt, are to a model."""
    if model is None:
        return None, None
    quiet_loading(model)
    from rarl.models.loading import load_processor
    from rarl.models.processor import image_tokens, prompt_tokens

    processor = load_processor(model)
    return partial(image_tokens, processor), partial(prompt_tokens, processor)
