"""Short runs of the embedded model, which are stopped, damaged and continued elsewhere; and what such a run
leaves, to be compared to the bit. Times and counts that a continued run can't know are left out."""

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from forked import Ended, Going, forked

SECONDS = 900
"""The most that a run may take, on a machine with other work."""

_TRAINER = {
    "prompts_per_step": 2,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "max_completion_length": 48,
    "logging_steps": 2,
    "save_steps": 3,
}
_REGRESSION = {"name": "regression", "images": [1], "weights": {"regression": 1, "ranking": 0, "format": 1}}
_RARL = {"name": "rarl", "images": [1, 2], "mutation": {"k": 2, "probability": 0.8}}
_EVALUATION = {"images": [2], "lists": 4, "position_lists": 0, "max_new_tokens": 16}

CONFIGS: dict[str, dict[str, Any]] = {
    "SFT and two stages": {
        "sft": {"trainer": {"save_steps": 1}},
        "stages": [_REGRESSION | {"max_steps": 4}, _RARL | {"max_steps": 7}],
    },
    "LoRA": {"lora": {"r": 4, "alpha": 8}, "stages": [_RARL | {"max_steps": 7}]},
    "the best of several validations": {
        "stages": [_RARL | {"max_steps": 8}],
        "validation": {"every": 2, "prompts": 2, "images": [1, 2], "keep": "best", "split": "validation"},
    },
}
SMALL = {"stages": [_RARL | {"max_steps": 4, "trainer": {"save_steps": 1}}]}
"""For what is tried with many files: a checkpoint each step, the last two of which are kept."""

_VARYING = ("step_time", "runtime", "per_second", "num_tokens", "effort/seconds")


@dataclass(frozen=True)
class Run:
    """A run: its YAML and its folder, both below `root`."""

    root: Path
    config: Mapping[str, Any]
    data: Path

    @property
    def output(self) -> Path:
        return self.root / "run"

    @property
    def yaml(self) -> Path:
        return self.root / "run.yaml"

    def write(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        given = {"task": "digits", "model": "tiny", "data": str(self.data), "output": str(self.output)}
        common = {"trainer": _TRAINER, "evaluation": _EVALUATION}
        self.yaml.write_text(json.dumps(given | common | dict(self.config)))  # JSON is YAML

    def train(self, *, resume: bool = False, before: Callable[[], object] = lambda: None) -> Ended:
        """`rarl train` in a process of its own, in which `before` is called first."""
        self.write()

        def work() -> None:
            from rarl.cli import main

            before()
            main(["train", str(self.yaml), *(["--resume"] if resume else [])])

        return forked(work, seconds=SECONDS)

    def train_in_two(self, engine: str, *, resume: bool = False, seconds: float = SECONDS) -> list[Ended]:
        """The same in two processes that train together on the CPU.

        Args:
            engine: `DDP` or `FSDP2`.
            seconds: after which both are killed.
        """
        self.write()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def work(rank: int) -> None:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ["ACCELERATE_USE_CPU"] = "true"
            if engine == "FSDP2":
                sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
                import_module("fsdp").use_fsdp()  # accelerate leaves it out on a CPU
            import_module("rarl.cli").main(["train", str(self.yaml), *(["--resume"] if resume else [])])

        both = [Going(partial(work, rank)) for rank in (0, 1)]
        return [process.ended(seconds=seconds) for process in both]

    def copied(self, root: Path) -> "Run":
        """The same run in another place, with what is there of it."""
        shutil.rmtree(root, ignore_errors=True)
        other = Run(root, self.config, self.data)
        shutil.copytree(self.output, other.output)
        config = other.output / "config.yaml"
        config.write_text(config.read_text().replace(str(self.output), str(other.output)))
        return other

    def left(self) -> dict[str, str]:
        """Digests of all that a finished run leaves: weights, logs, metrics and predictions."""
        found = {}
        for folder in sorted(path.parent for path in self.output.glob("*/training.json")):
            found[f"{folder.name}: weights"] = _digest((folder / "model.safetensors").read_bytes())
            lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            constant = [
                {key: value for key, value in line.items() if not any(word in key for word in _VARYING)}
                for line in lines[:-1]  # the last is of the whole training
            ]
            found[f"{folder.name}: log"] = _digest(json.dumps(constant, sort_keys=True).encode())
        found["metrics.json"] = _digest((self.output / "metrics.json").read_bytes())
        predictions = sorted((self.output / "predictions.jsonl").read_text().splitlines())
        found["predictions.jsonl"] = _digest("\n".join(predictions).encode())
        return found

    def difference(self, reference: Mapping[str, str]) -> str | None:
        """What differs from what another run left; None if nothing does."""
        try:
            mine = self.left()
        except OSError as error:
            return f"not there: {error.filename}"
        wrong = [key for key in {**reference, **mine} if reference.get(key) != mine.get(key)]
        return ", ".join(wrong) or None


def few_digits(root: Path) -> Path:
    """A collection of a few digits, made once."""

    def make() -> None:
        from rarl.data.collection import load_collection
        from rarl.data.sources.digits import prepare_digits
        from rarl.data.writing import write_collection

        whole = prepare_digits(root / "all-digits")
        splits = {
            name: [(row.id, row.value, row.path.read_bytes()) for row in whole.split(name)[:count]]
            for name, count in (("train", 24), ("validation", 10), ("test", 12))
        }
        write_collection(root / "digits", whole.task, splits)
        load_collection(root / "digits")

    if not (root / "digits").is_dir():
        made = forked(make, seconds=SECONDS)
        assert made.code == 0, made.said
    return root / "digits"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
