"""Runs the two trainers of `step_cost.py` side by side. Each has a process to itself, so its peak memory is
its own, and the two never work at the same time. Their parent process makes the prompts for both, and loads
no torch."""

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
PATCH = 28  # pixels, the side of an image that becomes one token
IMAGES = 100  # image files that groups are drawn from


def measure(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures one row. Returns it with the facts that the trainers report about device and model.

    The two trainers take their steps in turn, and each waits while the other works. With `apart` the second
    starts after the first has ended.

    Args:
        job: a point, the settings, and `model`, the name or folder for `load_model`.

    Raises:
        SystemExit: if a trainer fails.
    """
    scores: dict[str, dict[str, Any]] = {}
    steps: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        # Prompts for one step more than is taken, so that the loader has a batch to read ahead in the last
        # step.
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
    """Writes digits of `side` x `side` pixels into `folder`, and returns their rows."""
    rows = []
    for row in prepare_digits(folder / "digits").split("train")[:IMAGES]:
        path = folder / f"{row.id}.png"
        with Image.open(row.path) as image:
            image.resize((side, side), Image.Resampling.BICUBIC).save(path)
        rows.append(dataclasses.replace(row, path=path))
    return rows


class Worker:
    """A trainer in a process of its own, which does only what it is asked to do.

    On Linux a new process starts with the peak memory of its parent, so the parent must stay small.
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
        """Asks for "score" or "step", and waits for the answer."""
        with suppress(BrokenPipeError):  # the process has ended; `answer` says how
            self._connection.send((word, given))
        return self.answer()

    def answer(self) -> Any:
        """Returns the next answer. The first one comes unasked, when the trainer is ready."""
        try:
            word, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            sys.exit(f"{self._kind}: its process ended with code {self._process.exitcode}; out of memory?")
        if word == "error":
            sys.exit(f"{self._kind}: {answer}")
        return answer


def _work(*arguments: Any) -> None:
    from step_cost_turns import work  # this process loads torch, and its parent does not

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
        # In one pass over a prompt's responses: tokens through the language model, stock over ours; and how
        # often each image goes through the vision tower.
        "token_bound": round(count * (prompt + new) / (prompt - 1 + count * new), 3),
        "image_passes": {"stock": count, "ours": 1},
        "max_logprob_difference": _furthest(scores["stock"]["log_probs"], scores["ours"]["log_probs"]),
        # How far half precision itself takes stock's log-probs from its own in float32.
        "stock_rounding": _furthest(scores["stock"]["log_probs"], scores["stock"]["float32"]),
    }


def _furthest(some: Any, others: Any) -> float | None:
    """The greatest difference; None where one of the two is not known."""
    return None if others is None else float(np.abs(some - others).max())


def _side(steps: list[dict[str, Any]], warmup: int) -> dict[str, Any]:
    """Seconds of each part of a step, and the peak memory over all steps."""
    measured = [step["seconds"] for step in steps[warmup:]]
    spreads = {}
    for part in measured[0]:
        values = [seconds[part] for seconds in measured]
        spread = {"median": median(values), "min": min(values), "max": max(values)}
        spreads[part] = {name: round(value, 6) for name, value in spread.items()}
    return {**spreads, "memory_mib": round(steps[-1]["memory_mib"], 1)}


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
