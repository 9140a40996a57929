"""What the words of a command line mean: counts, ranges, the task to rank on, and files that must exist.
Every mistake is found before torch is imported, so that the user hears of it at once. An error names the
option, since typer does not tell a parser which one it serves."""

import csv
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from rarl.data import SEVERAL, Several
from rarl.errors import ConfigError, DataError, DiskError, ModelError
from rarl.method.tasks import HEADLINE_METRICS, HeadlineMetric, Task, task_named
from rarl.signals import Stopped

MOST_IMAGES = 16
LARGEST_SEED = 2**32 - 1  # numpy's
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder such as runs/demo/rarl, a hub name, or tiny.")
]

TRUST = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run the code that the model brings along, if you trust its author."
    ),
]


@contextmanager
def continued_by(command: str) -> Iterator[None]:
    """If what runs within is stopped, or ends because the disk is full, says how to continue."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as error:
        what = error if isinstance(error, Stopped) else "interrupted"
        print(f"\n{what}; continue with: {command}", file=sys.stderr)
        raise typer.Exit(error.code if isinstance(error, Stopped) else 130) from None
    except DiskError as error:
        raise DiskError(f"{error}, and continue with: {command}") from error


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds such as "0,1,2", in the order given and each once.

    Raises:
        ConfigError: if one is no whole number from 0 to `LARGEST_SEED`.
    """
    found = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) <= 10 and int(word) <= LARGEST_SEED for word in found):
        given = text.strip() or repr(text)
        raise ConfigError(f"--seeds {given}: must be whole numbers from 0 to {LARGEST_SEED}, such as 0,1,2")
    return tuple(dict.fromkeys(int(word) for word in found))


def parse_shard(text: str) -> tuple[int, int]:
    """A shard such as "2/3": the second of three machines.

    Raises:
        ConfigError: if it is not of that form.
    """
    match = re.fullmatch(r"\s*(\d{1,4})\s*/\s*(\d{1,4})\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"--shard {text.strip() or repr(text)}: must be i/n with i from 1 to n, such as 1/3"
        )
    return int(match[1]), int(match[2])


def parse_counts(text: str, option: str = "--images") -> tuple[int, ...]:
    """Numbers of images such as "1,2,4,8", ascending and each once.

    Raises:
        ConfigError: if one is no whole number from 1 to 16.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= MOST_IMAGES for word in words):
        given = text.strip() or repr(text)
        raise ConfigError(f"{option} {given}: must be whole numbers from 1 to {MOST_IMAGES}, such as 1,2,4,8")
    return tuple(sorted({int(word) for word in words}))


def comma_separated(text: str, option: str) -> list[str]:
    """Names such as "low,medium,high". A name in quotes may have commas in it: '"low, dry",high'.

    Raises:
        ConfigError: if there are none, or a quote is not closed.
    """
    try:
        [words] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise ConfigError(
            f"{option} {text!r}: {error}; a name with a comma in it stands in quotes, as '\"low, dry\",high'"
        ) from error
    found = [word.strip() for word in words if word.strip()]
    if not found:
        raise ConfigError(f"{option} {text!r}: must be one name or more, with commas between them")
    return found


def checked_arm(name: str) -> str:
    """`name`, if results can be kept under it.

    Raises:
        ConfigError: if it is empty, long, or has a slash or what can't be printed.
    """
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 100 or "/" in name:
        raise ConfigError(
            f"--arm {name!r}: must be a name without '/', of 1 to 100 characters, such as rarl-2"
        )
    return name


class ValueRange(NamedTuple):
    """The ends of a range of values."""

    low: float
    high: float


def parse_range(text: str, option: str = "--range") -> ValueRange:
    """The ends of a range such as "0-116", "-5:5" or "0.5 to 2".

    Raises:
        ConfigError: if it is not two numbers.
    """
    plain = text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(?:-|:|to)\s*({_NUMBER})\s*", plain)
    if match is None:
        raise ConfigError(f"{option} {text}: must be two numbers such as 0-116")
    return ValueRange(float(match[1]), float(match[2]))


def parse_several(text: str) -> Several:
    """What becomes of several values of one image.

    Raises:
        ConfigError: if there is no such way.
    """
    for how in SEVERAL:
        if text == how:
            return how
    raise ConfigError(f"--several {text}: must be one of {', '.join(SEVERAL)}")


def parse_metric(text: str) -> HeadlineMetric:
    """A headline metric.

    Raises:
        ConfigError: if there is no such metric.
    """
    for metric in HEADLINE_METRICS:
        if text == metric:
            return metric
    raise ConfigError(f"--metric {text}: must be one of {', '.join(HEADLINE_METRICS)}")


def quiet_loading(model: str) -> None:
    """Hides the bars of weights that are read from a disk; a download from the hub keeps its own."""
    if model == "tiny" or Path(model).is_dir():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def task_to_rank(
    model: str, task: str | None, rule: str | None, ends: ValueRange | None, step: float | None
) -> Task:
    """The task to rank on: that of `--task`, that of `--rule` with `--range`, or the one the model was
    trained on.

    Raises:
        ConfigError: if the options contradict each other, or nothing says what is to be measured.
    """
    if rule is not None:
        if task is not None:
            raise ConfigError("--task and --rule both name what is measured: give one of them")
        if ends is None:
            raise ConfigError(f'--rule "{rule}" needs --range, such as --range 0-116')
        # delta is the tolerance of Eq. 3: it is for training, and ranking does not look at it.
        return Task("custom", rule, low=ends.low, high=ends.high, step=1 if step is None else step, delta=1)
    if ends is not None or step is not None:
        raise ConfigError(f"{'--step' if ends is None else '--range'} belongs to --rule, which is not given")
    if task is not None:
        return task_named(task)
    from rarl.models.loading import trained_task

    known = trained_task(model)
    if known is None:
        raise ConfigError(
            f"what is to be measured? {model} has no task.yaml that says it: give --task age, or "
            '--rule "facial age" --range 0-116'
        )
    return known


def checked_model(model: str) -> str:
    """`model`, if it is `tiny`, a model folder, or a possible hub name.

    Raises:
        ModelError: if it can't be any of them.
    """
    from rarl.models.loading import check_model

    if Path(model).is_file():
        raise ModelError(f"{model} is a file; a model is a folder, such as runs/demo/rarl, or a hub name")
    check_model(model)
    return model


def checked_images(images: Sequence[str], *, strict: bool) -> None:
    """Refuses images of which none can be opened, or with `strict` one can't.

    Raises:
        DataError: if that is so.
    """
    from rarl.data.images import image_size, open_image

    if strict:
        for image in images:
            open_image(image)
    problems = []
    for image in images:
        try:
            image_size(image)
        except DataError as error:
            problems.append(error)
        else:
            return
    raise problems[0]


def empty_folder(out: Path) -> Path:
    """`out`, if writing there would overwrite nothing.

    Raises:
        ConfigError: if it is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already: choose another folder, or remove it")
    return out
