"""What a run, or the cells of a grid, left on disk, read once for a report. Nothing but the metrics has to be
there: an older run, an arm that was not trained or images that are gone make a report shorter, not fail."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.data.collection import Collection, inspect_collection
from rarl.errors import DataError
from rarl.evaluation.results import load_metrics
from rarl.method.tasks import Task
from rarl.training.callbacks import GROUPS_FILE, TRAINING_FILE
from rarl.training.config import RunConfig, load_config


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        predictions: lines of `predictions.jsonl`, without those of rotated lists, which are `rotated`.
        log, groups: lines of the model folder's `log.jsonl` and `groups.jsonl`; none of what was not trained.
        training: its `training.json`, or nothing.
        since: the steps that were trained before the arm's own, by the stages before it.
        cut: whether the last line of `log` or `groups` was cut off, and is left out.
    """

    name: str
    metrics: dict[str, dict[str, float]]
    subgroups: dict[str, Any]
    predictions: list[dict[str, Any]]
    rotated: list[dict[str, Any]]
    log: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    training: dict[str, Any]
    since: int
    cut: bool = False


@dataclass(frozen=True)
class Record:
    """All arms of one task, split and seed.

    Attributes:
        model: what the run began with, as a name.
        metrics: as in `metrics.json`, with all arms.
        images: id -> file, of the train and the evaluated part, as far as the collection is still there.
        configs: what was given, as (what it is of, its YAML).
        missing: what a reader would look for and the run has not, a sentence each.
        knows_values: whether true values are values; where only orders are known they are places in one.
    """

    task: Task
    model: str
    metrics: dict[str, Any]
    arms: dict[str, Arm]
    images: dict[str, Path]
    configs: list[tuple[str, str]]
    missing: list[str] = field(default_factory=list)
    knows_values: bool = True

    @property
    def main(self) -> Arm:
        """The arm that the report is about: rarl, or the last that was evaluated."""
        return self.arms.get("rarl") or list(self.arms.values())[-1]


def load_record(run: Path) -> Record:
    """A run's folder.

    Raises:
        DataError: if it is none, or nothing has been evaluated there.
        ConfigError: if its `config.yaml` is not what it was.
    """
    return load_records([run])


def load_records(runs: Sequence[Path]) -> Record:
    """Several runs of one task, split and seed as one, such as the cells of a grid; the first run that has an
    arm is taken for it.

    Raises:
        As `load_record`.
    """
    metrics: dict[str, Any] = {}
    arms: dict[str, Arm] = {}
    configs: list[tuple[str, str]] = []
    collection: Collection | None = None
    for run in runs:
        if not (run / "config.yaml").is_file() or not (run / "metrics.json").is_file():
            raise DataError(
                f"{run}: no run, or none that was evaluated: it has a config.yaml and a metrics.json, as "
                "rarl train, rarl demo and rarl reproduce leave them"
            )
        config, found = load_config(run / "config.yaml"), load_metrics(run / "metrics.json")
        if not found["arms"]:
            raise DataError(f"{run}/metrics.json: no arm was evaluated yet")
        metrics = metrics or {**found, "arms": {}}
        metrics["lists"] |= found["lists"]
        lines = _lines(run / "predictions.jsonl")
        for name, numbers in found["arms"].items():
            if name not in arms:
                metrics["arms"][name] = numbers
                arms[name] = _arm(run, config, name, numbers, found, lines)
        configs.append((run.name, (run / "config.yaml").read_text(encoding="utf-8")))
        collection = collection or _collection(config, run)
    trained = [arm for arm in arms.values() if arm.name != "base"]
    logged = any(arm.log for arm in trained)
    split = metrics["split"]
    images, knows_values = {}, True
    if collection is not None and split in collection.splits:
        rows = [*collection.splits.get("train", ()), *collection.split(split)]
        images, knows_values = {row.id: row.path for row in rows}, collection.knows_values(split)
    missing = {
        "The collection is not where it was: its images are not shown.": not images,
        "There are no predictions, so no lists are shown.": not any(arm.predictions for arm in arms.values()),
        "No list was asked in several orders of its pictures.": not any(a.rotated for a in arms.values()),
        "There is no log of the training, so there are no curves.": trained and not logged,
        "Nothing was measured on a validation part in training.": logged
        and not any("validation/score" in log for arm in trained for log in arm.log),
        "No groups of responses were kept while training.": not any(arm.groups for arm in trained),
        "It is not known how long, and with what, the arms were trained.": trained
        and not any(arm.training for arm in trained),
        "The last line of a log or of the groups was cut off, and is left out.": any(a.cut for a in trained),
    }
    model = "embedded base" if config.task.name == "digits" and _is_tiny(config) else Path(config.model).name
    sentences = [sentence for sentence, is_so in missing.items() if is_so]
    return Record(config.task, model, metrics, arms, images, configs, sentences, knows_values)


def _arm(
    run: Path, config: RunConfig, name: str, numbers: Any, found: dict[str, Any], lines: list[dict[str, Any]]
) -> Arm:
    own = [line for line in lines if line.get("arm") == name]
    folder = run / name
    steps = {stage.name: stage.max_steps for stage in config.stages}
    before = 0
    if name != "base" and (config.sft is None or name != config.sft.name):
        # A cell's model has its arm's name, and its last stage made it.
        last = list(steps).index(name) if name in steps else len(steps) - 1
        before = sum(list(steps.values())[:last])
    log, log_cut = _whole_lines(folder / "log.jsonl")
    groups, groups_cut = _whole_lines(folder / GROUPS_FILE)
    return Arm(
        name=name,
        metrics=numbers,
        subgroups=found.get("subgroups", {}).get(name, {}),
        predictions=[line for line in own if "rotation" not in line],
        rotated=[line for line in own if "rotation" in line],
        log=log,
        groups=groups,
        training=next(iter(_lines(folder / TRAINING_FILE, whole=True)), {}),
        since=before,
        cut=log_cut or groups_cut,
    )


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """As `_lines`, without a last line that has no end, and whether there was one."""
    text = _text(path)
    end = text.rfind("\n") + 1
    return _lines(path, text[:end]), bool(text[end:].strip())


def _lines(path: Path, text: str | None = None, *, whole: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line, or one in all; none where it is missing.

    Raises:
        DataError: if a line is no JSON object.
    """
    found = []
    text = _text(path) if text is None else text
    # Not splitlines: other marks that it takes for line ends may stand inside a reply.
    for number, line in enumerate([text] if whole else text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number}: not JSON ({error}); was it changed?") from error
            if not isinstance(value, dict):
                raise DataError(f"{path} line {number}: must be an object, not {line[:40]}")
            found.append(value)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file (UTF-8); was it changed?") from error


def _collection(config: RunConfig, run: Path) -> Collection | None:
    """Where it was or, for a run that was moved with it, in the run's folder."""
    for folder in (config.data, run / "data"):
        if folder is not None and folder.is_dir():
            with suppress(DataError):
                return inspect_collection(folder)[0]  # an image that is gone is no reason to show none
    return None


def _is_tiny(config: RunConfig) -> bool:
    """Whether the run began with the embedded model, of which demo and grids have copies in folders."""
    name = Path(config.model)
    return config.model == "tiny" or name.name == "base" or name.parent.name == "bases"
