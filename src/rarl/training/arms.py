"""Trains one arm, a stage of GRPO (section 3) or the supervised baseline, from its last complete checkpoint
to a complete model folder. Which arms a run has, in which order, and how they are evaluated, is decided in
run.py."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from rarl.data.collection import TASK_FILE, task_text
from rarl.data.dataset import to_dataset
from rarl.data.groups import Group
from rarl.errors import ConfigError, ModelError
from rarl.files import finish, unfinished
from rarl.method.replies import continuation, reference_reply
from rarl.models.folders.checking import check_unchanged
from rarl.models.limits import longest_first
from rarl.models.loading import check_model, is_small, load_model, load_processor
from rarl.models.machine import memory_for
from rarl.models.processor import reply_opening, resizing_of
from rarl.models.whole import whole_models
from rarl.signals import AskedToStop, Stopped
from rarl.training.callbacks import (
    BEST_FOLDER,
    GROUPS_FILE,
    TRAINING_FILE,
    GroupLog,
    ProgressLines,
    ValidationCallback,
    kept_step,
    training_record,
)
from rarl.training.config import RunConfig, reply_length
from rarl.training.engines.weights import check_engine, check_saving, merge_adapter, save_weights
from rarl.training.keeping.checkpoints import is_finished, last_complete_checkpoint
from rarl.training.keeping.resuming import Resuming
from rarl.training.keeping.sealing import Sealing
from rarl.training.keeping.stopping import LogWindow, Stopping
from rarl.training.sections import Stage, Weights
from rarl.training.trackers import follow, leave, tracker_arguments
from rarl.training.trainer import RARLConfig, RARLTrainer
from rarl.training.trainer_keys import machine_defaults, process_count

TRAINING_ARGS = "training_args.bin"
"""A pickle of all arguments, which transformers writes beside weights; a model folder needs none."""

_TRAINING = "a training with these settings: `rarl plan CONFIG.yaml` says what to change"

# ── the two kinds of arms ─────────────────────────────────────────────────────────────────────────────────


@memory_for(_TRAINING)
def train_stage(
    config: RunConfig,
    stage: Stage,
    start: str | Path,
    groups: list[Group],
    folder: Path,
    console: Console,
    held_out: Sequence[Group] = (),
) -> None:
    """Trains one stage of GRPO from the model `start` into `folder`. The reference of the KL is `start` too,
    or with `reference: base` the run's model.

    Args:
        groups: the prompts, step after step.
        folder: the model folder to write; its name is the arm's.
        held_out: the prompts of the validation; empty if the run has none.

    Raises:
        ModelError: if the GPU's memory is too small.
    """
    common = _common_arguments(config, folder.name)
    args = RARLConfig(**(common | config.grpo_arguments(stage, processes=process_count())))
    checkpoints = _checkpoints(config, folder.name)
    own = stage.reference is None or str(config.model) == str(start)
    reference = None if own else check_model(_merged(config.model, checkpoints / "reference"))
    start = _merged(start, checkpoints / "start")
    model, processor = _load(start, config), load_processor(start, config.pixels)
    if not is_small(start):
        groups = longest_first(processor, groups, config.trainer_for(stage)["prompts_per_step"])
    lines = ProgressLines(folder.name, console)
    trainer = RARLTrainer(
        model,
        args=args,
        train_dataset=to_dataset(groups, config.task, resizing=resizing_of(processor)),
        processing_class=processor,
        callbacks=[lines],
        peft_config=_lora(config),
        reference=reference,
    )
    trainer.add_callback(GroupLog(trainer, checkpoints / GROUPS_FILE))
    _add_validation(trainer, config, stage.weights, held_out, reply_length(config))
    _fit(trainer, lines, start, folder, config)


@memory_for(_TRAINING)
def train_sft(
    config: RunConfig, groups: list[Group], folder: Path, console: Console, held_out: Sequence[Group] = ()
) -> None:
    """Trains the supervised baseline from the run's model, on each of `groups` once, into `folder`; errors
    as for `train_stage`."""
    assert config.sft is not None
    # Unless it is told not to, TRL 1.16 cuts at 1,024 tokens, which may be among those of the images.
    common = _common_arguments(config, folder.name) | {"max_length": None}
    args = SFTConfig(**(common | config.sft_arguments(processes=process_count())))
    model, processor = _load(config.model, config), load_processor(config.model, config.pixels)
    if not is_small(config.model):
        parts = args.gradient_accumulation_steps * process_count()
        groups = longest_first(processor, groups, args.per_device_train_batch_size * parts)
    rows = to_dataset(groups, config.task, resizing=resizing_of(processor))
    dataset = sft_dataset(rows, config.sft.reasoning, processor)
    lines = ProgressLines(folder.name, console)
    trainer = sft_trainer(model, processor, dataset, args, [lines], _lora(config))
    _add_validation(trainer, config, Weights(), held_out, reply_length(config))
    _fit(trainer, lines, config.model, folder, config)


# ── the data and the trainer of SFT ───────────────────────────────────────────────────────────────────────

SFTReasoning = Literal["template", "empty"]


@dataclass(frozen=True)
class WithReference:
    """A dataset transform: it takes the batch that `rows` makes and adds the column `completion`, the
    reference reply.

    Where the chat template begins the reply, prompt and completion are texts: such templates often rewrite
    the reasoning of a finished reply, or drop it. The completion is then what is left to write.

    Args:
        rows: the transform of `rarl.data.dataset.to_dataset`.
        reasoning: `template` spells out the values inside `<think>`; `empty` leaves only the answer.
        opening: what the chat template begins of a reply (`rarl.models.processor.reply_opening`).
        processor: of the model; needed where there is such an opening.
    """

    rows: Any
    reasoning: SFTReasoning
    opening: str = ""
    processor: Any = None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        batch = self.rows(batch)
        replies = [
            reference_reply(values, step, reasoned=self.reasoning == "template")
            for values, step in zip(batch["values"], batch["step"], strict=True)
        ]
        if self.opening:
            batch["prompt"] = [
                self.processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
                for prompt in batch["prompt"]
            ]
            end = self.processor.tokenizer.eos_token
            batch["completion"] = [continuation(reply, self.opening) + end for reply in replies]
            return batch
        batch["completion"] = [[{"role": "assistant", "content": reply}] for reply in replies]
        return batch


def sft_dataset(groups: Dataset, reasoning: SFTReasoning, processor: Any) -> Dataset:
    """Adds a `completion` column to the rows of `to_dataset`, as SFTTrainer takes them.

    Raises:
        ConfigError: if the rows have orders and no values.
        ModelError: if the processor's chat template begins replies in a way that can't be read.
    """
    if "values" not in groups.column_names:
        raise ConfigError("the dataset has no column 'values': SFT imitates values, and orders have none")
    rows, opening = groups.format["format_kwargs"]["transform"], reply_opening(processor)
    return groups.with_transform(WithReference(rows, reasoning, opening, processor if opening else None))


class _ResumableSFTTrainer(Resuming, SFTTrainer):
    """TRL's SFTTrainer, reading checkpoints as `Resuming` does."""


def sft_trainer(
    model: Any, processor: Any, dataset: Dataset, args: Any, callbacks: list[Any], peft_config: Any = None
) -> SFTTrainer:
    """Makes the baseline's trainer; `dataset` is from `sft_dataset`."""
    return _ResumableSFTTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        processing_class=processor,
        callbacks=callbacks,
        peft_config=peft_config,
    )


# ── what both kinds of arms share ─────────────────────────────────────────────────────────────────────────


def _common_arguments(config: RunConfig, arm: str) -> dict[str, Any]:
    """The arguments of every trainer of a run. The configuration's own keys override them."""
    return machine_defaults() | {
        "output_dir": str(_checkpoints(config, arm)),
        "report_to": "none",
        "disable_tqdm": True,
        **tracker_arguments(config.output, arm),
    }


def _load(start: str | Path, config: RunConfig) -> Any:
    # FSDP takes a layer at a time to the GPU, which need not hold the whole model.
    device = "cpu" if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else None
    return load_model(start, training=True, dtype=config.dtype, attention=config.attention, device=device)


def _add_validation(
    trainer: Any, config: RunConfig, weights: Weights, held_out: Sequence[Group], max_new_tokens: int
) -> None:
    if config.validation is not None:
        checkpoints = Path(trainer.args.output_dir)
        trainer.add_callback(
            ValidationCallback(trainer, config, weights, held_out, max_new_tokens, checkpoints)
        )


def _fit(trainer: Any, lines: ProgressLines, start: str | Path, folder: Path, config: RunConfig) -> None:
    """Trains from the last complete checkpoint, and gives the model folder its name once it is complete."""
    check_saving(trainer)
    trainer.remove_callback(PrinterCallback)
    checkpoints = _checkpoints(config, folder.name)
    asked = AskedToStop("a checkpoint is saved after this step")
    with lines, asked, warnings.catch_warnings():
        # transformers 5.23 warns at every step that TRL 1.16 uses the old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        continued, since = last_complete_checkpoint(checkpoints), time.monotonic()
        if continued is not None:
            check_engine(trainer, continued)
        follow(trainer, config.output, folder.name)
        stopping = Stopping(trainer, asked)
        for callback in (stopping, LogWindow(trainer, continued), Sealing()):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=None if continued is None else str(continued))
        leave(trainer)
    if number := stopping.number or asked.number:
        raise Stopped(number, f"a checkpoint of step {trainer.state.global_step} of {folder.name} is saved")
    seconds = None if continued else time.monotonic() - since
    trainer.accelerator.wait_for_everyone()
    _write_model_folder(trainer, start, folder, config, seconds)
    trainer.accelerator.wait_for_everyone()


def _write_model_folder(
    trainer: Any, start: str | Path, folder: Path, config: RunConfig, seconds: float | None
) -> None:
    """Writes the model whose weights are kept, with its processor, logs and records, and drops the
    checkpoints."""
    checkpoints = _checkpoints(config, folder.name)
    main = trainer.is_world_process_zero()
    temporary = unfinished(folder) if main else folder  # the other processes write nothing
    keep = "last" if config.validation is None else config.validation.keep
    weights = (
        checkpoints / BEST_FOLDER if keep == "best" else checkpoints / "adapter" if config.lora else temporary
    )
    if keep == "last":
        save_weights(trainer, weights)
    if not main:
        return
    check_unchanged(weights)
    if config.lora is not None:
        merge_adapter(start, weights, temporary, config.dtype)
    elif keep == "best":
        shutil.copytree(weights, temporary, dirs_exist_ok=True)
    (temporary / TRAINING_ARGS).unlink(missing_ok=True)
    trainer.processing_class.save_pretrained(temporary)
    history = trainer.state.log_history
    logs = [json.dumps(log) for log in history]
    (temporary / "log.jsonl").write_text("\n".join(logs) + "\n", encoding="utf-8")
    if (checkpoints / GROUPS_FILE).is_file():
        shutil.copy(checkpoints / GROUPS_FILE, temporary / GROUPS_FILE)
    made = training_record(kept_step(history, keep), trainer.args.device.type, seconds)
    (temporary / TRAINING_FILE).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    (temporary / TASK_FILE).write_text(task_text(config.task), encoding="utf-8")
    if not is_finished(temporary):
        raise ModelError(
            f"{folder}: the trained weights could not be written; the checkpoints in {checkpoints} are kept"
        )
    finish(temporary, folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    with suppress(OSError):  # other arms still have checkpoints there
        checkpoints.parent.rmdir()


def _checkpoints(config: RunConfig, arm: str) -> Path:
    return config.output / "checkpoints" / arm


def _merged(model: str | Path, folder: Path) -> str | Path:
    """Returns `model`; if that is an adapter, `folder` with it merged into its base. TRL 1.16 loads the KL's
    reference from the folder that a model came from, which for an adapter is the model without it."""
    if not (Path(check_model(model)) / "adapter_config.json").is_file():
        return model
    if PartialState().is_main_process and not is_finished(folder):
        temporary = unfinished(folder)
        with whole_models():
            load_model(model, training=True, device="cpu").save_pretrained(temporary)
        load_processor(model).save_pretrained(temporary)
        finish(temporary, folder)
    PartialState().wait_for_everyone()
    return folder


def _lora(config: RunConfig) -> Any:
    """The adapter of a run with `lora`, as TRL takes it. None means that all weights are trained."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )
