"""The whole method on handwritten digits, on a laptop CPU, with one command: `rarl demo`. It builds the
collection, takes the embedded base, and hands the configuration in `demo.yaml` to the same stages that
`rarl train` runs."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from rarl.data.collection import TASK_FILE, Collection, task_text
from rarl.data.digits import prepare_digits
from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.files import finish, unfinished
from rarl.models.loading import BASE_FOLDER
from rarl.progress_bar import progress_bar
from rarl.report import results_table
from rarl.training.checkpoints import is_finished
from rarl.training.config import config_from
from rarl.training.preparation import begin
from rarl.training.stages import run
from rarl.training.yaml_file import read_mapping

CONFIG = Path(__file__).with_name("demo.yaml")


def run_demo(out: Path, seed: int, console: Console | None = None) -> dict[str, Any]:
    """Trains SFT, stage 1 and stage 2 with mutation, evaluates each beside the base, prints the table.

    A demo that was interrupted goes on where it stopped; one that is complete prints its table again.

    Args:
        out: the run's folder.
        seed: of the base (0 is shipped, another is built first), the groups and the training.
        console: where the progress and the table go.

    Returns:
        What `metrics.json` holds.

    Raises:
        ConfigError: if `out` holds a run with another configuration.
    """
    _settle()
    console = console or Console()
    base = out / "base"
    given = {"model": str(base), "data": str(out / "data"), "output": str(out), "seed": seed}
    config = config_from(read_mapping(CONFIG) | given, CONFIG.name)
    begin(config, resume=True)  # first of all: a base must not be taken for that of another seed
    if not is_finished(base):
        console.print(f"building the embedded base of seed {seed}" if seed else "taking the embedded base")
        if seed == 0:
            temporary = unfinished(base)
            shutil.copytree(BASE_FOLDER, temporary, dirs_exist_ok=True)
            finish(temporary, base)
        else:
            make_base(base, seed, console)
    prepare_digits(out / "data")
    metrics = run(config, resume=True, console=console)
    console.print(results_table(metrics, config.task, model_name="embedded base"))
    console.print(f"models, config.yaml, metrics.json and predictions.jsonl are in {out}", highlight=False)
    return metrics


def make_base(out: Path, seed: int, console: Console, collection: Collection | None = None) -> Path:
    """Builds the embedded base of that seed, whole or not at all, from the part `pretrain` of a collection,
    which is that of the digits unless another is given.

    Raises:
        DataError: if there is no such part, it knows orders alone, or its images are of several sizes.
    """
    from rarl.models.pretraining import STEPS, build_base

    _settle()
    with TemporaryDirectory() as folder:
        data = collection or prepare_digits(Path(folder) / "digits")
        if not data.knows_values("pretrain"):
            raise DataError(f"{data.root / 'pretrain'} knows orders alone; a base is trained on values")
        images = [(open_image(row.path), row.value) for row in data.split("pretrain")]
    with progress_bar(console) as progress:
        bar = progress.add_task("base", total=STEPS)
        temporary = unfinished(out)
        build_base(temporary, data.task, images, seed, lambda done, _: progress.update(bar, completed=done))
        (temporary / TASK_FILE).write_text(task_text(data.task), encoding="utf-8")
    return finish(temporary, out)


def _settle() -> None:
    """For a model so small: one thread, because more gain nothing and sums of floats would depend on the
    number of cores; and freed memory is kept, because to give it back and take it anew is a tenth of a step
    (glibc alone can be told)."""
    import ctypes
    import sys

    import torch

    torch.set_num_threads(1)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**30)
