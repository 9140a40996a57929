"""The digests of a checkpoint, written once every process has written its part of it. What is done with a
checkpoint that has changed is decided in checkpoints.py."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from rarl.digests import write_digests


class Sealing(TrainerCallback):
    """Writes the digests of each checkpoint. One that is interrupted before has none: the one before it is
    taken."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        processes = PartialState()
        processes.wait_for_everyone()
        if state.is_world_process_zero:
            write_digests(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        processes.wait_for_everyone()
