"""One run from its configuration: the SFT baseline, then the stages in order, each starting from the one before with
its own start as the KL's reference, then every arm evaluated. Whatever is whole is kept: a run that was interrupted
goes on from its last complete checkpoint, and an arm that is finished is not trained or evaluated again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rarl.data.collection import Collection, Row, load_collection
from rarl.data.digits import prepare_digits
from rarl.data.groups import Group, training_groups
from rarl.errors import ConfigError
from rarl.evaluation import evaluate
from rarl.models.loading import check_model, load_model, load_processor
from rarl.results import open_metrics, write_metrics
from rarl.training.arms import train_sft, train_stage
from rarl.training.checkpoints import check_output, is_finished, write_text
from rarl.training.config import RunConfig
from rarl.training.sections import Stage
from rarl.training.trainer_fields import check_trainer_fields


def run(config: RunConfig, *, resume: bool, console: Console) -> dict[str, Any]:
    """Trains and evaluates what is not yet.

    Args:
        config: the whole run.
        resume: whether a run in `config.output` is to be continued; otherwise that folder must hold none.
        console: where the progress goes.

    Returns:
        What `metrics.json` holds: every arm, the base among them.

    Raises:
        ConfigError, DataError, ModelError: for what can't work, before anything runs.
    """
    from accelerate import PartialState

    state = PartialState()
    with state.main_process_first():  # the others find the run that the first has begun
        collection = prepare(config, resume=resume or not state.is_main_process)
    folders = {"base": config.model} | {name: config.output / name for name in arms(config)}
    untrained = [name for name in arms(config) if not is_finished(config.output / name)]
    if state.is_main_process:
        _forget(config, untrained)
    train(config, collection, console)
    if state.is_main_process:
        for name, folder in folders.items():
            _evaluate(config, collection, name, folder, console)
    state.wait_for_everyone()
    return _open_metrics(config)


def prepare(config: RunConfig, *, resume: bool) -> Collection:
    """Checks everything that can be checked before anything runs, and writes the run's `config.yaml`.

    Returns:
        The collection to train and evaluate on; the digits are built where `config.data` is not given.
    """
    check_trainer_fields(config)
    check_model(config.model)
    check_output(config.output, config.to_dict(), resume=resume)
    collection = load_collection(config.data) if config.data else prepare_digits(config.output / "data")
    if collection.task != config.task:
        raise ConfigError(
            f"task: the run's task '{config.task.name}' is not that of {collection.root}/task.yaml "
            f"('{collection.task.name}', {collection.task.value_range}, delta {collection.task.delta:g})"
        )
    for split in ("train", config.evaluation.split):
        collection.split(split)
    saved = config.output / "config.yaml"
    if not saved.is_file():
        write_text(saved, config.to_yaml())
    return collection


def arms(config: RunConfig) -> list[str]:
    """The names of the arms that are trained, which are their folders: SFT, then the stages."""
    baseline = [] if config.sft is None else [config.sft.name]
    return baseline + [stage.name for stage in config.stages]


def train(config: RunConfig, collection: Collection, console: Console) -> None:
    """Trains the arms that are not finished. SFT sees the groups of all stages, in their order and once each."""
    rows = collection.split("train")
    groups = [stage_groups(config, stage, rows) for stage in config.stages]
    if config.sft is not None and not is_finished(config.output / config.sft.name):
        everything = [group for drawn in groups for group in drawn]
        train_sft(config, everything, config.output / config.sft.name, console)
    start: str | Path = config.model
    for stage, drawn in zip(config.stages, groups, strict=True):
        folder = config.output / stage.name
        if not is_finished(folder):
            train_stage(config, stage, start, drawn, folder, console)
        start = folder


def stage_groups(config: RunConfig, stage: Stage, rows: Sequence[Row]) -> list[Group]:
    """The prompts of a stage, step after step; the same for the same seed and stage name."""
    prompts = config.trainer_for(stage)["prompts_per_step"]
    return training_groups(rows, stage.images, prompts, stage.max_steps, f"{config.seed}:{stage.name}")


def _evaluate(config: RunConfig, collection: Collection, arm: str, model: str | Path, console: Console) -> None:
    """Evaluates one arm, unless every metric that is asked for is there."""
    wanted = {"mae" if count == 1 else f"tau{count}" for count in config.evaluation.images}
    if wanted <= _open_metrics(config)["arms"].get(arm, {}).keys():
        return
    settings = config.evaluation
    tokens = settings.max_new_tokens or config.trainer_for(config.stages[-1])["max_completion_length"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
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
            max_new_tokens=tokens,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _open_metrics(config: RunConfig) -> dict[str, Any]:
    return open_metrics(config.output, config.task.name, config.evaluation.split, config.seed)


def _forget(config: RunConfig, untrained: list[str]) -> None:
    """Drops the results of arms that are about to be trained (again): they are of models that are gone."""
    metrics = _open_metrics(config)
    stale = [name for name in untrained if name in metrics["arms"]]
    if stale:
        for name in stale:
            del metrics["arms"][name]
        write_metrics(config.output, metrics)
