"""What a run, or the cells of a grid, left on disk, read once for a report. Only the metrics have to be
there: an older run, an untrained arm, or images that are gone make a report shorter, but never fail."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.data.collection import Collection, inspect_collection
from rarl.errors import DataError
from rarl.evaluation.prediction import Prediction
from rarl.evaluation.results import load_metrics, read_predictions
from rarl.files import read_jsonl
from rarl.method.tasks import Task
from rarl.paper.arms import PAPER_ARMS
from rarl.scoring.scoring import Scoring, read_scoring
from rarl.training.callbacks import GROUPS_FILE, TRAINING_FILE
from rarl.training.config import RunConfig, load_config

CHANGED = "was it changed?"
EARLIER_KEYS = {"policy/entropy": "entropy", "policy/kl": "kl"}
"""What a log of an earlier version has in place of the numbers of the policy's own responses."""


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        predictions: without those of rotated lists, which are in `rotated`.
        log, groups: the lines of `log.jsonl` and `groups.jsonl` in the model's folder; empty for an arm that
            was not trained.
        training: its `training.json`; empty where there is none.
        scoring: how it was chosen to score; None where that is not known.
        since: how many steps of training the model had that the arm's own stage started from.
        cut: whether the last line of `log` or `groups` was cut off, and is left out here.
    """

    name: str
    metrics: dict[str, dict[str, float]]
    subgroups: dict[str, Any]
    predictions: list[Prediction]
    rotated: list[Prediction]
    log: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    training: dict[str, Any]
    scoring: Scoring | None
    since: int
    cut: bool = False


@dataclass(frozen=True)
class Record:
    """All arms of one task, split and seed.

    Attributes:
        model: the name of the model that the run began with.
        metrics: as in `metrics.json`, with all arms.
        images: id -> file, of the train and the evaluated split; empty if the collection is gone.
        configs: (name of the run, its YAML), for each run.
        missing: what a reader would look for and the run lacks, a sentence each.
        knows_values: whether the true values are values; if only orders are known, they are places in one.
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
    """Reads a run's folder.

    Raises:
        DataError: if it is no run, or nothing has been evaluated there.
        ConfigError: if its `config.yaml` is no longer what a run wrote.
    """
    return load_records([run])


def load_records(runs: Sequence[Path]) -> Record:
    """Reads several runs of one task, split and seed as one, such as the cells of a grid. An arm is taken
    from the first run that has it.

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
        file = run / "predictions.jsonl"
        lines = list(read_predictions(file)) if file.is_file() else []
        for name, numbers in found["arms"].items():
            if name not in arms:
                metrics["arms"][name] = numbers
                arms[name] = _read_arm(run, config, name, numbers, found, lines)
        configs.append((run.name, (run / "config.yaml").read_text(encoding="utf-8")))
        collection = collection or _find_collection(config, run)
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
        "No distributions over all answers were asked for, so there are no expected values.": not any(
            line.expected for arm in arms.values() for line in arm.predictions
        ),
        "No list was asked in several orders of its pictures.": not any(a.rotated for a in arms.values()),
        "There is no log of the training, so there are no curves.": trained and not logged,
        "Nothing was measured on a validation split in training.": logged
        and not any("validation/score" in log for arm in trained for log in arm.log),
        "Entropy and KL are of injected responses, too: an earlier version logged no other.": any(
            log.get("mutation/fraction") and "entropy" in log and "policy/entropy" not in log
            for arm in trained
            for log in arm.log
        ),
        "No groups of responses were kept while training.": not any(arm.groups for arm in trained),
        "It is not known how long, and with what, the arms were trained.": trained
        and not any(arm.training for arm in trained),
        "The last line of a log or of the groups was cut off, and is left out.": any(a.cut for a in trained),
    }
    model = "embedded base" if config.task.name == "digits" and _is_tiny(config) else Path(config.model).name
    sentences = [sentence for sentence, is_so in missing.items() if is_so]
    return Record(config.task, model, metrics, arms, images, configs, sentences, knows_values)


def _read_arm(
    run: Path, config: RunConfig, name: str, numbers: Any, found: dict[str, Any], lines: list[Prediction]
) -> Arm:
    own = [line for line in lines if line.arm == name]
    folder = run / name
    made_by = next((stage for stage in config.stages if stage.name == name), None)
    baselines = {arm.name for arm in PAPER_ARMS.values() if arm.sft}
    if made_by is None and name != "base" and name not in baselines:
        made_by = config.stages[-1]  # the model of a grid's cell has the arm's name; the last stage made it
    before = 0 if made_by is None else config.steps_before(made_by)
    log, log_cut = _whole_lines(folder / "log.jsonl")
    groups, groups_cut = _whole_lines(folder / GROUPS_FILE)
    return Arm(
        name=name,
        metrics=numbers,
        subgroups=found.get("subgroups", {}).get(name, {}),
        predictions=[line for line in own if not line.is_rotated],
        rotated=[line for line in own if line.is_rotated],
        log=log,
        groups=groups,
        training=_read_object(folder / TRAINING_FILE),
        scoring=read_scoring(folder),
        since=before,
        cut=log_cut or groups_cut,
    )


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The objects of a JSONL file, without a last line that has no end, and whether there was such a line;
    none where the file is missing.

    Raises:
        DataError: if another line is no JSON object.
    """
    if not path.is_file():
        return [], False
    *whole, rest = path.read_bytes().split(b"\n")
    errors: list[DataError] = []
    found = [line for _, line in read_jsonl(path, mend=CHANGED, fault=errors.append)]
    cut = bool(rest.strip())
    if cut:  # its last line is either among the errors or among what was found
        is_error = errors and str(errors[-1]).startswith(f"{path} line {len(whole) + 1}: ")
        (errors if is_error else found).pop()
    if errors:
        raise errors[0]
    return found, cut


def _read_object(path: Path) -> dict[str, Any]:
    """The one object of a JSON file; empty where it is missing."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        value = json.loads(text) if text.strip() else {}
    except ValueError as error:  # no UTF-8, or no JSON
        raise DataError(f"{path}: not JSON ({error}); {CHANGED}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must be an object, not {text[:40]}")
    return value


def _find_collection(config: RunConfig, run: Path) -> Collection | None:
    """The run's collection: where it was or, if the run was moved together with it, in the run's folder."""
    for folder in (config.data, run / "data"):
        if folder is not None and folder.is_dir():
            with suppress(DataError):
                return inspect_collection(folder)[
                    0
                ]  # an image that is gone is no reason to show none of them
    return None


def _is_tiny(config: RunConfig) -> bool:
    """Whether the run began with the embedded model; demo and grids have copies of it in their folders."""
    name = Path(config.model)
    return config.model == "tiny" or name.name == "base" or name.parent.name == "bases"
