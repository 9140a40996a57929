"""Where an arm stands while it trains: greedy replies to prompts of the validation part, every so many steps,
as lines of the log, and the best model so far put aside where the last is not what is kept. Training is the
same with it and without."""

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

from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import Progress
from transformers import Trainer, TrainerCallback

from rarl.data.collection import Collection
from rarl.data.groups import Group, draw_groups
from rarl.errors import ConfigError
from rarl.evaluation.evaluate import ask
from rarl.evaluation.metrics import metric_of
from rarl.evaluation.prediction import predict
from rarl.evaluation.summary import summarize
from rarl.files import finish, progress_bar, unfinished, write_text
from rarl.method.rewards import format_reward, ranking_reward, regression_reward
from rarl.method.tasks import Task
from rarl.training.config import RunConfig
from rarl.training.sections import Weights

# What a line shows: its label, and the first of these metrics that the log has. A trainer with mutation logs
# the policy's own responses apart from the injected ones; the line shows the former.
COLUMNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("loss", ("loss",), ".3f"),
    ("reward", ("policy/reward", "reward"), ".3f"),
    ("reg", ("policy/rewards/regression_reward", "rewards/regression_reward/mean"), ".3f"),
    ("rank", ("policy/rewards/ranking_reward", "rewards/ranking_reward/mean"), ".3f"),
    ("format", ("policy/rewards/format_reward", "rewards/format_reward/mean"), ".3f"),
    ("mutated", ("mutation/fraction",), ".0%"),
    ("KL", ("kl",), ".4f"),
    ("entropy", ("entropy",), ".3f"),
)


def line(log: dict[str, Any]) -> str:
    """One log of TRL as one line; what was not logged is left out, and an undefined reward is a dash.

    Examples:
        `reward 2.914  reg 0.640  rank 1.296  format 0.978  stagnant 12%→4%  mutated 8%  KL 0.0121`
    """
    parts = []
    for label, names, form in COLUMNS:
        name = next((name for name in names if name in log), None)
        if name is None or (label == "loss" and "policy/reward" in log):
            continue
        value = log[name]
        # TRL logs None where no response of the step had this reward; NaN is left by a mean over nothing.
        parts.append(f"{label} -" if value is None or value != value else f"{label} {value:{form}}")
        if label == "format" and "mutation/stagnant_before" in log:
            before, after = log["mutation/stagnant_before"], log["mutation/stagnant_after"]
            parts.append(f"stagnant {before:.0%}→{after:.0%}")
    return "  ".join(parts)


def validation_line(log: dict[str, Any]) -> str:
    """What was measured on the validation part as one line.

    Examples:
        `validation  score 2.914  mae 0.870  tau2 0.660  tau8 0.412  parsed 1.000  valid 0.931`
    """
    names = [key.removeprefix("validation/") for key in log if key.startswith("validation/")]
    shown = [name for name in names if metric_of(name)[0].in_progress_line]
    shown.sort(key=lambda name: name != "score")
    return "  ".join(["validation", *(f"{name} {log[f'validation/{name}']:.3f}" for name in shown)])


class ProgressLines(TrainerCallback):
    """The bar and the lines of one arm. `with` it, the bar goes when training is interrupted, too.

    Args:
        arm: the arm's name, in front of every line.
        console: where they go.
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
            self._since += time.monotonic() - self._stepped  # no part of a step
            return
        steps = max(state.global_step - self._logged, 1)
        seconds = (time.monotonic() - self._since) / steps
        self._since, self._logged = time.monotonic(), state.global_step
        self._print(state, f"{line(logs)}  {seconds:.2f} s/step")

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


TRAINING = "training.json"
GROUPS = "groups.jsonl"  # of a model folder, too; `group_log` writes it


def training_record(step: int, device: str, seconds: float | None) -> dict[str, Any]:
    """What stands in the file.

    Args:
        step: whose weights were kept.
        device: what the model was on.
        seconds: the training took; None where it was continued, so that nobody has seen the whole.
    """
    libraries = {name: version(name) for name in ("rarl", "torch", "transformers", "trl")}
    return {
        "versions": {"python": platform.python_version(), **libraries},
        "device": device,
        "seconds": None if seconds is None else round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
    }


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


SCORE = "validation/score"
BEST = "best"  # the folder of the best model so far, beside the checkpoints


def validation_groups(config: RunConfig, collection: Collection) -> list[Group]:
    """The prompts to ask: as many for each number of images, the same for all arms and steps of a run.

    Raises:
        DataError: if the collection has no such part, or too few images in it.
    """
    settings = config.validation
    if settings is None:
        return []
    rows, seed = collection.split(settings.split), f"{config.seed}:validation"
    drawn = [draw_groups(rows, count, settings.prompts, seed) for count in sorted(set(settings.images))]
    return [group for groups in drawn for group in groups]


class Validation(TrainerCallback):
    """Asks the model at the first step, every `validation.every` steps, and at the last.

    A line of the log has `validation/METRIC` for the metrics of `rarl.evaluation.summary`, without their
    intervals, and `validation/score`, the mean of Eq. 8 over the prompts with `weights`.

    Raises:
        ConfigError: when training begins, if no process holds the whole model.
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
        self._best = checkpoints / BEST

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled:
            raise ConfigError(
                "validation: is not possible where the model is spread over processes (FSDP, DeepSpeed): "
                "remove this section, and evaluate the models that the run leaves"
            )
        if state.global_step == 0:
            self._validate(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Before the step's checkpoint is saved: a run that is continued from it knows this line.
        if state.global_step % self._settings.every == 0 or state.global_step == state.max_steps:
            self._validate(state, control)

    def _validate(self, state: Any, control: Any) -> None:
        before = [log[SCORE] for log in state.log_history if SCORE in log]
        found: list[Any] = [self._measured() if state.is_world_process_zero else None]
        broadcast_object_list(found)
        should_log = control.should_log
        # The trainer's own `log` would empty TRL's metrics, which are of the steps since the last line.
        Trainer.log(self._trainer, dict(found[0]))
        control.should_log = should_log  # transformers 5.23 takes a line for that of the step
        if self._settings.keep == "best" and all(found[0][SCORE] > score for score in before):
            temporary = unfinished(self._best) if state.is_world_process_zero else self._best
            self._trainer.save_model(str(temporary))
            if state.is_world_process_zero:
                finish(temporary, self._best)

    def _measured(self) -> dict[str, float]:
        model: Any = self._trainer.accelerator.unwrap_model(self._trainer.model)
        processor: Any = self._trainer.processing_class
        answered = list(
            ask(model, processor, self._groups, self._task, self._batch_size, self._max_new_tokens)
        )
        predictions = [predict(group, text) for group, text in answered]
        metrics = summarize(predictions, self._task, 0)
        scores = [score(group, text, self._task, self._weights) for group, text in answered]
        named = {f"validation/{name}": entry["value"] for name, entry in metrics.items()}
        return {**named, SCORE: sum(scores) / len(scores)}


def score(group: Group, text: str, task: Task, weights: Weights) -> float:
    """Eq. 8 for one reply; a reward that is not defined for the group is left out, as in training."""
    columns: dict[str, Any] = {"delta": [task.delta], "range": [[task.low, task.high]]}
    columns["values" if group.knows_values else "order"] = [group.values]
    parts = [
        regression_reward([text], **columns)[0] if group.knows_values else None,
        ranking_reward([text], **columns)[0],
        format_reward([text])[0],
    ]
    return sum(
        weight * part for weight, part in zip(weights.in_order, parts, strict=True) if part is not None
    )


def kept_step(history: Sequence[dict[str, Any]], keep: str) -> int:
    """The step whose weights are kept: the first with the highest score, or the last."""
    validated = [log for log in history if SCORE in log]
    if keep == "best" and validated:
        return int(max(validated, key=lambda log: (log[SCORE], -log["step"]))["step"])
    return max((int(log["step"]) for log in history), default=0)
