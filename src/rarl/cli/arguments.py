"""What the words of a command line mean: counts, ranges, the scale to rank on, and files that must be there.
Every mistake is found before torch is imported, so that it is told at once."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rarl.errors import ConfigError, ModelError
from rarl.method.tasks import DIGITS, HEADLINE_METRICS, HeadlineMetric, Task, task_named

MOST_IMAGES = 16
LARGEST_SEED = 2**32 - 1  # numpy's
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
TASK_FILES = ("task.yaml", "rarl.yaml")

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder such as runs/demo/rarl, a hub name, or tiny.")
]


@contextmanager
def continued_by(command: str) -> Iterator[None]:
    """Tells how to go on when the user interrupts what runs within."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with: {command}", file=sys.stderr)
        raise typer.Exit(130) from None


def seeds(text: str) -> tuple[int, ...]:
    """Seeds such as "0,1,2", in the order given and each once.

    Raises:
        ConfigError: if one is no whole number from 0 to `LARGEST_SEED`.
    """
    found = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and len(word) <= 10 and int(word) <= LARGEST_SEED for word in found):
        raise ConfigError(f"--seeds {text}: must be whole numbers from 0 to {LARGEST_SEED}, such as 0,1,2")
    return tuple(dict.fromkeys(int(word) for word in found))


def machine(text: str) -> tuple[int, int]:
    """A shard such as "2/3": the second of three machines.

    Raises:
        ConfigError: if it is not of that form.
    """
    match = re.fullmatch(r"\s*(\d{1,4})\s*/\s*(\d{1,4})\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {text}: must be i/n with i from 1 to n, such as 1/3")
    return int(match[1]), int(match[2])


def counts(text: str, option: str = "--images") -> tuple[int, ...]:
    """Numbers of images such as "1,2,4,8", ascending and each once.

    Raises:
        ConfigError: if one is no whole number from 1 to 16.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= MOST_IMAGES for word in words):
        raise ConfigError(f"{option} {text}: must be whole numbers from 1 to {MOST_IMAGES}, such as 1,2,4,8")
    return tuple(sorted({int(word) for word in words}))


def words(text: str | None, option: str) -> list[str]:
    """Names such as "low,medium,high"; none where the option is not given.

    Raises:
        ConfigError: if it is given without any.
    """
    found = [word.strip() for word in (text or "").split(",") if word.strip()]
    if text is not None and not found:
        raise ConfigError(f"{option} {text!r}: must be one name or more, with commas between them")
    return found


def value_range(text: str, option: str = "--range") -> tuple[float, float]:
    """The ends of a range such as "0-116", "-5:5" or "0.5 to 2".

    Raises:
        ConfigError: if it is not two numbers.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(?:-|:|to)\s*({_NUMBER})\s*", text)
    if match is None:
        raise ConfigError(f"{option} {text}: must be two numbers such as 0-116")
    return float(match[1]), float(match[2])


def metric_named(text: str) -> HeadlineMetric:
    """A headline metric.

    Raises:
        ConfigError: if there is none of that name.
    """
    for metric in HEADLINE_METRICS:
        if text == metric:
            return metric
    raise ConfigError(f"--metric {text}: must be one of {', '.join(HEADLINE_METRICS)}")


def quiet_loading(model: str) -> None:
    """No bars while weights are read from a disk; a download from the hub keeps its own."""
    if model == "tiny" or Path(model).is_dir():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def scale(model: str, task: str | None, rule: str | None, ends: str | None, step: float | None) -> Task:
    """The task to rank on: by `--task`, by `--rule` with `--range`, or the one the model was trained on.

    Raises:
        ConfigError: if the options contradict each other, or nothing says what the scale is.
    """
    if rule is not None:
        if task is not None:
            raise ConfigError("--task and --rule both name what is measured: give one of them")
        if ends is None:
            raise ConfigError(f'--rule "{rule}" needs --range, such as --range 0-116')
        low, high = value_range(ends)
        # delta is the tolerance of Eq. 3: it is for training, and ranking does not look at it.
        return Task("custom", rule, low=low, high=high, step=1 if step is None else step, delta=1)
    if ends is not None or step is not None:
        raise ConfigError(f"{'--step' if ends is None else '--range'} belongs to --rule, which is not given")
    return task_named(task) if task is not None else trained_task(model)


def trained_task(model: str) -> Task:
    """The task that a model folder says it was trained on.

    Raises:
        ConfigError: if the folder says nothing, or what it says is no task.
    """
    # YAML is only needed here.
    from rarl.files import read_yaml_mapping

    for name in TASK_FILES:
        path = Path(model) / name
        if path.is_file():
            fields = read_yaml_mapping(path)
            return Task.from_dict(fields.get("task", fields), str(path))
    if model == "tiny":
        return DIGITS
    raise ConfigError(
        f"what is to be measured? {model} has no {TASK_FILES[0]} that says it: give --task age, or "
        '--rule "facial age" --range 0-116'
    )


def checked_model(model: str) -> str:
    """`model`, if it is `tiny`, a model folder, or may be a hub name.

    Raises:
        ModelError: if it can't be one.
    """
    from rarl.models.loading import check_model

    if Path(model).is_file():
        raise ModelError(f"{model} is a file; a model is a folder, such as runs/demo/rarl, or a hub name")
    check_model(model)
    return model


def checked_images(images: Sequence[Path]) -> list[Path]:
    """`images`, if every one can be opened.

    Raises:
        DataError: if one is missing or is no image.
    """
    from rarl.data.images import open_image

    for image in images:
        open_image(image)
    return list(images)


def empty_folder(out: Path) -> Path:
    """`out`, if nothing would be overwritten there.

    Raises:
        ConfigError: if it is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already: choose another folder, or remove it")
    return out
