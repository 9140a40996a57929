"""What a person sees while a model trains: a progress bar, and one line per logging step with the reward and
its three parts, stagnant groups, mutated responses, KL, entropy and seconds. It reads TRL's logs and changes
nothing."""

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress
from transformers import TrainerCallback

from rarl.progress_bar import progress_bar

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
    left_out = ("accuracy", "within_one", "srcc", "plcc")
    names = [key.removeprefix("validation/") for key in log if key.startswith("validation/")]
    shown = [name for name in names if name not in left_out and not name.endswith("_values")]
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
