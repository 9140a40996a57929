"""One run from its configuration: the SFT baseline, then the stages in order, each starting from the one before with
its own start as the KL's reference. Whatever is whole is kept: a run that was interrupted goes on from its last
complete checkpoint, and an arm that is finished is not trained again."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rarl.data.collection import Collection, Row, load_collection
from rarl.data.digits import prepare_digits
from rarl.data.groups import Group, to_dataset, training_groups
from rarl.errors import ConfigError
from rarl.models.loading import check_model, load_model, load_processor
from rarl.training.checkpoints import (
    check_same_run,
    finish,
    is_finished,
    last_complete_checkpoint,
    unfinished,
    write_text,
)
from rarl.training.config import RunConfig, Stage
from rarl.training.progress import ProgressLines
from rarl.training.trainer_fields import check_trainer_fields, machine_defaults


def prepare(config: RunConfig, *, resume: bool) -> Collection:
    """Everything that can be checked before anything runs, and the run's `config.yaml`.

    Args:
        config: the whole run.
        resume: whether a run in `config.output` is to be continued; otherwise that folder must hold none.

    Returns:
        The collection to train and evaluate on; digits are built where `config.data` is not given.

    Raises:
        ConfigError: for a wrong trainer field, a run that is there already, or one begun with another configuration.
        DataError, ModelError: if the data or the model can't be used.
    """
    check_trainer_fields(config)
    check_model(config.model)
    saved = config.output / "config.yaml"
    if saved.is_file():
        if not resume:
            raise ConfigError(
                f"{config.output} holds a run already: continue it with --resume, or choose another `output`"
            )
        before = yaml.safe_load(saved.read_text(encoding="utf-8"))
        check_same_run(before, config.to_dict(), str(saved))
    collection = load_collection(config.data) if config.data else prepare_digits(config.output / "data")
    if collection.task != config.task:
        raise ConfigError(
            f"task: the run's task '{config.task.name}' is not that of {collection.root}/task.yaml "
            f"('{collection.task.name}', {collection.task.value_range}, delta {collection.task.delta:g})"
        )
    for split in ("train", config.evaluation.split):
        collection.split(split)
    if not saved.is_file():
        write_text(saved, config.to_yaml())
    return collection


def train(config: RunConfig, collection: Collection, console: Console) -> list[Path]:
    """Trains what is not trained yet: SFT, then the stages.

    Returns:
        The model folders, in the order SFT, stages; each loads with `from_pretrained`.
    """
    rows = collection.split("train")
    groups = [stage_groups(config, stage, rows) for stage in config.stages]
    folders = []
    if config.sft is not None:
        folder = config.output / config.sft.name
        if not is_finished(folder):
            _train_sft(config, [group for stage in groups for group in stage], folder, console)
        folders.append(folder)
    start: str | Path = config.model
    for stage, drawn in zip(config.stages, groups, strict=True):
        folder = config.output / stage.name
        if not is_finished(folder):
            _train_stage(config, stage, start, drawn, folder, console)
        folders.append(folder)
        start = folder
    return folders


def stage_groups(config: RunConfig, stage: Stage, rows: Sequence[Row]) -> list[Group]:
    """The prompts of a stage, step after step; the same for the same seed and stage name."""
    prompts = config.trainer_for(stage)["prompts_per_step"]
    return training_groups(rows, stage.images, prompts, stage.max_steps, f"{config.seed}:{stage.name}")


def _train_stage(
    config: RunConfig, stage: Stage, start: str | Path, groups: list[Group], folder: Path, console: Console
) -> None:
    from rarl.training.trainer import RARLConfig, RARLTrainer

    arguments = config.grpo_arguments(stage, processes=_processes())
    if stage.mutation is not None:
        arguments |= {f"mutation_{key}": value for key, value in stage.mutation.model_dump().items()}
    args = RARLConfig(**(_common(config, stage.name) | arguments))
    model, processor = load_model(start, training=True), load_processor(start)
    trainer = RARLTrainer(
        model,
        args=args,
        train_dataset=to_dataset(groups, config.task),
        processing_class=processor,
        callbacks=[ProgressLines(stage.name, console)],
        peft_config=_lora(config),
    )
    _fit(trainer, folder, config)


def _train_sft(config: RunConfig, groups: list[Group], folder: Path, console: Console) -> None:
    from trl import SFTConfig

    from rarl.training.sft import sft_dataset, sft_trainer

    assert config.sft is not None
    args = SFTConfig(**(_common(config, folder.name) | config.sft_arguments(processes=_processes())))
    dataset = sft_dataset(to_dataset(groups, config.task), config.sft.reasoning)
    model, processor = load_model(config.model, training=True), load_processor(config.model)
    trainer = sft_trainer(model, processor, dataset, args, [ProgressLines(folder.name, console)], _lora(config))
    _fit(trainer, folder, config)


def _common(config: RunConfig, arm: str) -> dict[str, Any]:
    """What every trainer of a run has; the configuration's own keys come on top."""
    return machine_defaults() | {
        "output_dir": str(_checkpoints(config, arm)),
        "report_to": "none",
        "disable_tqdm": True,
    }


def _fit(trainer: Any, folder: Path, config: RunConfig) -> None:
    """Trains from the last complete checkpoint, and gives the model folder its name once it is whole."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    checkpoints = _checkpoints(config, folder.name)
    trainer.train(resume_from_checkpoint=_last(checkpoints))
    trainer.accelerator.wait_for_everyone()
    temporary = unfinished(folder) if trainer.is_world_process_zero() else folder.with_name(f".{folder.name}.unfinished")
    trainer.save_model(str(temporary))
    if trainer.is_world_process_zero():
        trainer.processing_class.save_pretrained(temporary)
        lines = [json.dumps(log) for log in trainer.state.log_history]
        (temporary / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (temporary / "task.yaml").write_text(yaml.safe_dump(config.task.to_dict(), sort_keys=False), encoding="utf-8")
        finish(temporary, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _checkpoints(config: RunConfig, arm: str) -> Path:
    return config.output / "checkpoints" / arm


def _last(checkpoints: Path) -> str | None:
    last = last_complete_checkpoint(checkpoints)
    return None if last is None else str(last)


def _lora(config: RunConfig) -> Any:
    """The adapter of a run with `lora`, as TRL takes it; None trains all weights."""
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


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
