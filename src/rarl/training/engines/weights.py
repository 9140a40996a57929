"""The weights of an arm, from its trainer to its folder, whichever engine holds them: one process, DDP, FSDP
or DeepSpeed. What else a model folder has is written in `rarl.training.arms`, and which checkpoint is whole
is decided in `rarl.training.keeping`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from trl.models.utils import unwrap_model_for_generation

from rarl.errors import ConfigError
from rarl.models.folders.merging import write_merged
from rarl.models.whole import whole_models
from rarl.training.keeping.checkpoints import DEEPSPEED, PLAIN, engine_of


def check_saving(trainer: Any) -> None:
    """Refuses DeepSpeed's ZeRO-3 where it would not give its weights out: all that is left after training
    would be its own checkpoint.

    Raises:
        ConfigError: it says which key of the configuration of accelerate or DeepSpeed to set.
    """
    if not trainer.is_deepspeed_enabled:
        return
    zero = trainer.accelerator.state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigError(
            "DeepSpeed's ZeRO-3 would not write the trained weights: set zero3_save_16bit_model: true in the "
            "configuration of accelerate, or stage3_gather_16bit_weights_on_model_save: true in that of "
            "DeepSpeed"
        )


def check_engine(trainer: Any, checkpoint: Path) -> None:
    """Refuses to continue a checkpoint under another engine than the one that wrote it: each has its own
    files.

    Raises:
        ConfigError: with both engines.
    """
    if trainer.is_fsdp_enabled:
        engine = f"FSDP with {trainer.accelerator.state.fsdp_plugin.state_dict_type.name}"
    else:
        engine = DEEPSPEED if trainer.is_deepspeed_enabled else PLAIN
    if (before := engine_of(checkpoint)) != engine:
        raise ConfigError(
            f"{checkpoint} was written by {before}, and this is {engine}: continue as the run was "
            "begun, or remove that checkpoint's folder to train the arm anew"
        )


@contextmanager
def whole_for_generation(trainer: Any) -> Iterator[Any]:
    """The trainer's model, as all processes together can generate with it. ZeRO-3 gathers it; FSDP does that
    by itself, layer by layer."""
    if trainer.is_deepspeed_enabled:
        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model:
            yield model
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    try:
        yield model
    finally:
        for module in model.modules():  # FSDP2 leaves that to the backward pass, which there is none of
            if isinstance(module, FSDPModule):
                module.reshard()


def merge_adapter(start: str | Path, adapter: Path, folder: Path, dtype: str) -> None:
    """Writes the weights of `start` with the adapter merged into them (`rarl.models.folders.merging`). The
    next stage can start from it with an adapter of its own. One process calls it; it waits for no other."""
    with whole_models():
        write_merged(start, adapter, folder, getattr(torch, dtype))


def save_weights(trainer: Any, folder: Path) -> None:
    """Writes the weights as `from_pretrained` reads them, or with LoRA those of the adapter. All processes
    call it, because each may hold a part; the first one writes."""
    if trainer.is_fsdp_enabled:
        # transformers 5.23 writes nothing where checkpoints are sharded (FSDP's SHARDED_STATE_DICT, the
        # default).
        whole = trainer.accelerator.get_state_dict(trainer.model)
        for tied in getattr(trainer.model, "all_tied_weights_keys", None) or ():
            whole.pop(tied, None)  # it is gathered as a copy, and would stand in the file twice
        trainer._save(str(folder), state_dict=whole)
    else:
        trainer.save_model(str(folder))
