"""What an arm has spent, and what it remembers beyond its weights: prompts, responses and seconds since the
stage began, counted alike for every way of training, and the replay of RMO. Both are saved in each checkpoint
and read again from it, so that a run that goes on counts and chooses as one that was never stopped. What is
done with the numbers is decided elsewhere."""

import json
import time
from pathlib import Path
from typing import Any

from rarl.errors import ModelError
from rarl.method.replay import Replay

STATE_FILE = "rarl_state.json"  # in a checkpoint, beside trainer_state.json
EFFORT_KEYS = ("effort/prompts", "effort/responses", "effort/seconds")


class KeepsState:
    """Goes before a GRPOTrainer among the bases of a class.

    Logged with each of TRL's training lines, and with the last one, each since the stage began:
        effort/prompts, effort/responses: for which, and how many, responses were generated, by all processes
            and with those that dynamic sampling dropped;
        effort/seconds: of training steps, generation included, on the first process. Validation and saving
            are left out, and so are steps that were lost with an interruption and made again.

    Raises:
        ModelError: when training resumes from a checkpoint without this state and RMO needs its replay.
    """

    args: Any
    accelerator: Any
    num_generations: int

    _responses = 0
    _seconds = 0.0
    _counts_are_known = True  # a checkpoint of an earlier version has none
    _current_train_step_time: float

    def _count_responses(self, local: int) -> None:
        """Counts responses that were generated: `local` on each process."""
        self._responses += local * self.accelerator.num_processes

    @property
    def _replay(self) -> Replay:
        if "_kept_replay" not in vars(self):
            self._kept_replay = Replay()
        return self._kept_replay

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        since = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        self._seconds += time.perf_counter() - since
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._counts_are_known and ("loss" in logs or "train_runtime" in logs):
            counts = (self._responses // self.num_generations, self._responses, round(self._seconds, 3))
            logs = logs | dict(zip(EFFORT_KEYS, counts, strict=True))
        super().log(logs, start_time)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Before transformers writes trainer_state.json, by which a checkpoint is known to be whole."""
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.args.should_save:
            state = {
                "responses": self._responses if self._counts_are_known else None,
                "seconds": self._seconds,
                "replay": self._replay.state(),
            }
            (Path(output_dir) / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        path = Path(checkpoint) / STATE_FILE
        if not path.is_file():
            if self.args.mutation.reference == "replay" and self.args.mutation.probability > 0:
                raise ModelError(f"{checkpoint} lacks {STATE_FILE}, and with it the replay that RMO needs")
            self._counts_are_known = False
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        self._counts_are_known = state["responses"] is not None
        self._responses, self._seconds = state["responses"] or 0, state["seconds"]
        self._replay.restore(state["replay"])
