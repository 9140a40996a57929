"""Training one arm, by GRPO or SFT, from its last complete checkpoint to a model folder that is whole. What the arms of
a run are, and in which order, is `stages`'s."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rarl.data.groups import Group, to_dataset
from rarl.models.loading import load_model, load_processor
from rarl.training.checkpoints import finish, last_complete_checkpoint, unfinished
from rarl.training.config import RunConfig
from rarl.training.progress import ProgressLines
from rarl.training.sections import Stage
from rarl.training.trainer_fields import machine_defaults


def train_stage(
    config: RunConfig, stage: Stage, start: str | Path, groups: list[Group], folder: Path, console: Console
) -> None:
    """One stage of GRPO from the model `start`, which is also the KL's reference, into `folder`."""
    from rarl.training.trainer import RARLConfig, RARLTrainer

    args = RARLConfig(**(_common(config, stage.name) | config.grpo_arguments(stage, processes=_processes())))
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


def train_sft(config: RunConfig, groups: list[Group], folder: Path, console: Console) -> None:
    """The supervised baseline from the run's model, over `groups` once, into `folder`."""
    from trl import SFTConfig

    from rarl.training.sft import sft_dataset, sft_trainer

    assert config.sft is not None
    args = SFTConfig(**(_common(config, folder.name) | config.sft_arguments(processes=_processes())))
    dataset = sft_dataset(to_dataset(groups, config.task), config.sft.reasoning)
    model, processor = load_model(config.model, training=True), load_processor(config.model)
    lines = ProgressLines(folder.name, console)
    trainer = sft_trainer(model, processor, dataset, args, [lines], _lora(config))
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
    main = trainer.is_world_process_zero()
    temporary = unfinished(folder) if main else folder  # the others write nothing
    trainer.save_model(str(temporary))  # all take part: weights may be spread over them
    if main:
        trainer.processing_class.save_pretrained(temporary)
        lines = [json.dumps(log) for log in trainer.state.log_history]
        (temporary / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        task = yaml.safe_dump(config.task.to_dict(), sort_keys=False)
        (temporary / "task.yaml").write_text(task, encoding="utf-8")
        finish(temporary, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
        with suppress(OSError):  # the checkpoints of other arms are still there
            checkpoints.parent.rmdir()
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
