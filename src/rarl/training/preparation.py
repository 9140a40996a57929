"""What is checked before a run begins, and the beginning itself: model, collection, groups and the run's
folder. A run that can't be finished is refused here, with its folder left as it was; nothing is trained."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarl.data.collection import Collection, Row, load_collection
from rarl.data.columns import read_columns
from rarl.data.digits import SPLITS, prepare_digits
from rarl.data.groups import Group, draw_groups, training_groups
from rarl.errors import ConfigError, DataError
from rarl.files import write_text
from rarl.models.loading import check_model, load_processor
from rarl.replies import reference_reply
from rarl.results import open_metrics
from rarl.tasks import Task
from rarl.training.checkpoints import check_output
from rarl.training.config import RunConfig
from rarl.training.sections import Evaluation, Stage, Validation
from rarl.training.trainer_keys import GRPOKeys


def prepare(config: RunConfig, *, resume: bool) -> Collection:
    """Checks a run, as `check` does, and begins it."""
    collection = check(config, resume=resume)
    begin(config, resume=resume)
    return collection


def check(config: RunConfig, *, resume: bool) -> Collection:
    """Checks what can be checked before anything runs, but for the trainers' keys.

    Returns:
        The collection to train and evaluate on; the digits are built where `config.data` is not given.

    Raises:
        ConfigError, DataError, ModelError: for what can't work. The run's folder is as it was then.
    """
    check_model(config.model)
    processor = load_processor(config.model)  # a hub name that can't be reached is known only now
    _check_folder(config, resume=resume)
    if config.data is not None:
        collection = load_collection(config.data)
        check_collection(config, collection)
    else:
        for key, settings in _held_out(config):
            if settings.split not in SPLITS:
                raise ConfigError(
                    f"{key}.split: the digits have no split '{settings.split}', only {', '.join(SPLITS)}"
                )
        collection = prepare_digits(config.output / "data")
    _check_lengths(config, collection, processor.tokenizer)
    split = config.evaluation.split
    open_metrics(config.output, config.task.name, split, config.seed, collection.digest(split))
    return collection


def begin(config: RunConfig, *, resume: bool) -> None:
    """Writes the run's `config.yaml`, with which the folder is the run's.

    Raises:
        ConfigError: if the folder holds a run that is not to be continued, or not of this configuration.
    """
    _check_folder(config, resume=resume)
    write_text(config.output / "config.yaml", config.to_yaml())


def stage_groups(config: RunConfig, stage: Stage, rows: Sequence[Row]) -> list[Group]:
    """The prompts of a stage, step after step; the same for the same seed and stage name."""
    prompts = config.trainer_for(stage)["prompts_per_step"]
    return training_groups(
        rows, stage.images, prompts, stage.max_steps, f"{config.seed}:{stage.name}", stage.gaps
    )


def arms(config: RunConfig) -> list[str]:
    """The names of the arms that are trained, which are their folders: SFT, then the stages."""
    baseline = [] if config.sft is None else [config.sft.name]
    return baseline + [stage.name for stage in config.stages]


def completion_length(config: RunConfig, stage: Stage) -> int:
    """How many tokens a response of the stage may have. TRL's own default is that of `GRPOKeys`."""
    return GRPOKeys(**config.trainer_for(stage)).max_completion_length


def reply_length(config: RunConfig) -> int:
    """Where a reply is cut in evaluation, in tokens."""
    return config.evaluation.max_new_tokens or completion_length(config, config.stages[-1])


def _check_folder(config: RunConfig, *, resume: bool) -> None:
    check_output(config.output, config.to_dict(), resume=resume)
    if not (config.output / "config.yaml").is_file():
        # Taken for the run's own, they would stand in its table without having been trained by it.
        parts = [*arms(config), "checkpoints", "metrics.json", "predictions.jsonl"]
        if strays := [part for part in parts if (config.output / part).exists()]:
            raise ConfigError(
                f"output: {config.output} holds {', '.join(strays)}, but no config.yaml that says of which "
                "run: remove them, or choose another `output`"
            )
        return
    metrics = open_metrics(config.output, config.task.name, config.evaluation.split, config.seed)
    for drawn in metrics["lists"].values():
        if drawn["n"] != config.evaluation.lists:
            raise ConfigError(
                f"evaluation.lists: {config.output} has been evaluated on {drawn['n']} lists, not "
                f"{config.evaluation.lists}: give as many, or evaluate its models into another folder"
            )


def _held_out(config: RunConfig) -> list[tuple[str, Evaluation | Validation]]:
    """The sections that name a split which is not trained on, by their keys."""
    return [
        ("evaluation", config.evaluation),
        *([("validation", config.validation)] if config.validation else []),
    ]


def check_collection(config: RunConfig, collection: Collection) -> None:
    """Refuses a collection of another task, and one that has too few images for the run's groups."""
    for key, settings in _held_out(config):
        if settings.split not in collection.splits:
            raise ConfigError(
                f"{key}.split: {collection.root} has no split '{settings.split}', only "
                f"{', '.join(collection.splits)}"
            )
    if collection.task != config.task:
        ours, theirs = config.task.to_dict(), collection.task.to_dict()
        wrong = [f"{key} {ours[key]!r}, there {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
        raise ConfigError(
            f"task: the run's is not that of {Path(collection.root) / 'task.yaml'}: {'; '.join(wrong)}"
        )
    _check_orders(config, collection)
    if config.evaluation.by:
        read_columns(collection, config.evaluation.split, config.evaluation.by)
    train, held_out = collection.split("train"), collection.split(config.evaluation.split)
    wanted = [(f"stages[{i}].images", train, stage.images) for i, stage in enumerate(config.stages)]
    wanted.append(("evaluation.images", held_out, config.evaluation.images))
    if config.validation is not None:
        asked = collection.split(config.validation.split)
        wanted.append(("validation.images", asked, config.validation.images))
    for key, rows, counts in wanted:
        for count in sorted(set(counts)):
            try:
                draw_groups(rows, count, 1, config.seed)
            except DataError as error:
                raise ConfigError(f"{key}: {error}") from error


def _check_orders(config: RunConfig, collection: Collection) -> None:
    """Refuses what needs values where only orders are known."""
    if not collection.knows_values("train"):
        where = f"{collection.root / 'train'} knows orders alone"
        if config.sft is not None:
            raise ConfigError(f"sft: {where}, and SFT imitates values: remove this section")
        for number, stage in enumerate(config.stages):
            if (weight := stage.weights.regression) > 0:
                raise ConfigError(f"stages[{number}].weights.regression: must be 0, not {weight:g}: {where}")
            if stage.gap is not None:
                raise ConfigError(f"stages[{number}].gap: is a difference of values, and {where}: remove it")
    for key, settings in _held_out(config):
        if not collection.knows_values(settings.split) and 1 in settings.images:
            raise ConfigError(
                f"{key}.images: must not have 1: {collection.root / settings.split} knows orders alone, and "
                "one image has none"
            )


def _check_lengths(config: RunConfig, collection: Collection, tokenizer: Any) -> None:
    """Refuses a stage whose responses may not be long enough for the references that replace them (RMO): the
    trainer would, at the first such group."""
    task, rows = config.task, collection.split("train")
    for number, stage in enumerate(config.stages):
        mutation = stage.mutation
        if mutation is None or mutation.probability == 0 or mutation.reference == "best":
            continue
        groups = stage_groups(config, stage, rows)
        if collection.knows_values("train"):
            known = [group.values for group in groups]
        else:  # the values are the response's own, and may be any of the grid
            value = _longest_value(task, tokenizer)
            known = [[value] * count for count in sorted({len(group.rows) for group in groups})]
        reasoned = mutation.reasoning != "empty"
        replies = [reference_reply(values, task.step, reasoned=reasoned) for values in known]
        longest = max(_lengths(replies, tokenizer)) + 1
        given = completion_length(config, stage)
        if longest > given:
            raise ConfigError(
                f"stages[{number}] with trainer.max_completion_length {given}: the longest reference reply, "
                f"which mutation puts in place of a response, has {longest} tokens; raise it to at least that"
            )


def _longest_value(task: Task, tokenizer: Any) -> float:
    """The value of the task's grid with the most tokens; of a grid of thousands, among a thousand of it."""
    steps = math.floor((task.high - task.low) / task.step + 0.5)
    places = {*range(0, steps + 1, steps // 1000 + 1), steps}
    grid = [min(task.low + task.step * place, task.high) for place in sorted(places)]
    lengths = _lengths([reference_reply([value], task.step) for value in grid], tokenizer)
    return grid[lengths.index(max(lengths))]


def _lengths(texts: Sequence[str], tokenizer: Any) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
