"""One run from its configuration: the SFT baseline, then the stages in order, each starting from the one
before with its own start as the KL's reference, then every arm evaluated. Whatever is whole is kept: a run
that was interrupted goes on from its last complete checkpoint, and an arm that is finished is not trained or
evaluated again."""

import gc
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from rarl.data.collection import Collection
from rarl.evaluation import evaluate
from rarl.files import at_work
from rarl.models.loading import load_model, load_processor
from rarl.progress_bar import progress_bar
from rarl.results import open_metrics, write_metrics, write_predictions
from rarl.training.arms import train_sft, train_stage
from rarl.training.checkpoints import is_finished
from rarl.training.config import RunConfig
from rarl.training.preparation import arms, prepare, reply_length, stage_groups
from rarl.training.trainer_fields import check_trainer_fields
from rarl.training.validation import validation_groups


def run(config: RunConfig, *, resume: bool, console: Console) -> dict[str, Any]:
    """Trains and evaluates what is not yet.

    Under torchrun or `accelerate launch` all processes train; the first alone evaluates and writes on the
    console.

    Args:
        config: the whole run.
        resume: whether a run in `config.output` is to be continued; otherwise that folder must hold none.
        console: where the progress goes.

    Returns:
        What `metrics.json` holds: every arm, the base among them. The other processes don't wait for it.

    Raises:
        ConfigError, DataError, ModelError: for what can't work, before anything runs; a folder in which
            another command trains, too.
    """
    from accelerate import PartialState

    # In every process: it makes TRL's configurations, and with them the processes join as they will to train.
    check_trainer_fields(config)
    state = PartialState()
    first = state.is_main_process
    console.quiet = console.quiet or not first
    with ExitStack() as work:
        with state.main_process_first():  # the others find the run that the first has begun
            collection = prepare(config, resume=resume or not first)
            if first:
                work.enter_context(at_work(config.output, "training"))
        if first:
            _forget_untrained(config)
        train(config, collection, console)
        if first:
            # An arm's are gone already, unless the run was killed just when it had finished the arm.
            shutil.rmtree(config.output / "checkpoints", ignore_errors=True)
            evaluate_arm(config, collection, "base", config.model, console)
            for arm in arms(config):
                evaluate_arm(config, collection, arm, config.output / arm, console)
    return _open_metrics(config)


def train(config: RunConfig, collection: Collection, console: Console) -> None:
    """Trains the arms that are not finished. SFT sees the groups of all stages, in order and once each."""
    rows = collection.split("train")
    groups = [stage_groups(config, stage, rows) for stage in config.stages]
    held_out = validation_groups(config, collection)
    if config.sft is not None and not is_finished(config.output / config.sft.name):
        everything = [group for drawn in groups for group in drawn]
        train_sft(config, everything, config.output / config.sft.name, console, held_out)
        gc.collect()  # a trainer and its models refer to each other, and would stay while the next are loaded
    start: str | Path = config.model
    for stage, drawn in zip(config.stages, groups, strict=True):
        folder = config.output / stage.name
        if not is_finished(folder):
            train_stage(config, stage, start, drawn, folder, console, held_out)
            gc.collect()
        start = folder


def evaluate_arm(
    config: RunConfig, collection: Collection, arm: str, model: str | Path, console: Console
) -> None:
    """Evaluates one arm, unless every metric that is asked for is there."""
    settings = config.evaluation
    wanted = {"mae" if count == 1 else f"tau{count}" for count in settings.images}
    if settings.position_lists:
        wanted |= {f"agreement{count}" for count in settings.images if count > 1}
    if wanted <= _open_metrics(config)["arms"].get(arm, {}).keys():
        return
    with progress_bar(console) as progress:
        bar = progress.add_task(f"evaluating {arm}", total=None)
        evaluate(
            load_model(model),
            load_processor(model),
            collection,
            config.output,
            arm=arm,
            images=settings.images,
            split=settings.split,
            lists=settings.lists,
            seed=config.seed,
            batch_size=settings.batch_size,
            max_new_tokens=reply_length(config),
            position_lists=settings.position_lists,
            by=settings.by,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _open_metrics(config: RunConfig) -> dict[str, Any]:
    return open_metrics(config.output, config.task.name, config.evaluation.split, config.seed)


def _forget_untrained(config: RunConfig) -> None:
    """Drops the results of arms that are about to be trained (again): they are of models that are gone."""
    for arm in arms(config):
        if not is_finished(config.output / arm):
            forget(config, arm)


def forget(config: RunConfig, arm: str) -> None:
    """Drops the results of an arm, if there are any."""
    metrics = _open_metrics(config)
    if arm in metrics["arms"]:
        write_predictions(config.output, arm, [])
        del metrics["arms"][arm]
        write_metrics(config.output, metrics)
