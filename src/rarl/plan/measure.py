"""A few real steps of a run on this machine: seconds a step of each arm, and the peak of memory. The arms
are trained on the run's prompts, each from the run's model, in a folder that is removed. What they learn is
thrown away."""

import gc
import json
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console

from rarl.training.arms import train_sft, train_stage
from rarl.training.checking import check_and_begin
from rarl.training.config import RunConfig, config_from, stage_groups
from rarl.training.keeping.checkpoints import is_finished

LEAST_STEPS = 3  # the first of them is not counted


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        seconds: of a step, by arm: the mean without the first step.
        peak: bytes of each arm at its most: of tensors on a GPU, and on a CPU what the process took beyond
            what it held before. On a CPU an arm that takes less than one before it has what that one took.
        device: where.
    """

    seconds: dict[str, float]
    peak: dict[str, float]
    device: str


def measure(config: RunConfig, console: Console) -> Measured:
    """Trains each arm for one step more than it has numbers of images, and at least `LEAST_STEPS`.

    Raises:
        ConfigError, DataError, ModelError: for whatever the run itself couldn't be begun with.
    """
    gpu = torch.cuda.is_available()
    seconds: dict[str, float] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="rarl-plan-") as folder:
        short = _short(config, Path(folder) / "run")
        collection = check_and_begin(short, resume=False)
        rows = collection.split("train")
        drawn = [stage_groups(short, stage, rows) for stage in short.stages]
        before = _held()

        def done(arm: str) -> None:
            assert is_finished(short.output / arm)
            seconds[arm] = _seconds_of_a_step(short.output / arm)
            peaks[arm] = float(torch.cuda.max_memory_allocated()) if gpu else _most() - before
            gc.collect()

        for stage, groups in zip(short.stages, drawn, strict=True):
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            train_stage(short, stage, short.model, groups, short.output / stage.name, console)
            done(stage.name)
        if short.sft is not None:
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            everything = [group for groups in drawn for group in groups]
            train_sft(short, everything, short.output / short.sft.name, console)
            done(short.sft.name)
    return Measured(seconds, peaks, torch.cuda.get_device_name() if gpu else "CPU")


def _short(config: RunConfig, output: Path) -> RunConfig:
    """The run with a few steps of each arm, which are all logged, and without checkpoints and validation."""
    mapping = config.to_dict()
    watched = {"logging_steps": 1, "save_strategy": "no"}
    for stage in mapping["stages"]:
        stage["max_steps"] = max(len(stage["images"]) + 1, LEAST_STEPS)
        stage["trainer"] = {**stage["trainer"], **watched}
    if mapping["sft"] is not None:
        mapping["sft"]["max_steps"] = LEAST_STEPS
        mapping["sft"]["trainer"] = {**mapping["sft"]["trainer"], **watched}
    mapping["trainer"] = {**mapping["trainer"], **watched}
    return config_from(mapping | {"output": str(output), "validation": None}, "the run to be measured")


def _seconds_of_a_step(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line["step_time"] for line in lines if "step_time" in line]
    if len(steps) > 1:
        return mean(steps[1:])
    return float(lines[-1]["train_runtime"]) / float(lines[-1]["step"])  # SFT times the whole alone


def _held() -> float:
    """Bytes that this process holds in memory."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return _most()


def _most() -> float:
    """Bytes that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
