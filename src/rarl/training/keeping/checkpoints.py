"""What is complete on disk: the last complete checkpoint of an arm, a finished model folder, and whether a
run that is to be continued is the one that was begun. Files are looked at, never loaded into a model; no
torch is needed."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rarl.digests import DIGESTS, damage
from rarl.errors import ConfigError, DiskError, joined, shown
from rarl.method.mutation import Mutation
from rarl.training.defaults import DEFAULTS_BEFORE, RUN_DEFAULTS
from rarl.training.keeping.same_data import is_same_collection
from rarl.yaml_files import read_yaml_mapping

# The keys that may change between a run and its continuation: where it is, and what is measured after
# training.
FREE_KEYS = ("output", "evaluation")
OLDER_STAGES = {"start": None, "reference": None, "stagnant": None, "resample_rounds": 3}
"""What the stages of a run of an earlier version do without saying it; of `mutation` it is the default."""
OLDER_RUNS = {"dtype": "float32", "attention": "sdpa", "pixels": None}
"""The same of a whole run."""

_MISSING = object()


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Finds the checkpoint with the highest step that holds everything needed to continue; None if there is
    none.

    transformers would take the highest number, and train on without the optimizer's state if that is missing.
    Here incomplete checkpoints are passed over, each with a line in the log. What is complete depends on the
    engine that wrote it, see `engine_of`. One without digests, because its writing was cut off or because an
    earlier version wrote it, is taken only where no complete one has them.

    Args:
        folder: the trainer's output folder, which holds folders `checkpoint-N`. It need not exist.
    """
    if not folder.is_dir():
        return None
    steps = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    unsealed = []
    for step in sorted(steps, reverse=True):
        lacking = _lacking(steps[step], step)
        if lacking is None and not (steps[step] / DIGESTS).is_file():
            unsealed.append(steps[step])
        elif lacking is None:
            for later in unsealed:
                _say_passed_over(later, f"no {DIGESTS}")
            return steps[step]
        else:
            _say_passed_over(steps[step], lacking)
    return unsealed[0] if unsealed else None


def _say_passed_over(checkpoint: Path, lacking: str) -> None:
    logging.getLogger(__name__).warning("%s is not whole (%s): passed over", checkpoint, lacking)


def _lacking(checkpoint: Path, step: int) -> str | None:
    """Says what a checkpoint lacks to be continued, or what in it has changed; None if it is as it was
    written."""
    if changed := damage(checkpoint):
        return changed
    engine = engine_of(checkpoint)
    if engine is None:
        # Named is what the most common engine writes.
        return "no optimizer.pt" if _has_weights(checkpoint) else "no model weights"
    if engine == PLAIN and not _has_weights(checkpoint):
        return "no model weights"
    if engine != DEEPSPEED and not _filled(checkpoint / "scheduler.pt"):
        return "no scheduler.pt"
    # One process writes rng_state.pth, several write rng_state_0.pth and so on.
    if not (generators := [path for path in checkpoint.glob("rng_state*.pth") if _filled(path)]):
        return "no rng_state.pth"
    if engine == DEEPSPEED and (lacking := _lacking_of_deepspeed(checkpoint, len(generators))):
        return lacking
    # transformers 5.23 writes this file last.
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except OSError:
        return "no trainer_state.json"
    except ValueError:
        return "trainer_state.json is cut off"
    reached = state.get("global_step") if isinstance(state, dict) else None
    return None if reached == step else f"trainer_state.json is of step {reached}"


PLAIN, DEEPSPEED = "one process or DDP", "DeepSpeed"
FULL, SHARDED = "FSDP with FULL_STATE_DICT", "FSDP with SHARDED_STATE_DICT"

# What each engine writes for itself (transformers 5.23). torch writes `.metadata` once all parts are there.
_OF_ENGINE = {
    DEEPSPEED: ("latest",),
    SHARDED: ("pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"),
    FULL: ("pytorch_model_fsdp.bin", "optimizer.bin"),
    PLAIN: ("optimizer.pt",),
}


def engine_of(checkpoint: Path) -> str | None:
    """The engine that wrote a checkpoint: `PLAIN`, `FULL`, `SHARDED` or `DEEPSPEED`. None if none of them
    wrote its optimizer's state."""
    for engine, files in _OF_ENGINE.items():
        if all(_filled(checkpoint / file) for file in files):
            return engine
    return None


def _lacking_of_deepspeed(checkpoint: Path, processes: int) -> str | None:
    """DeepSpeed has a folder, which `latest` names, with the states of the optimizer of each process."""
    folder = checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip()
    if not any(_filled(path) for path in folder.glob("*model_states.pt")):
        return f"no model weights in {folder.name}"
    states = [path for path in folder.glob("*optim_states.pt") if _filled(path)]
    return None if len(states) == processes else f"{len(states)} of {processes} optimizer's states"


def _has_weights(folder: Path) -> bool:
    """Whether there is a model or an adapter, with every file that its index names."""
    for index in folder.glob("*.index.json"):
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return all(_filled(folder / part) for part in parts)
    names = ("model", "pytorch_model", "adapter_model")
    return any(_filled(folder / f"{name}{end}") for name in names for end in (".safetensors", ".bin"))


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def is_finished(folder: Path) -> bool:
    """Whether a model folder is complete: `finish` gives a folder its name only when everything is in it."""
    return folder.is_dir() and _has_weights(folder)


def is_begun(output: Path) -> bool:
    """Whether there is a run in a folder."""
    return (output / "config.yaml").is_file()


def check_still_there(output: Path) -> None:
    """Refuses to go on in a folder from which the run was removed meanwhile: what is written would be made
    anew there, without what came before.

    Raises:
        DiskError: if there is no run in the folder.
    """
    if not is_begun(output):
        raise DiskError(f"{output} was removed while the run was at work: start it again")


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """Lists where two configurations of plain values differ, as `stages[1].max_steps: 280 before, 300
    now`."""
    changes: list[str] = []
    for key in dict.fromkeys([*before, *after]):
        here = joined(path, key)
        if here not in FREE_KEYS:
            changes += _changes(before.get(key, _MISSING), after.get(key, _MISSING), here)
    return changes


def _changes(before: Any, after: Any, path: str) -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return changed_keys(before, after, path)
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [change for number, (old, new) in pairs for change in _changes(old, new, joined(path, number))]
    if before == after:
        return []
    return [f"{path}: {_said(before)} before, {_said(after)} now"]


def _said(value: Any) -> str:
    return "not given" if value is _MISSING else shown(value)


def check_same_run(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> None:
    """Refuses to continue a run with another configuration.

    Args:
        before: the resolved configuration that the run was begun with, such as its config.yaml.
        after: the resolved configuration of now.
        where: how the error begins, such as the path of the run's config.yaml.

    Raises:
        ConfigError: with a line for each key that differs. `output` and `evaluation` may differ.
    """
    if changes := changed_keys(before, after):
        lines = "\n".join(f"  {change}" for change in changes)
        raise ConfigError(
            f"{where}: the run was begun with another configuration; give back the values from before, or "
            f"choose another `output` for a new run:\n{lines}"
        )


def check_output(output: Path, resolved: Mapping[str, Any], *, resume: bool) -> None:
    """Refuses to write a new run over another, or to continue a run with another configuration.

    Args:
        output: the run's folder. It need not exist.
        resolved: the resolved configuration of now, see `check_same_run`.
        resume: whether to continue the run in `output`, if there is one.

    Raises:
        ConfigError: if `output` is a file, holds a run and `resume` is false, or holds a run that differs.
            The same collection may be at another path.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output: {output} is a file; a run is a folder")
    saved = output / "config.yaml"
    if not saved.is_file():
        return
    if not resume:
        raise ConfigError(
            f"{output} holds a run already: continue it with --resume, or choose another `output`"
        )
    before = read_yaml_mapping(saved)
    before |= {key: OLDER_RUNS[key] for key in OLDER_RUNS.keys() & resolved.keys() - before.keys()}
    if isinstance(trainer := before.get("trainer"), dict):  # of an earlier version, which wrote fewer of them
        before["trainer"] = RUN_DEFAULTS | DEFAULTS_BEFORE | trainer
    stages, known = before.get("stages"), {key for stage in resolved.get("stages", ()) for key in stage}
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict):  # of an earlier version
            for key in OLDER_STAGES.keys() & known:
                stage.setdefault(key, OLDER_STAGES[key])
            if isinstance(stage.get("mutation"), dict):
                stage["mutation"] = Mutation().model_dump() | stage["mutation"]
            if stage.get("gap", 0) is None:
                del stage["gap"]
    if before.get("data") != (data := resolved.get("data")) and is_same_collection(
        output, before.get("data"), data
    ):
        before = {**before, "data": data}
    check_same_run(before, resolved, str(saved))
