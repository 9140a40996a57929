"""Runs that are killed, or asked to stop, at some moment: continued, they must leave what a run leaves that
nobody disturbed, to the bit."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runs import CONFIGS, Run

# ── moments ──────────────────────────────────────────────────────────────────────────────────────────────


def after(seconds: float, number: int) -> Callable[[], None]:
    """Sends a signal to the process so many seconds after this is called in it."""

    def wait() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), number)

    return lambda: threading.Thread(target=wait, daemon=True).start()


def kill() -> None:
    """Kills the process that this is called in."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(
    module: str, name: str, count: int, *, early: bool, act: Callable[[], object] = kill
) -> Callable[[], None]:
    """Does something, such as killing the process, at the given call of a function, before it or after it.

    Args:
        module: such as `torch`, or with a class `transformers:Trainer`.
    """

    def arrange() -> None:
        from importlib import import_module

        path, _, kind = module.rpartition(":")
        owner: Any = getattr(import_module(path), kind) if path else import_module(module)
        original, calls = getattr(owner, name), [0]

        def counted(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if early and calls[0] == count:
                act()
            result = original(*given, **named)
            if not early and calls[0] == count:
                act()
            return result

        setattr(owner, name, counted)

    return arrange


def moments(generator: random.Random, seconds: float) -> Iterator[tuple[str, Callable[[], None]]]:
    """Moments to be killed at, for ever: each with what it is called."""
    places = (
        ("in a checkpoint's writing", "torch", "save", 12, True),
        ("in a checkpoint's writing", "torch", "save", 12, False),
        ("before its digests", "rarl.training.keeping.sealing", "write_digests", 4, True),
        ("at a stage's border", "rarl.training.run", "train_stage", 1, True),
        ("in the final save", "rarl.training.arms", "finish", 1, True),
        ("after the final save", "rarl.training.arms", "finish", 1, False),
        ("in an evaluation", "rarl.training.run", "evaluate_arm", 2, False),
        ("in a file's writing", "os", "replace", 20, True),
    )
    while True:
        yield "at any moment", after(generator.uniform(0.05, 0.9) * seconds, signal.SIGKILL)
        what, module, name, most, early = generator.choice(places)
        yield what, at_call(module, name, generator.randint(1, most), early=early)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────


def kills(root: Path, data: Path, times: int, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Kills runs, twice in a row where chance has it so, and continues them. Yields what was done, and what
    is wrong with it."""
    generator = random.Random(f"{seed}:kills")
    for name, config in CONFIGS.items():
        whole = Run(root / "whole", config, data)
        ended = whole.train()
        if ended.code != 0:
            yield f"{name}, undisturbed", ended.said[-500:]
            continue
        reference = whole.left()
        arranged = moments(generator, ended.seconds)
        for number in range(-(-times // len(CONFIGS))):
            run = Run(root / f"killed-{number}", config, data)
            what, before = next(arranged)
            first = run.train(before=before)
            while first.code == 0:  # it had ended, or never came to that place
                remove(run)
                what, before = next(arranged)
                first = run.train(before=before)
            if first.code == -signal.SIGKILL and generator.random() < 0.3:
                run.train(resume=True, before=after(generator.uniform(0, 1) * ended.seconds, signal.SIGKILL))
            last = run.train(resume=True)
            wrong = None if last.code == 0 else f"exit {last.code}: {last.said[-500:]}"
            yield f"{name}: killed {what} (exit {first.code})", wrong or run.difference(reference)
            remove(run)
        remove(whole)


def stops(root: Path, data: Path, number: int, times: int, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Asks runs to stop by a signal and continues them. Yields what was done, and what is wrong with it."""
    generator = random.Random(f"{seed}:{number}")
    names = list(CONFIGS)
    references: dict[str, tuple[dict[str, str], float]] = {}
    for count in range(times):
        name = names[count % len(names)]
        if name not in references:
            whole = Run(root / "whole", CONFIGS[name], data)
            ended = whole.train()
            references[name] = (whole.left(), ended.seconds)
            remove(whole)
        reference, seconds = references[name]
        run = Run(root / f"stopped-{count}", CONFIGS[name], data)
        first = run.train(before=after(generator.uniform(0.1, 0.9) * seconds, number))
        last = run.train(resume=True)
        wrong = None
        if first.code not in (128 + number, 0):
            wrong = f"exit {first.code}: {first.said[-300:]}"
        elif first.code and "continue with: rarl train" not in first.said:
            wrong = f"not said: {first.said[-300:]}"
        elif last.code != 0:
            wrong = f"exit {last.code} when continued: {last.said[-300:]}"
        where = "in a step" if "a checkpoint of step" in first.said else "between steps"
        yield f"{name}, {where}, exit {first.code}", wrong or run.difference(reference)
        remove(run)


def remove(run: Run) -> None:
    """Removes all that there is of a run."""
    import shutil

    shutil.rmtree(run.root, ignore_errors=True)
