"""The two trainers of `step_cost.py` side by side: each in a process of its own, so that its peak memory is
its own, and never both at work. The process above them loads no torch; it makes the prompts for both."""

import dataclasses
import os
import platform
import sys
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from rarl.data.collection import Row
from rarl.data.groups import Group, draw_groups
from rarl.data.sources.digits import prepare_digits

KINDS = ("stock", "ours")
PATCH = 28  # pixels; the side of an image that is one token
IMAGES = 100  # files that groups are drawn from


def measure(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One row, and what the trainers found out about device and model.

    The two take their steps in turn, and one waits while the other is at work. With `apart` the second starts
    when the first is through.

    Args:
        job: a point, the settings, and `model`, what `load_model` is to be given.

    Raises:
        SystemExit: if a trainer fails.
    """
    scores: dict[str, dict[str, Any]] = {}
    steps: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        # One step more than is taken: before the last one a loader would have nothing to read.
        count = job["prompts"] * (job["warmup"] + job["repeats"] + 1)
        rows = write_images(folder / "images", PATCH * round(job["tokens"] ** 0.5))
        groups = draw_groups(rows, job["images"], count, job["seed"])
        for kinds in [(kind,) for kind in KINDS] if job["apart"] else [KINDS]:
            with ExitStack() as stack:
                workers = {
                    kind: stack.enter_context(Worker(kind, job, groups, folder / kind)) for kind in kinds
                }
                facts = [worker.answer() for worker in workers.values()]
                for kind, worker in workers.items():
                    recorded = scores["stock"]["responses"] if scores else None
                    scores[kind] = worker.ask("score", recorded)
                for _ in range(job["warmup"] + job["repeats"]):
                    for kind, worker in workers.items():
                        steps[kind].append(worker.ask("step"))
    facts[-1]["device_name"] = facts[-1]["device_name"] or _processor()
    return _row(job, scores, steps), facts[-1]


def write_images(folder: Path, side: int) -> list[Row]:
    """Rows of digits whose files, in `folder`, are `side` pixels wide and high."""
    rows = []
    for row in prepare_digits(folder / "digits").split("train")[:IMAGES]:
        path = folder / f"{row.id}.png"
        with Image.open(row.path) as image:
            image.resize((side, side), Image.Resampling.BICUBIC).save(path)
        rows.append(dataclasses.replace(row, path=path))
    return rows


class Worker:
    """A trainer in its own process, which does nothing but what it is asked for.

    Linux lets a new process begin with the peak memory of the one that starts it: this one must stay small.
    """

    def __init__(self, kind: str, job: dict[str, Any], groups: list[Group], folder: Path) -> None:
        self._kind = kind
        spawn = get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        arguments = (kind, job, groups, folder, theirs)
        self._process = spawn.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, error: Any, *others: Any) -> None:
        if error is None:
            self._connection.send(("stop", None))
        else:
            self._process.terminate()
        self._process.join()

    def ask(self, word: str, given: Any = None) -> Any:
        """Says "score" or "step", and waits until it is done."""
        with suppress(BrokenPipeError):  # it has ended, and the answer says how
            self._connection.send((word, given))
        return self.answer()

    def answer(self) -> Any:
        """The next answer; the first comes unasked, when the trainer is ready."""
        try:
            word, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            sys.exit(f"{self._kind}: its process ended with code {self._process.exitcode}; out of memory?")
        if word == "error":
            sys.exit(f"{self._kind}: {answer}")
        return answer


def _work(*arguments: Any) -> None:
    from step_cost_turns import work  # torch is loaded in this process, and not in its parent

    work(*arguments)


def _row(
    job: dict[str, Any], scores: dict[str, dict[str, Any]], steps: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    stock, ours = (_side(steps[kind], job["warmup"]) for kind in KINDS)
    prompt, count, new = scores["ours"]["prompt_tokens"], job["generations"], job["new_tokens"]
    return {
        "images": job["images"],
        "generations": count,
        "tokens": job["tokens"],
        "new_tokens": new,
        "prompts": job["prompts"],
        "prompt_tokens": prompt,
        "stock": stock,
        "ours": ours,
        "ratios": {
            part: round(stock[part]["median"] / ours[part]["median"], 3)
            for part in ("generation", "reference", "update", "step")
        },
        "memory_ratio": round(ours["memory_mib"] / stock["memory_mib"], 4),
        # In one pass over a prompt's responses: tokens through the language model, stock over ours, and how
        # often each image goes through the vision tower.
        "token_bound": round(count * (prompt + new) / (prompt - 1 + count * new), 3),
        "image_passes": {"stock": count, "ours": 1},
        "max_logprob_difference": float(
            np.abs(scores["stock"]["log_probs"] - scores["ours"]["log_probs"]).max()
        ),
    }


def _side(steps: list[dict[str, Any]], warmup: int) -> dict[str, Any]:
    """Seconds of each part, and the peak of memory over all steps."""
    measured = [step["seconds"] for step in steps[warmup:]]
    spreads = {}
    for part in measured[0]:
        values = [seconds[part] for seconds in measured]
        spread = {"median": median(values), "min": min(values), "max": max(values)}
        spreads[part] = {name: round(value, 6) for name, value in spread.items()}
    return {**spreads, "memory_mib": round(steps[-1]["memory_mib"], 1)}


def _processor() -> str:
    """The name of the processor, as far as the system says it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
