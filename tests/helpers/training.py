"""What the tests of training set up: arguments of TRL's trainers for a CPU, configurations of short runs, and
how weights and logs of two trainings are compared."""

import io
import json

import torch
from rich.console import Console

from rarl.training.config import config_from

# What the logs of a run and of its twin may differ in: times, and TRL 1.16's count of the tokens that SFT has
# seen, which starts again when a run is continued.
VARYING = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "num_tokens"}
VARYING |= {"effort/seconds"}


def cpu_arguments(folder, **given):
    """Arguments of any of TRL's configurations for a training on the CPU that logs every step and saves
    nothing."""
    return {
        "output_dir": str(folder),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "activation_checkpointing": False,
        "use_cpu": True,
        "shuffle_dataset": False,
        "seed": 0,
        **given,
    }


# A run's `trainer` for steps of a second: two prompts of four responses, and a checkpoint for each step.
SHORT_TRAINER = {
    "prompts_per_step": 2,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "max_completion_length": 64,
    "logging_steps": 1,
    "save_steps": 1,
}


def run_config(data, output, stages, trainer=None, **changes):
    """A run on digits; `trainer` is changed from SHORT_TRAINER, and `changes` replace whole sections."""
    mapping = {
        "task": "digits",
        "model": "tiny",
        "data": None if data is None else str(data),
        "output": str(output),
        "stages": stages,
        "trainer": SHORT_TRAINER | (trainer or {}),
    }
    return config_from(mapping | changes, "test")


def quiet():
    """A console that nobody sees."""
    return Console(file=io.StringIO())


def weights(model):
    """Copies of a model's weights by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one, other, atol=0.0):
    """Whether two models' weights are equal: bit for bit, or within `atol`."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name])
        if atol == 0
        else torch.allclose(one[name], other[name], rtol=0, atol=atol)
        for name in one
    )


def log(folder):
    """The lines of a model folder's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def constant(lines):
    """Lines of a log without what differs between a run and its twin."""
    return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]
