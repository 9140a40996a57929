"""A run before it starts: what can't work is said now, and not hours later. Model, collection, folder and
configuration are checked against each other; then the run begins, which makes the folder its own; and the
model is asked for one batch of replies. What a configuration alone can get wrong is found in config.py; how
the run goes on is in run.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarl.data.collection import Collection, load_collection
from rarl.data.columns import read_columns
from rarl.data.groups import disjoint_groups, draw_groups
from rarl.data.sources.digits import DIGITS_SPLITS, prepare_digits
from rarl.errors import ConfigError, DataError, ModelError
from rarl.evaluation.evaluate import ask
from rarl.evaluation.results import open_metrics
from rarl.files import write_text
from rarl.method.replies import continuation, reference_reply
from rarl.method.rewards import TERMS
from rarl.method.tasks import Task, steps_above
from rarl.models.limits import check_images, prompt_lengths
from rarl.models.loading import check_model, load_model, load_processor
from rarl.models.processor import reply_opening
from rarl.training.config import RunConfig, completion_length, stage_groups, trained_arms
from rarl.training.keeping.checkpoints import check_output, is_finished
from rarl.training.keeping.same_data import keep_digests
from rarl.training.sections import Evaluation, Validation


def check_and_begin(config: RunConfig, *, resume: bool) -> Collection:
    """Checks a run with `check_run`, and begins it."""
    collection = check_run(config, resume=resume)
    begin_run(config, resume=resume, collection=collection)
    return collection


def check_run(config: RunConfig, *, resume: bool) -> Collection:
    """Checks everything that can be checked before anything runs, except the trainers' keys.

    Returns:
        The collection to train and evaluate on. The digits are built if `config.data` is not given.

    Raises:
        ConfigError, DataError, ModelError: for whatever can't work. The run's folder then stays as it was.
    """
    check_model(config.model)
    # Only this shows whether a hub name can be reached.
    processor = load_processor(config.model, config.pixels)
    opening = reply_opening(processor)
    _check_folder(config, resume=resume)
    if config.data is not None:
        collection = load_collection(config.data)
        check_collection_fits(config, collection)
    else:
        for key, settings in _measured_splits(config):
            if settings.split not in DIGITS_SPLITS:
                raise ConfigError(
                    f"{key}.split: the digits have no split '{settings.split}', only "
                    f"{', '.join(DIGITS_SPLITS)}"
                )
        collection = prepare_digits(config.output / "data")
    _check_reference_lengths(config, collection, processor.tokenizer, opening)
    splits = {"train", *(settings.split for _, settings in _measured_splits(config))}
    check_images(processor, [row.path for name in sorted(splits) for row in collection.split(name)])
    split = config.evaluation.split
    open_metrics(config.output, config.task.name, split, config.seed, collection.digest(split))
    _check_lists(config, collection)
    return collection


def begin_run(config: RunConfig, *, resume: bool, collection: Collection | None = None) -> None:
    """Writes the run's `config.yaml`, which makes the folder the run's, and what tells its collection.

    Raises:
        ConfigError: if the folder holds a run that must not be continued, or one with another configuration.
    """
    _check_folder(config, resume=resume)
    if collection is not None and config.data is not None:
        keep_digests(config.output, collection)
    write_text(config.output / "config.yaml", config.to_yaml())


def try_replies(config: RunConfig, collection: Collection) -> None:
    """Asks the run's model for the first token of the replies to one batch of the evaluation, that of its
    longest prompts. So what can't work there, or doesn't fit into memory, is known now and not after the
    training. Every process asks for itself. Where every arm is trained, nothing is asked.

    Raises:
        ModelError: if the model fails.
    """
    settings = config.evaluation
    if all(is_finished(config.output / arm) for arm in trained_arms(config)):
        return
    model = load_model(config.model, attention=config.attention)
    processor = load_processor(config.model, config.pixels)
    rows = collection.split(settings.split)
    drawn = draw_groups(rows, max(settings.images), settings.lists, config.seed)
    lengths = prompt_lengths(processor, drawn)
    longest = sorted(range(len(drawn)), key=lambda place: -lengths[place])
    groups = [drawn[place] for place in longest[: settings.batch_size]]
    try:
        next(ask(model, processor, groups, config.task, len(groups), 1))
    except (ModelError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{config.model} can't reply to evaluation.batch_size ({len(groups)}) prompts of "
            f"{len(groups[0].rows)} images at once, and so nothing was trained: {reason}; if it is memory, "
            "lower evaluation.batch_size or `pixels`"
        ) from error


def open_run_metrics(config: RunConfig) -> dict[str, Any]:
    """The `metrics.json` of a run, or one without arms; errors as for `open_metrics`."""
    return open_metrics(config.output, config.task.name, config.evaluation.split, config.seed)


def _check_folder(config: RunConfig, *, resume: bool) -> None:
    check_output(config.output, config.to_dict(), resume=resume)
    if not (config.output / "config.yaml").is_file():
        # If they were taken for the run's own, they would be in its table although it never trained them.
        parts = [*trained_arms(config), "checkpoints", "metrics.json", "predictions.jsonl"]
        if strays := [part for part in parts if (config.output / part).exists()]:
            raise ConfigError(
                f"output: {config.output} holds {', '.join(strays)}, but no config.yaml that says of which "
                "run: remove them, or choose another `output`"
            )
        return
    open_run_metrics(config)


def _check_lists(config: RunConfig, collection: Collection) -> None:
    """Refuses another number of lists than the folder was evaluated on."""
    asked, rows = config.evaluation.lists, collection.split(config.evaluation.split)
    for count, drawn in open_run_metrics(config)["lists"].items():
        most = len(disjoint_groups(rows, int(count), asked, config.seed))
        if drawn["n"] not in (asked, most):
            wanted = f"{most}, the most without an image in two" if most < asked else str(asked)
            raise ConfigError(
                f"evaluation.lists: {config.output} has been evaluated on {drawn['n']} lists, not {wanted}: "
                "give as many, or evaluate its models into another folder"
            )


def _measured_splits(config: RunConfig) -> list[tuple[str, Evaluation | Validation]]:
    """The sections that name a split for measuring, each with its key."""
    return [
        ("evaluation", config.evaluation),
        *([("validation", config.validation)] if config.validation else []),
    ]


def check_task(config: RunConfig, collection: Collection) -> None:
    """Refuses a collection of another task than the run's.

    Raises:
        ConfigError: with what differs.
    """
    if collection.task == config.task:
        return
    ours, theirs = config.task.to_dict(), collection.task.to_dict()
    wrong = [f"{key} {ours[key]!r}, there {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
    file = Path(collection.root) / "task.yaml"
    raise ConfigError(
        f"task: the run's is not that of {file}: {'; '.join(wrong)}; `task: {file}` takes the collection's"
    )


def check_collection_fits(config: RunConfig, collection: Collection) -> None:
    """Refuses a collection that doesn't fit the run: one of another task, without a split that the run names,
    with too few images for its groups, or with only orders where the run needs values.

    Raises:
        ConfigError, DataError: what doesn't fit, by the configuration's key.
    """
    for key, settings in _measured_splits(config):
        if settings.split not in collection.splits:
            raise ConfigError(
                f"{key}.split: {collection.root} has no split '{settings.split}', only "
                f"{', '.join(collection.splits)}"
            )
    check_task(config, collection)
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
    """Refuses a configuration that needs values if only orders are known."""
    if not collection.knows_values("train"):
        where = f"{collection.root / 'train'} knows orders alone"
        if config.sft is not None:
            raise ConfigError(f"sft: {where}, and SFT imitates values: remove this section")
        for number, stage in enumerate(config.stages):
            for term, weight in zip(TERMS, stage.weights.in_order, strict=True):
                if term.needs_values and weight > 0:
                    raise ConfigError(
                        f"stages[{number}].weights.{term.name}: must be 0, not {weight:g}: {where}"
                    )
            if 1 in stage.images:
                raise ConfigError(
                    f"stages[{number}].images: must not have 1: {where}, and one image has none"
                )
    for key, settings in _measured_splits(config):
        if not collection.knows_values(settings.split) and 1 in settings.images:
            raise ConfigError(
                f"{key}.images: must not have 1: {collection.root / settings.split} knows orders alone, and "
                "one image has none"
            )


def _check_reference_lengths(config: RunConfig, collection: Collection, tokenizer: Any, opening: str) -> None:
    """Refuses a stage whose longest reference reply (RMO) doesn't fit into `max_completion_length`. The
    trainer would refuse it, too, but only at the first such group."""
    task, rows = config.task, collection.split("train")
    for number, stage in enumerate(config.stages):
        mutation = stage.mutation
        if mutation is None or mutation.probability == 0 or mutation.reference == "best":
            continue
        groups = stage_groups(config, stage, rows)
        if collection.knows_values("train"):
            known = [group.values for group in groups]
        else:  # the values are the response's own, and can be any of the task's grid
            value = _longest_value(task, tokenizer)
            known = [[value] * count for count in sorted({len(group.rows) for group in groups})]
        reasoned = mutation.reasoning != "empty"
        replies = [
            continuation(reference_reply(values, task.step, reasoned=reasoned), opening) for values in known
        ]
        longest = max(_token_counts(replies, tokenizer)) + 1
        given = completion_length(config, stage)
        if longest > given:
            raise ConfigError(
                f"stages[{number}] with trainer.max_completion_length {given}: the longest reference reply, "
                f"which mutation puts in place of a response, has {longest} tokens; raise it to at least that"
            )


def _longest_value(task: Task, tokenizer: Any) -> float:
    """The value of the task's grid with the most tokens. Of a larger grid about a thousand values are
    tried."""
    steps = int(steps_above(task.high, task.low, task.step))
    places = {*range(0, steps + 1, steps // 1000 + 1), steps}
    grid = [min(task.low + task.step * place, task.high) for place in sorted(places)]
    lengths = _token_counts([reference_reply([value], task.step) for value in grid], tokenizer)
    return grid[lengths.index(max(lengths))]


def _token_counts(texts: Sequence[str], tokenizer: Any) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
