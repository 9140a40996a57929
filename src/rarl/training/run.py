"""One run from its configuration: its checks, the SFT baseline, the stages in order (section 3), and the
evaluation of every arm. A stage starts from the model of the stage before, or from that of SFT; that is the
reference of its KL too, unless it names the base. What is complete is kept: an interrupted run goes on from
its last complete checkpoint, and a finished arm is not trained or evaluated again. How one arm is trained is
in arms.py."""

import gc
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console

from rarl.data.collection import Collection, Row, load_collection
from rarl.data.columns import read_columns
from rarl.data.groups import Group, disjoint_groups, draw_groups, training_groups
from rarl.data.sources.digits import DIGITS_SPLITS, prepare_digits
from rarl.disk import written_to
from rarl.errors import ConfigError, DataError, ModelError
from rarl.evaluation.choosing import choose
from rarl.evaluation.evaluate import ask, evaluate
from rarl.evaluation.results import open_metrics, write_metrics, write_predictions
from rarl.files import counted, locked, write_text
from rarl.method.replies import continuation, reference_reply
from rarl.method.rewards import TERMS
from rarl.method.tasks import Task, steps_above
from rarl.models.limits import check_images, prompt_lengths
from rarl.models.loading import check_model, load_model, load_processor
from rarl.models.processor import reply_opening
from rarl.models.whole import whole_models
from rarl.scoring.scoring import read_scoring, write_scoring
from rarl.training.arms import train_sft, train_stage
from rarl.training.callbacks import validation_groups
from rarl.training.config import (
    RunConfig,
    check_trainer_fields,
    completion_length,
    lengths_of,
    reply_length,
    trained_arms,
)
from rarl.training.engines.vllm import close_vllm
from rarl.training.keeping.checkpoints import check_output, check_still_there, is_begun, is_finished
from rarl.training.keeping.same_data import keep_digests
from rarl.training.sections import Evaluation, Stage, Validation

# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────


def train_and_evaluate(config: RunConfig, *, resume: bool, console: Console) -> dict[str, Any]:
    """Trains and evaluates the arms of a run that are not finished.

    Under torchrun or `accelerate launch` all processes train and evaluate; only the first writes, into the
    folder and to the console. All of them must see that folder.

    Args:
        config: the whole run.
        resume: whether to continue a run in `config.output`. If not, that folder must hold none.
        console: where the progress goes.

    Returns:
        The contents of `metrics.json`: every arm, and the base.

    Raises:
        ConfigError, DataError, ModelError: for whatever can't work, before anything runs; also if another
            command is training in the folder.
        DiskError: if the disk is full. What was complete stays, and the run can be continued.
        Stopped: if a signal asked for it (`rarl.signals`). The run can be continued.
    """
    with written_to(config.output):
        return _train_and_evaluate(config, resume, console)


def _train_and_evaluate(config: RunConfig, resume: bool, console: Console) -> dict[str, Any]:
    # Every process does this: it makes TRL's configurations, which join the processes the way training needs.
    check_trainer_fields(config)
    state = PartialState()
    first = state.is_main_process
    console.quiet = console.quiet or not first
    with ExitStack() as work:
        with state.main_process_first():  # the others then find the run that the first has begun
            collection = check_run(config, resume=resume or not first)
            if first:
                work.enter_context(locked(config.output, "training"))
            begin_run(config, resume=resume or not first, collection=collection)
        if first:
            _forget_untrained(config)
        with whole_models():
            try_replies(config, collection)
        _free()
        train_arms(config, collection, console)
        if first:
            # Each arm has removed its own, unless the run was killed just after it finished the arm.
            shutil.rmtree(config.output / "checkpoints", ignore_errors=True)
        with whole_models():
            evaluate_arm(config, collection, "base", config.model, console)
            for arm in trained_arms(config):
                evaluate_arm(config, collection, arm, config.output / arm, console)
            check_still_there(config.output)
        state.wait_for_everyone()
    return _open_metrics(config)


def train_arms(config: RunConfig, collection: Collection, console: Console) -> None:
    """Trains the arms that are not finished. SFT sees the groups of all stages, in order, once each."""
    rows, begun = collection.split("train"), is_begun(config.output)
    groups = [stage_groups(config, stage, rows) for stage in config.stages]
    held_out = validation_groups(config, collection)
    if config.sft is not None and not is_finished(config.output / config.sft.name):
        everything = [group for drawn in groups for group in drawn]
        train_sft(config, everything, config.output / config.sft.name, console, held_out)
        _free()
        if begun:
            check_still_there(config.output)
    start: str | Path = config.model
    for stage, drawn in zip(config.stages, groups, strict=True):
        folder = config.output / stage.name
        if stage.start == "sft":
            assert config.sft is not None  # the configuration was checked
            start = config.output / config.sft.name
        if not is_finished(folder):
            train_stage(config, stage, start, drawn, folder, console, held_out)
            _free()
            if begun:
                check_still_there(config.output)
        start = folder
    close_vllm()


def _free() -> None:
    """A trainer and its models form a cycle, which must go before the next are loaded; and so must the memory
    of a GPU that torch keeps, because a vLLM beside it asks for its own."""
    gc.collect()
    torch.cuda.empty_cache()


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


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────


def evaluate_arm(
    config: RunConfig, collection: Collection, arm: str, model: str | Path, console: Console
) -> None:
    """Chooses how a trained arm scores, and evaluates it, unless that is done: its folder has `scoring.json`,
    and all metrics that the configuration asks for are there."""
    settings = config.evaluation
    wanted = {"mae" if count == 1 else f"tau{count}" for count in settings.images}
    if settings.position_lists:
        wanted |= {f"agreement{count}" for count in settings.images if count > 1}
    is_evaluated = wanted <= _open_metrics(config)["arms"].get(arm, {}).keys()
    scoring = None if arm == "base" else read_scoring(Path(model))
    # What the first one has found, who may be ahead of the others.
    is_evaluated, is_chosen = broadcast_object_list([is_evaluated, arm == "base" or scoring is not None])
    if is_evaluated and is_chosen:
        return
    loaded = load_model(model, attention=config.attention)
    processor = load_processor(model, config.pixels)
    if not is_chosen:
        with counted(console, f"choosing how {arm} scores") as progress:
            scoring = choose(
                loaded,
                processor,
                collection,
                scoring_split(config, collection),
                lengths=lengths_of(config, arm),
                seed=config.seed,
                batch_size=settings.batch_size,
                max_new_tokens=reply_length(config),
                progress=progress,
            )
        if PartialState().is_main_process:
            write_scoring(Path(model), scoring)
    if is_evaluated:
        return
    with counted(console, f"evaluating {arm}") as progress:
        evaluate(
            loaded,
            processor,
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
            scoring=scoring,
            progress=progress,
        )


def scoring_split(config: RunConfig, collection: Collection) -> str | None:
    """The split on which it is chosen how an arm scores: that of the validation in training, or the one that
    is named so. None if there is none beside the one that is reported."""
    split = config.validation.split if config.validation else Validation().split
    return split if split in collection.splits and split != config.evaluation.split else None


def _open_metrics(config: RunConfig) -> dict[str, Any]:
    return open_metrics(config.output, config.task.name, config.evaluation.split, config.seed)


def _forget_untrained(config: RunConfig) -> None:
    """Drops the results of arms that will be trained (again): they belong to models that are gone."""
    for arm in trained_arms(config):
        if not is_finished(config.output / arm):
            forget_results(config, arm)


def forget_results(config: RunConfig, arm: str) -> None:
    """Drops the results of an arm from metrics.json and predictions.jsonl, if there are any."""
    metrics = _open_metrics(config)
    if arm in metrics["arms"]:
        write_predictions(config.output, arm, [])
        del metrics["arms"][arm]
        write_metrics(config.output, metrics)


# ── checks before anything runs ─────────────────────────────────────────────────────────────────────────


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
    processor = load_processor(
        config.model, config.pixels
    )  # only this shows whether a hub name can be reached
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


def stage_groups(config: RunConfig, stage: Stage, rows: Sequence[Row]) -> list[Group]:
    """The prompts that a stage generates responses for, in order. The same seed and stage name give the same
    prompts."""
    at_once, prompts = config.trainer_for(stage)["prompts_per_step"], config.prompts_of(stage)
    seed = f"{config.seed}:{stage.name}"
    return training_groups(rows, stage.images, at_once, -(-prompts // at_once), seed)[:prompts]


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
    _open_metrics(config)


def _check_lists(config: RunConfig, collection: Collection) -> None:
    """Refuses another number of lists than the folder was evaluated on."""
    asked, rows = config.evaluation.lists, collection.split(config.evaluation.split)
    for count, drawn in _open_metrics(config)["lists"].items():
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
