"""Runs of two processes that train together: killed and continued, and beside the same run of one."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kills import remove
from runs import CONFIGS, Run

_LONGER = {"name": "rarl", "images": [1, 2], "mutation": {"k": 2, "probability": 0.5}, "max_steps": 20}
_EACH_STEP = {"prompts_per_step": 4, "num_generations": 4, "max_completion_length": 96, "logging_steps": 1}


def kills_of_two(root: Path, data: Path, times: int, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Kills runs of two processes at some moment, both at once, and continues them: DDP and FSDP2 in turn."""
    generator = random.Random(f"{seed}:two")
    config = {"stages": CONFIGS["SFT and two stages"]["stages"]}
    for engine in ("DDP", "FSDP2")[: max(times, 1)]:
        whole = Run(root / "whole", config, data)
        ended = whole.train_in_two(engine)
        if any(process.code != 0 for process in ended):
            yield f"{engine}, undisturbed", "; ".join(process.said[-500:] for process in ended)
            continue
        reference = whole.left()
        for number in range(-(-times // 2)):
            run = Run(root / f"killed-{number}", config, data)
            share = generator.uniform(0.2, 0.9)
            run.train_in_two(engine, seconds=share * ended[0].seconds)
            codes = [process.code for process in run.train_in_two(engine, resume=True)]
            wrong = None if codes == [0, 0] else f"exits {codes}"
            yield f"{engine}: killed after {share:.0%}", wrong or run.difference(reference)
            remove(run)
        remove(whole)


def same_texts(root: Path, data: Path, times: int, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Trains the same on one process and on two, with as many seeds. Yields each step, and what differs of
    the responses to its first prompt and of the rewards of all."""
    for number in range(seed, seed + times):
        config: dict[str, Any] = {"stages": [_LONGER], "trainer": _EACH_STEP, "seed": number}
        one, two = Run(root / f"one-{number}", config, data), Run(root / f"two-{number}", config, data)
        ended = [one.train(), *two.train_in_two("DDP")]
        if any(process.code != 0 for process in ended):
            yield f"seed {number}", "; ".join(process.said[-500:] for process in ended)
            continue
        steps = [_steps(run) for run in (one, two)]
        for step, (mine, theirs) in enumerate(zip(*steps, strict=True), start=1):
            yield f"seed {number}, step {step}", None if mine == theirs else "other texts"
        remove(one)
        remove(two)


def _steps(run: Run) -> list[tuple[Any, Any]]:
    """For each step the responses to its first prompt, and the mean reward of all responses."""
    [folder] = {path.parent for path in run.output.glob("*/groups.jsonl")}
    groups = [json.loads(line) for line in (folder / "groups.jsonl").read_text().splitlines()]
    logs = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rewards = [round(line["policy/reward"], 5) for line in logs if "policy/reward" in line]
    texts = [[response["text"] for response in group["responses"]] for group in groups]
    return list(zip(texts, rewards, strict=True))
