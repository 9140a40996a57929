"""How training ends when it is asked to: after the step that it is in, with a checkpoint from which the run
goes on as if it had never stopped. That may be any step, so what was gathered for the next line of the log is
kept with each checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rarl.signals import AskedToStop

WINDOW_FILE = "log_window.json"  # in a checkpoint


class Stopping(TrainerCallback):
    """Saves a checkpoint and ends the training after the step in which any process was asked to stop.

    Args:
        trainer: the arm's trainer.
        asked: knows of the signals to this process.

    Attributes:
        number: of the signal because of which training has ended; None if it has not.
    """

    def __init__(self, trainer: Any, asked: AskedToStop) -> None:
        self._trainer, self._asked = trainer, asked
        self.number: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accelerator = self._trainer.accelerator
        number = self._asked.number or 0
        if accelerator.num_processes > 1:
            numbers = torch.tensor([number], device=accelerator.device)
            number = int(accelerator.gather(numbers).max())
        # TRL 1.16 doesn't save what it has generated: one generation serves so many micro-steps.
        cycle = (getattr(args, "steps_per_generation", None) or 1) * getattr(args, "num_iterations", 1)
        if number and state.global_step * args.gradient_accumulation_steps % cycle == 0:
            self.number = number
            control.should_save = control.should_training_stop = True


class LogWindow(TrainerCallback):
    """Keeps with each checkpoint what the next line of the log is the mean of: losses and TRL's metrics since
    the last line.

    Args:
        trainer: the arm's trainer, of transformers 5.23 and TRL 1.16.
        continued: the checkpoint from which it goes on.
    """

    def __init__(self, trainer: Any, continued: Path | None) -> None:
        self._trainer, self._continued = trainer, continued

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        loss = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).mean().item()
        if state.is_world_process_zero:
            window = {
                "since": trainer._globalstep_last_logged,
                "loss": loss,
                "metrics": dict(trainer._metrics["train"]),
            }
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / WINDOW_FILE
            path.write_text(json.dumps(window, default=float), encoding="utf-8")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._continued is None or not (self._continued / WINDOW_FILE).is_file():
            return
        window = json.loads((self._continued / WINDOW_FILE).read_text(encoding="utf-8"))
        trainer = self._trainer
        trainer._globalstep_last_logged = window["since"]
        trainer._tr_loss += window["loss"]
        for name, values in window["metrics"].items():
            trainer._metrics["train"][name] = values
