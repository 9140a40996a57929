"""One run from its configuration: the SFT baseline, the stages in order (section 3), and the evaluation of
every arm. A stage starts from the model of the stage before, or from that of SFT; that is the reference of
its KL too, unless it names the base. What is complete is kept: an interrupted run goes on from its last
complete checkpoint, and a finished arm is not trained or evaluated again. What is refused before it starts
is in checking.py; how one arm is trained is in arms.py."""

import gc
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console

from rarl.data.collection import Collection
from rarl.disk import written_to
from rarl.evaluation.choosing.choose import choose
from rarl.evaluation.evaluate import evaluate
from rarl.evaluation.results import write_metrics, write_predictions
from rarl.files import locked
from rarl.models.loading import load_model, load_processor
from rarl.models.whole import whole_models
from rarl.progress import counted
from rarl.scoring.scoring import read_scoring, write_scoring
from rarl.training.arms import train_sft, train_stage
from rarl.training.callbacks import validation_groups
from rarl.training.checking import begin_run, check_run, open_run_metrics, try_replies
from rarl.training.config import (
    RunConfig,
    check_trainer_fields,
    lengths_of,
    reply_length,
    stage_groups,
    trained_arms,
)
from rarl.training.engines.vllm import close_vllm
from rarl.training.keeping.checkpoints import check_still_there, is_begun, is_finished
from rarl.training.sections import Validation

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
        # The base is loaded here, and once more to be evaluated: kept until then, it would take the memory of
        # the training, and evaluated now, it would hold up by its thousands of prompts whatever fails there.
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
    return open_run_metrics(config)


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
    is_evaluated = wanted <= open_run_metrics(config)["arms"].get(arm, {}).keys()
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


def _forget_untrained(config: RunConfig) -> None:
    """Drops the results of arms that will be trained (again): they belong to models that are gone."""
    for arm in trained_arms(config):
        if not is_finished(config.output / arm):
            forget_results(config, arm)


def forget_results(config: RunConfig, arm: str) -> None:
    """Drops the results of an arm from metrics.json and predictions.jsonl, if there are any."""
    metrics = open_run_metrics(config)
    if arm in metrics["arms"]:
        write_predictions(config.output, arm, [])
        del metrics["arms"][arm]
        write_metrics(config.output, metrics)
