"""Runs one trainer of `step_cost.py` in its own process: it takes an optimizer step when it is told to, and
reports how long each part of the step took. It wraps methods that are private to trl 1.16. Importing this
file loads all that either trainer needs, so both processes hold the same memory right after the import."""

import resource
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets  # noqa: F401
import psutil
import torch
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar

from rarl.data.groups import Group
from step_cost_trainer import NO_GPU, build_trainer

FIELDS = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")


def work(kind: str, job: dict[str, Any], groups: list[Group], folder: Path, connection: Connection) -> None:
    """Trains as the parent asks through `connection`, until it says stop. An exception is sent to the
    parent."""
    before = psutil.Process().memory_info().rss
    sys.stdout = sys.stderr  # programs read the parent's stdout
    warnings.simplefilter("ignore")
    disable_progress_bar()
    if job["device"] == "cuda" and not torch.cuda.is_available():
        connection.send(("error", NO_GPU))
        return
    try:
        torch.set_num_threads(job["threads"])
        trainer = build_trainer(kind, job, groups, folder)
        trainer.add_callback(Turns(trainer, job, connection, before))
        trainer.train()
    except EOFError:
        return  # the parent is gone
    except Exception:
        connection.send(("error", traceback.format_exc()))


class Turns(TrainerCallback):
    """Holds a trainer between its optimizer steps until the parent asks for the next, and times that step.

    A step lasts from the parent's word to the trainer's `on_step_end`: reading the rows, generation, rewards,
    the reference pass, forward, backward, optimizer. accelerate's loader is one batch ahead, so a step reads
    the rows of the next one. That is the same number of rows, except in the first step, which reads one batch
    more (hence the warm-up), and in the last, which reads one less (hence prompts for one step more than is
    ever taken).

    Args:
        trainer: the trainer to hold and time.
        job: a point and the settings, as in `measure`.
        connection: to the parent.
        before: bytes that the process held after its imports.
    """

    def __init__(self, trainer: Any, job: dict[str, Any], connection: Connection, before: int) -> None:
        self.trainer = trainer
        self.job = job
        self.connection = connection
        self.before = before
        self.seconds: dict[str, float] = defaultdict(float)
        self.started = self.trained = 0.0
        self.batches = 0
        self._time("training_step", "training")
        self._time("_prepare_inputs", "preparation")
        self._time("_generate_single_turn", "generation")
        self._time("_get_per_token_logps_and_entropies", "reference", only_for=trainer.ref_model)
        collate = trainer.data_collator

        def counted(rows: list[Any]) -> Any:
            self.batches += 1
            return collate(rows)

        trainer.data_collator = counted

    def _time(self, method: str, part: str, only_for: Any = None) -> None:
        """Adds the seconds of one of the trainer's methods to a part; with `only_for`, only of calls whose
        first argument is that."""
        original: Callable[..., Any] = getattr(self.trainer, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            if only_for is not None and arguments[0] is not only_for:
                return original(*arguments, **named)
            started = self._now()
            answer = original(*arguments, **named)
            ended = self._now()
            self.seconds[part] += ended - started
            if part == "training":
                self.trained = ended
            elif part == "generation":
                self._check_lengths(answer[0])
            return answer

        setattr(self.trainer, method, timed)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        cuda = self.job["device"] == "cuda"
        facts = {
            "device_name": torch.cuda.get_device_name() if cuda else None,
            "model_parameters": self.trainer.model.num_parameters(),
            "weights": str(self.trainer.model.dtype).removeprefix("torch."),
        }
        self.connection.send(("ready", facts))
        self._wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ended = self._now()
        if state.global_step > 1 and self.batches != args.gradient_accumulation_steps:
            raise RuntimeError(
                f"step {state.global_step} read {self.batches} batches, and not as many as it trains on "
                f"({args.gradient_accumulation_steps}); the loader reads ahead in another way"
            )
        generation, reference = self.seconds["generation"], self.seconds["reference"]
        # After the last backward pass come clipping, the optimizer's step and the clearing of the gradients.
        update = self.seconds["training"] - self.seconds["preparation"] + ended - self.trained
        step = ended - self.started
        seconds = {
            "generation": generation,
            "reference": reference,
            "update": update,
            "other": step - generation - reference - update,
            "step": step,
        }
        self.connection.send(("stepped", {"seconds": seconds, "memory_mib": self._memory()}))
        self._wait(control)

    def _wait(self, control: Any) -> None:
        word, given = self.connection.recv()
        while word == "score":
            self.connection.send(("scored", self._score(given)))
            word, given = self.connection.recv()
        control.should_training_stop = word == "stop"
        self.seconds.clear()
        self.batches = 0
        self.started = self._now()

    def _now(self) -> float:
        if self.job["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _memory(self) -> float:
        """Peak memory so far in MiB: on a GPU that of tensors, otherwise that of the process beyond its
        imports."""
        if self.job["device"] == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - self.before) / 2**20

    def _score(self, responses: list[list[int]] | None) -> dict[str, Any]:
        """The policy's log-probs of these responses to the first prompts; None means its own responses, whose
        log-probs are given in float32 as well. The trainer's own methods lead from rows to log-probs."""
        trainer = self.trainer
        rows = [row for at in range(self.job["prompts"]) for row in self._group(at)]
        generate = trainer._generate_single_turn
        recorded: list[list[int]] = []

        def repeat(*arguments: Any, **named: Any) -> Any:
            recorded[:] = generate(*arguments, **named)[0] if responses is None else responses
            return [list(ids) for ids in recorded], None

        trainer.model.train()
        trainer._generate_single_turn = repeat
        try:
            batch = trainer._generate_and_score_completions(rows)
        finally:
            trainer._generate_single_turn = generate
        self._check_lengths(recorded)
        self._check_prompts(batch)
        log_probs = self._log_probs(batch)
        scored = {"log_probs": log_probs, "float32": None}
        if responses is None and trainer.model.dtype == torch.float32:
            with _without_autocast():
                scored["float32"] = self._log_probs(batch)
        return {
            **scored,
            "responses": recorded,
            "prompt_tokens": batch["prompt_ids"].shape[1],
        }

    def _log_probs(self, batch: dict[str, Any]) -> Any:
        trainer = self.trainer
        with torch.no_grad():
            log_probs, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model_wrapped,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].shape[1],
                batch_size=trainer.args.per_device_train_batch_size,
                compute_entropy=True,
                **{name: batch.get(name) for name in FIELDS},
            )
        return log_probs.float().cpu().numpy()

    def _group(self, at: int) -> list[Any]:
        row = self.trainer.train_dataset[at]
        return [row] * self.job["generations"]

    def _check_lengths(self, responses: list[list[int]]) -> None:
        lengths = {len(response) for response in responses}
        if lengths != {self.job["new_tokens"]}:
            raise RuntimeError(f"responses of {sorted(lengths)} tokens, not of {self.job['new_tokens']} each")

    def _check_prompts(self, batch: dict[str, torch.Tensor]) -> None:
        image = self.trainer.model.config.image_token_id
        found = set((batch["prompt_ids"] == image).sum(dim=1).tolist())
        wanted = self.job["images"] * self.job["tokens"]
        if found != {wanted}:
            raise RuntimeError(f"prompts with {sorted(found)} image tokens, not with {wanted} each")
        if not batch["prompt_mask"].all():
            raise RuntimeError("the prompts are not of one length")


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Inside, autocast does nothing, wherever a model is wrapped in it."""
    nothing = {"__enter__": lambda self: self, "__exit__": lambda *given: None}
    with patch.multiple(torch.autocast, **nothing):
        yield
