"""Groups of responses as they were trained on, one at each line of the log: texts, rewards, advantages and
which were put in by mutation. For people to read: training does not look at it."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rarl.files import write_text


class GroupLog(TrainerCallback):
    """Writes the first group of the last generation, whenever the trainer logs, as a line of `groups.jsonl`.

    A run that is continued drops what was written after its checkpoint, and writes it again.

    Args:
        trainer: a `RARLTrainer`.
        path: of the file.
    """

    def __init__(self, trainer: Any, path: Path) -> None:
        self._trainer = trainer
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        *lines, last = text.split("\n")
        with suppress(ValueError):  # an interruption may have cut it off
            json.loads(last)
            lines.append(last)
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and "reward" in kwargs["logs"]:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **self._group()}) + "\n")

    def _group(self) -> dict[str, Any]:
        """What TRL 1.16 keeps of the last generation, of which the first prompt is this process's first."""
        trainer = self._trainer
        logs, prompt = trainer._logs, trainer._inputs[0]
        weights = trainer.reward_weights.tolist()
        names = [name.removesuffix("_reward") for name in trainer.reward_func_names]
        columns = [logs["rewards"][name] for name in trainer.reward_func_names]
        mutated = logs["extra"].get("mutated") or [False] * len(logs["advantages"])
        responses = []
        for index in range(trainer.num_generations):
            parts = [None if math.isnan(column[index]) else column[index] for column in columns]
            weighted = [
                weight * part for weight, part in zip(weights, parts, strict=True) if part is not None
            ]
            completion = logs["completion"][index]
            responses.append(
                {
                    "text": completion if isinstance(completion, str) else completion[-1]["content"],
                    "rewards": dict(zip(names, parts, strict=True)),
                    "reward": sum(weighted),
                    "advantage": logs["advantages"][index],
                    "mutated": bool(mutated[index]),
                }
            )
        known = {"order": prompt["order"]} if "values" not in prompt else {}
        return {
            "ids": prompt["ids"],
            "truth": prompt.get("values"),
            **known,
            "rule": prompt["rule"],
            "responses": responses,
        }
