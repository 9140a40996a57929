"""What is watched while an arm trains, as callbacks of its trainer: `ProgressLines` for a person at the
terminal, `GroupLog` for the groups that were trained on (groups.jsonl), and `ValidationCallback` for greedy
replies on the validation split. The files' names and the record of an arm (training.json) stand here, too.
None of this changes the training: its weights and logged numbers are the same with it and without."""

import json
import math
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress
from transformers import Trainer, TrainerCallback

from rarl.data.collection import Collection
from rarl.data.groups import Group, draw_groups
from rarl.evaluation.evaluate import ask
from rarl.evaluation.metrics import metric_of
from rarl.evaluation.prediction import predict
from rarl.evaluation.summary import summarize
from rarl.files import finish, unfinished, write_text
from rarl.method.rewards import TERMS, score
from rarl.method.tasks import Task
from rarl.progress import progress_bar
from rarl.training.config import RunConfig
from rarl.training.engines.weights import save_weights, whole_for_generation
from rarl.training.sections import Weights

# ── progress: a bar, and a line for each log ─────────────────────────────────────────────────────────────

# Each column's label, its metric (the first of these that the log has) and its format. A trainer with
# mutation logs the policy's own responses apart from the injected ones; the line shows the policy's own.
PROGRESS_COLUMNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("loss", ("loss",), ".3f"),
    ("reward", ("policy/reward", "reward"), ".3f"),
    *(
        (term.label, (f"policy/rewards/{term.name}_reward", f"rewards/{term.name}_reward/mean"), ".3f")
        for term in TERMS
    ),
    ("mutated", ("mutation/fraction",), ".0%"),
    ("KL", ("policy/kl", "kl"), ".4f"),
    ("entropy", ("policy/entropy", "entropy"), ".3f"),
)


def progress_line(log: dict[str, Any]) -> str:
    """One log of TRL as one line. Columns that were not logged are left out; an undefined reward is a dash.

    Examples:
        `reward 2.914  reg 0.640  rank 1.296  format 0.978  stagnant 12%→4%  mutated 8%  KL 0.0121`
    """
    parts = []
    for label, names, form in PROGRESS_COLUMNS:
        name = next((name for name in names if name in log), None)
        if name is None or (label == "loss" and "policy/reward" in log):
            continue
        value = log[name]
        # TRL logs None if no response of the step had this reward; a mean over nothing is NaN.
        if label == "mutated" and "mutation/stagnant_before" in log:
            before, after = log["mutation/stagnant_before"], log["mutation/stagnant_after"]
            parts.append(f"stagnant {before:.0%}→{after:.0%}")
        parts.append(f"{label} -" if value is None or value != value else f"{label} {value:{form}}")
    return "  ".join(parts)


def validation_line(log: dict[str, Any]) -> str:
    """The metrics on the validation split as one line.

    Examples:
        `validation  score 2.914  mae 0.870  tau2 0.660  tau8 0.412  parsed 1.000  valid 0.931`
    """
    names = [key.removeprefix("validation/") for key in log if key.startswith("validation/")]
    shown = [name for name in names if metric_of(name)[0].in_progress_line]
    shown.sort(key=lambda name: name != "score")
    return "  ".join(["validation", *(f"{name} {log[f'validation/{name}']:.3f}" for name in shown)])


class ProgressLines(TrainerCallback):
    """The progress bar and lines of one arm. In a `with` statement, the bar also ends if training is
    interrupted.

    Args:
        arm: the arm's name, which begins every line.
        console: where bar and lines go.
    """

    def __init__(self, arm: str, console: Console) -> None:
        self._arm = arm
        self._console = console
        self._progress: Progress | None = None
        self._since = 0.0
        self._logged = 0
        self._stepped = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._progress = progress_bar(self._console)
        self._progress.start()
        self._task = self._progress.add_task(self._arm, total=state.max_steps, completed=state.global_step)
        self._since, self._logged = time.monotonic(), state.global_step
        self._stepped = self._since

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stepped = time.monotonic()
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if self._progress is None or "train_runtime" in logs:
            return
        if "validation/score" in logs:
            self._print(state, validation_line(logs))
            self._since += time.monotonic() - self._stepped  # validation is not part of a step
            return
        steps = max(state.global_step - self._logged, 1)
        seconds = (time.monotonic() - self._since) / steps
        self._since, self._logged = time.monotonic(), state.global_step
        self._print(state, f"{progress_line(logs)}  {seconds:.2f} s/step")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _print(self, state: Any, text: str) -> None:
        width = len(str(state.max_steps))
        step = f"{self._arm} {state.global_step:>{width}}/{state.max_steps}"
        self._console.print(f"{step}  {text}", highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


# ── the record of an arm ─────────────────────────────────────────────────────────────────────────────────

TRAINING_FILE = "training.json"  # in a model folder


def training_record(step: int, device: str, seconds: float | None) -> dict[str, Any]:
    """The contents of `training.json`.

    Args:
        step: the step whose weights were kept.
        device: the type of device that the model was on.
        seconds: how long training took; None if it was continued, because then nobody has measured all of it.
    """
    libraries = {name: version(name) for name in ("rarl", "torch", "transformers", "trl")}
    return {
        "versions": {"python": platform.python_version(), **libraries},
        "device": device,
        "seconds": None if seconds is None else round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
    }


# ── the groups that were trained on ──────────────────────────────────────────────────────────────────────

GROUPS_FILE = "groups.jsonl"  # beside the checkpoints, later in the model folder


class GroupLog(TrainerCallback):
    """Writes a line of `groups.jsonl` whenever the trainer logs: the first group of the last generation.

    A continued run drops the lines that were written after its checkpoint, and writes them again.

    Args:
        trainer: a `RARLTrainer`.
        path: the file.
    """

    def __init__(self, trainer: Any, path: Path) -> None:
        self._trainer = trainer
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        *lines, last = text.split("\n")
        with suppress(ValueError):  # an interruption may have cut the last line off
            json.loads(last)
            lines.append(last)
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A run that was killed after its last step logs at its end, and nothing was generated for that here.
        if state.is_world_process_zero and "reward" in kwargs["logs"] and self._trainer._inputs:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **self._group()}) + "\n")

    def _group(self) -> dict[str, Any]:
        """The first group of the last generation, from what TRL 1.16 keeps; its prompt is this process's
        first."""
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


# ── validation ───────────────────────────────────────────────────────────────────────────────────────────

SCORE_KEY = "validation/score"
BEST_FOLDER = "best"  # holds the best model so far, beside the checkpoints


def validation_groups(config: RunConfig, collection: Collection) -> list[Group]:
    """Draws the prompts of the validation: equally many for each number of images, and the same for all arms
    and steps of a run.

    Raises:
        DataError: if the collection has no such split, or the split has too few images.
    """
    settings = config.validation
    if settings is None:
        return []
    rows, seed = collection.split(settings.split), f"{config.seed}:validation"
    drawn = [draw_groups(rows, count, settings.prompts, seed) for count in sorted(set(settings.images))]
    return [group for groups in drawn for group in groups]


class ValidationCallback(TrainerCallback):
    """Validates the model before the first step, every `validation.every` steps, and after the last.

    Each time it logs a line with `validation/METRIC` for the metrics of `rarl.evaluation.summary`, without
    their intervals, and `validation/score`, the mean of Eq. 8 with `weights` over the prompts. With `keep:
    best` it saves the model with the highest score so far to the folder `best`.

    Args:
        trainer: the arm's trainer.
        config: the run, with a section `validation`.
        weights: the lambdas of Eq. 8.
        groups: the prompts, from `validation_groups`.
        max_new_tokens: the length at which a reply is cut.
        checkpoints: the folder of the arm's checkpoints.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: RunConfig,
        weights: Weights,
        groups: Sequence[Group],
        max_new_tokens: int,
        checkpoints: Path,
    ) -> None:
        assert config.validation is not None
        self._trainer = trainer
        self._task: Task = config.task
        self._settings = config.validation
        self._batch_size = config.evaluation.batch_size
        self._weights = weights
        self._groups = groups
        self._max_new_tokens = max_new_tokens
        self._best = checkpoints / BEST_FOLDER

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._validate(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # This runs before the step's checkpoint is saved, so a run that continues from it knows this line.
        if state.global_step % self._settings.every == 0 or state.global_step == state.max_steps:
            self._validate(state, control)

    def _validate(self, state: Any, control: Any) -> None:
        before = [log[SCORE_KEY] for log in state.log_history if SCORE_KEY in log]
        found = self._measured()
        should_log = control.should_log
        # The trainer's own `log` would empty TRL's metrics, which cover the steps since the last line.
        Trainer.log(self._trainer, dict(found))
        control.should_log = should_log  # transformers 5.23 takes any line for the step's own
        if self._settings.keep == "best" and all(found[SCORE_KEY] > score for score in before):
            temporary = unfinished(self._best) if state.is_world_process_zero else self._best
            save_weights(self._trainer, temporary)
            if state.is_world_process_zero:
                finish(temporary, self._best)

    def _measured(self) -> dict[str, float]:
        """All processes take part, and have the same numbers."""
        trainer = self._trainer
        processor: Any = trainer.processing_class
        settings = (self._groups, self._task, self._batch_size, self._max_new_tokens)
        with whole_for_generation(trainer) as model:
            together = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
            answered = list(ask(model, processor, *settings, shared=True, together=together))
        predictions = [predict(group, text) for group, text in answered]
        metrics = summarize(predictions, self._task, 0)
        scores = [reply_score(group, text, self._task, self._weights) for group, text in answered]
        named = {f"validation/{name}": entry["value"] for name, entry in metrics.items()}
        return {**named, SCORE_KEY: sum(scores) / len(scores)}


def reply_score(group: Group, text: str, task: Task, weights: Weights) -> float:
    """The total reward of one reply (Eq. 8), as in training."""
    columns = {**group.truth, "delta": task.delta, "range": [task.low, task.high]}
    return score(text, columns, weights.in_order)


def kept_step(history: Sequence[dict[str, Any]], keep: str) -> int:
    """The step whose weights are kept: with `best` the first that has the highest score, otherwise the
    last."""
    validated = [log for log in history if SCORE_KEY in log]
    if keep == "best" and validated:
        return int(max(validated, key=lambda log: (log[SCORE_KEY], -log["step"]))["step"])
    return max((int(log["step"]) for log in history), default=0)
