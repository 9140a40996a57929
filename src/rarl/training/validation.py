"""Where an arm stands while it trains: greedy replies to prompts of the validation part, every so many steps,
as lines of the log, and the best model so far put aside where the last is not what is kept. Training is the
same with it and without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback

from rarl.data.collection import Collection
from rarl.data.groups import Group, draw_groups
from rarl.errors import ConfigError
from rarl.evaluation import ask, predict
from rarl.files import finish, unfinished
from rarl.rewards import format_reward, ranking_reward, regression_reward
from rarl.summary import summarize
from rarl.tasks import Task
from rarl.training.config import RunConfig
from rarl.training.sections import Weights

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

    A line of the log has `validation/METRIC` for the metrics of `rarl.evaluation.summarize`, without their
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
