"""The commands under `rarl data`: `prepare` makes a collection of images as people have them, `check` says
what is in one. Both leave the work to `rarl.data`, which they import only when they run."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarl.cli.arguments import (
    JSON,
    ValueRange,
    comma_separated,
    parse_counts,
    parse_metric,
    parse_range,
    parse_several,
    quiet_loading,
)
from rarl.data import SHARES, Several, parse_shares, shares_text
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import HeadlineMetric

if TYPE_CHECKING:
    from rarl.data.sources import Source


prepare_app = typer.Typer(
    help="Write a source's images and values as a collection: its parts, and task.yaml.",
    no_args_is_help=True,
    epilog="Example: rarl data prepare folder photos data/photos --rule ripeness",
)

RAW = Annotated[Path, typer.Argument(metavar="RAW", help="The folder of the source.")]
OUT = Annotated[Path, typer.Argument(metavar="OUT", help="The collection's folder to write.")]
SPLIT = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[PART=]FILE",
        help="A list of the images of train, validation or test, one a line, or a table; repeatable.",
    ),
]


@prepare_app.command(epilog="Example: rarl data prepare digits data/digits")
def digits(out: OUT) -> None:
    """The handwritten digits that come with scikit-learn; nothing is downloaded."""
    from rarl.data.sources.digits import prepare_digits

    collection = prepare_digits(out)
    splits = ", ".join(f"{name} {len(rows)}" for name, rows in collection.splits.items())
    print(f"wrote {out}: {splits}")


def _make_collection(
    read: Callable[[], "Source"],
    name: str,
    out: OUT,
    parts: Annotated[
        str, typer.Option(help="The shares of the parts, where no list says an image's; with a seed.")
    ] = shares_text(SHARES),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the parts.")] = 0,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the images; otherwise they are hard links.")
    ] = False,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Make images with more pixels (width x height) smaller.")
    ] = None,
    drop_duplicates: Annotated[
        bool,
        typer.Option(
            "--drop-duplicates", help="Of byte-identical files keep one; none, where their values differ."
        ),
    ] = False,
) -> None:
    """Reads a source, makes the collection `out` of it, and says what came of it. The parameters from `out`
    on are those of every command that `source_command` makes."""
    from rich.console import Console

    from rarl.data.prepare import preparation_lines, prepare_collection
    from rarl.progress import counted

    shares = parse_shares(parts)
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already; remove it or choose another folder")
    source = read()
    source = replace(source, notes={"source": name, **source.notes})
    with counted(Console(stderr=True), "opening images") as progress:
        prepared = prepare_collection(
            source,
            out,
            shares=shares,
            seed=seed,
            copy=copy,
            max_pixels=max_pixels,
            drop_duplicates=drop_duplicates,
            progress=progress,
        )
    print("\n".join(preparation_lines(prepared, out)))


def source_command(name: str, example: str) -> Callable[[Callable[..., "Source"]], Callable[..., "Source"]]:
    """Turns a function that reads a source into the command `rarl data prepare NAME`. The command takes RAW,
    the function's first parameter; OUT; the function's other parameters; and the options that all sources
    share."""
    out, *shared = list(signature(_make_collection).parameters.values())[2:]

    def command_of(read: Callable[..., "Source"]) -> Callable[..., "Source"]:
        raw, *own = signature(read).parameters.values()

        def command(**given: Any) -> None:
            making = {parameter.name: given.pop(parameter.name) for parameter in (out, *shared)}
            _make_collection(partial(read, **given), name, **making)

        command.__doc__ = read.__doc__
        vars(command)["__signature__"] = Signature([raw, out, *own, *shared])
        prepare_app.command(name, epilog=f"Example: rarl data prepare {name} {example}")(command)
        return read

    return command_of


@source_command("utkface", "UTKFace data/utkface --ages 21-60")
def utkface(
    raw: RAW,
    split: SPLIT = None,
    age_offset: Annotated[
        int | None, typer.Option(help="Years to be added to the ages of the lists; default: found.")
    ] = None,
    ages: Annotated[
        ValueRange | None,
        typer.Option(
            metavar="LOW-HIGH",
            parser=partial(parse_range, option="--ages"),
            help="Faces of these ages alone.",
        ),
    ] = None,
) -> "Source":
    """Faces with their age, from the names of UTKFace's files, aligned or in the wild."""
    from rarl.data.sources.utkface import read_utkface

    return read_utkface(raw, split or (), ages, age_offset)


CATEGORIES = Annotated[
    Sequence[str] | None,
    typer.Option(
        metavar="NAME,...",
        parser=partial(comma_separated, option="--categories"),
        help="Count these alone, such as person,horse.",
    ),
]
ZEROS = Annotated[bool, typer.Option("--zeros", help="Also images with none of a category.")]
CROWDS = Annotated[bool, typer.Option("--crowds", help="Also images where some are annotated as a crowd.")]


@source_command("coco-rem", "COCO data/coco --categories horse")
def coco_rem(
    raw: RAW,
    categories: CATEGORIES = None,
    zeros: ZEROS = False,
    crowds: CROWDS = False,
    annotations: Annotated[
        Path | None, typer.Option(help="The folder of the annotation files, where they are not found.")
    ] = None,
) -> "Source":
    """Photos with the number of a category's objects, from COCO 2017 with COCO-ReM's annotations or its own.

    Training is from train2017, of which validation is a share; test is val2017.
    """
    from rarl.data.sources.coco import read_coco

    return read_coco(raw, categories or (), zeros, crowds, annotations)


@source_command("coco", "export data/cells --categories cell")
def coco(
    raw: Annotated[
        Path, typer.Argument(metavar="RAW", help="The folder of the images, or one annotation file.")
    ],
    annotations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PART=]FILE",
            help="An annotation file, of train, validation or test; repeatable; default: those in RAW.",
        ),
    ] = None,
    categories: CATEGORIES = None,
    zeros: ZEROS = False,
    crowds: CROWDS = False,
) -> "Source":
    """Photos with the number of a category's objects, from any annotation files in COCO's format.

    A file alone is divided by seed; files of train, valid and test, by name or folder, are the splits.
    """
    from rarl.data.sources.coco import read_coco_files

    return read_coco_files(raw, annotations or (), categories or (), zeros, crowds)


@source_command("ava", "AVA data/ava --split test=generic_test.jpgl")
def ava(raw: RAW, split: SPLIT = None) -> "Source":
    """Photos with the mean of their votes, from AVA.txt and the folder images."""
    from rarl.data.sources.ava import read_ava

    return read_ava(raw, split or ())


@source_command("folder", "lettuce data/lettuce --rule severity --order low,medium,high")
def folder(
    raw: RAW,
    rule: Annotated[str | None, typer.Option(help='What is measured, such as "ripeness".')] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A table of files and values: CSV, TSV, JSONL, JSON, Parquet, XML; default: sub-folders."
        ),
    ] = None,
    file_column: Annotated[str | None, typer.Option(help="The table's column of the file.")] = None,
    value_column: Annotated[str | None, typer.Option(help="The table's column of the value.")] = None,
    objects: Annotated[
        Sequence[str] | None,
        typer.Option(
            "--count",
            metavar="NAME,...",
            parser=partial(comma_separated, option="--count"),
            help="Count these objects of Pascal VOC annotations.",
        ),
    ] = None,
    several: Annotated[
        Several | None,
        typer.Option(
            metavar="HOW",
            parser=parse_several,
            help="Several values of an image in the table become their mean, median, or the first.",
        ),
    ] = None,
    orders: Annotated[
        Path | None,
        typer.Option(help='Orders are all that is known: a JSONL of {"ids": [file names, ascending]}.'),
    ] = None,
    order: Annotated[
        Sequence[str] | None,
        typer.Option(
            metavar="NAME,...",
            parser=partial(comma_separated, option="--order"),
            help="Names of values, ascending: low,medium,high.",
        ),
    ] = None,
    ends: Annotated[
        ValueRange | None,
        typer.Option("--range", metavar="LOW-HIGH", parser=parse_range, help="Default: that of the values."),
    ] = None,
    step: Annotated[float | None, typer.Option(help="The grid of the values; default: as they lie.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="The tolerance of Eq. 3; default: a fifth of the range.")
    ] = None,
    metric: Annotated[
        HeadlineMetric | None,
        typer.Option(
            metavar="<str>",
            parser=parse_metric,
            help="The headline metric: mae, accuracy or srcc; default: mae.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The task's name; default: the folder's.")] = None,
    split: SPLIT = None,
) -> "Source":
    """Images of your own: a sub-folder for each value, a table, counts from Pascal VOC, or orders alone."""
    from rarl.data.sources.folder import read_folder
    from rarl.data.sources.scale import Scale

    kinds = {"--labels": labels, "--count": objects, "--orders": orders}
    if len(given := [option for option, value in kinds.items() if value is not None]) > 1:
        raise ConfigError(f"{' and '.join(given)} each say where the values are: give one of them")
    if labels is None and (file_column or value_column):
        raise ConfigError("--file-column and --value-column belong to --labels, which is not given")
    if labels is None and several:
        raise ConfigError("--several belongs to --labels, which is not given")
    if rule is None and objects is None:
        raise ConfigError('--rule is missing: what is measured, such as --rule "ripeness of the fruit"')
    scale = Scale(rule or "", ends, step, delta, metric, tuple(order or ()), name)
    return read_folder(
        raw, scale, labels, orders, objects or (), (file_column, value_column), split or (), several
    )


data_app = typer.Typer(
    help="Collections of images with values.",
    no_args_is_help=True,
    epilog="Example: rarl data check data/faces",
)
data_app.add_typer(prepare_app, name="prepare")


@data_app.command("check", epilog="Example: rarl data check data/faces --model Qwen/Qwen2.5-VL-3B-Instruct")
def check_data(
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

    from rarl.data.check import check_collection
    from rarl.data.check.report import print_check, save_histograms
    from rarl.data.collection import inspect_collection
    from rarl.progress import counted

    numbers = parse_counts(images)
    of_image, of_prompt = _costs(model)
    found, problems = inspect_collection(collection)
    with counted(Console(stderr=True), "opening images") as progress:
        checked = check_collection(
            found,
            problems,
            of_image,
            of_prompt,
            numbers,
            progress,
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
    """What images and the texts of prompts cost a model, in tokens; nothing without a model."""
    if model is None:
        return None, None
    quiet_loading(model)
    from rarl.models.loading import load_processor
    from rarl.models.processor import image_tokens, prompt_tokens

    processor = load_processor(model)
    return partial(image_tokens, processor), partial(prompt_tokens, processor)
