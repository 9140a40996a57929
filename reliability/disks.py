"""Disks that damage a file, are full, or lose a folder; and two commands that write one folder."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from forked import Ended, forked
from kills import at_call
from rarl.digests import DIGESTS
from runs import CONFIGS, SECONDS, SMALL, Run

Found = Iterator[tuple[str, str | None]]
"""What was done, and what is wrong with what came of it."""

# ── damaged checkpoints and models ───────────────────────────────────────────────────────────────────────

DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": lambda file: file.unlink(),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)) and None,
}


def flipped(file: Path, bit: int) -> None:
    """Turns one bit of a file over."""
    with open(file, "r+b") as content:
        content.seek(bit // 8)
        old = content.read(1)[0]
        content.seek(bit // 8)
        content.write(bytes([old ^ 1 << bit % 8]))


def _interrupted(root: Path, data: Path) -> tuple[Run, dict[str, str], Path]:
    """A run that was killed before its model folder was written, what it would have left, and its newest
    checkpoint."""
    whole = Run(root / "whole", SMALL, data)
    ended = whole.train()
    assert ended.code == 0, ended.said
    run = Run(root / "interrupted", SMALL, data)
    ended = run.train(before=at_call("rarl.training.arms", "finish", 1, early=True))
    assert ended.code == -signal.SIGKILL, ended.said
    newest = max((run.output / "checkpoints" / "rarl").glob("checkpoint-*"))
    return run, whole.left(), newest


def damaged_checkpoints(root: Path, data: Path) -> Found:
    """Deletes, cuts and zeroes each file of the newest checkpoint in turn, and continues."""
    run, reference, newest = _interrupted(root, data)
    for name in sorted(path.name for path in newest.iterdir() if path.is_file()):
        for how, damage in DAMAGES.items():
            copy = run.copied(root / "damaged")
            damage(copy.output / newest.relative_to(run.output) / name)
            yield f"{name} {how}", _continued(copy, reference)


def flipped_bits(root: Path, data: Path, times: int, seed: int = 0) -> Found:
    """Turns one bit over in weights and optimizer of a checkpoint, once also as if its writing had been cut
    off before its digests, which must be passed over; and in the weights of a finished model, which must be
    refused."""
    generator = random.Random(f"{seed}:bits")
    run, reference, newest = _interrupted(root, data)
    whole = Run(root / "whole", SMALL, data)
    for name in ("model.safetensors", "optimizer.pt"):
        for cut_off in [False] * times + [True]:
            copy = run.copied(root / "flipped")
            file = copy.output / newest.relative_to(run.output) / name
            bit = generator.randrange(8 * file.stat().st_size)
            flipped(file, bit)
            if cut_off:
                (file.parent / DIGESTS).unlink()
            wrong = _continued(copy, reference)
            yield f"bit {bit} of the checkpoint's {name}{', without digests' * cut_off}", wrong
    for _ in range(times):
        copy = whole.copied(root / "flipped")
        file = copy.output / "rarl" / "model.safetensors"
        bit = generator.randrange(8 * file.stat().st_size)
        flipped(file, bit)
        image = next((data / "test").glob("*.png"))
        ended = command("rank", str(file.parent), str(image))
        found = ended.in_one_sentence and "model.safetensors is not what was written" in ended.said
        wrong = None if found else f"exit {ended.code}: {ended.said[-300:]}"
        yield f"bit {bit} of the model's weights", wrong


def _continued(run: Run, reference: dict[str, str]) -> str | None:
    ended = run.train(resume=True)
    if ended.code != 0 or "Traceback" in ended.said:
        return f"exit {ended.code}: {ended.said[-300:]}"
    return run.difference(reference)


def command(*words: str, seconds: float = SECONDS, before: Callable[[], object] = lambda: None) -> Ended:
    """`rarl` with these words in a process of its own."""

    def work() -> None:
        from rarl.cli import main

        before()
        main(list(words))

    return forked(work, seconds=seconds)


# ── full disks ───────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[Path]:
    """A disk in memory with so much room; only root may make one."""
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def full_disks(root: Path, data: Path) -> Found:
    """Trains on a disk that is full sooner or later, makes room and continues; then evaluates and reports
    where no room is left."""
    whole = Run(root / "whole", CONFIGS["SFT and two stages"], data)
    ended = whole.train()
    assert ended.code == 0, ended.said
    reference = whole.left()
    for kilobytes in (40, 1000, 4000, 6000, 9000, 12000):
        with small_disk(root / "disk", kilobytes) as disk:
            run = Run(disk / "r", CONFIGS["SFT and two stages"], data)
            run.write()
            first = run.train()
            wrong = _not_said(first)
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            wrong = wrong or _continued(run, reference)
        yield f"train with {kilobytes:,} kB", wrong
    for words in (
        ["evaluate", str(whole.output / "rarl"), str(data), "--images", "1", "--out"],
        ["report"],
    ):
        with small_disk(root / "disk", 4000) as disk:
            copy = disk / "copy"
            copy.mkdir()
            for path in whole.output.iterdir():
                if path.is_file():
                    shutil.copy(path, copy)
            _fill(disk)
            ended = command(*words, str(disk / "new" if words[0] == "evaluate" else copy))
            left = sorted(path.name for path in copy.iterdir() if path.name.startswith("report"))
            wrong = _not_said(ended) or (f"half-written: {left}" if left else None)
        yield f"{words[0]} with none", wrong


def _fill(disk: Path) -> None:
    """Leaves no room on a disk."""
    try:
        with open(disk / "filling", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


def _not_said(ended: Ended) -> str | None:
    said = ended.in_one_sentence and "the disk is full" in ended.said
    return None if said else f"exit {ended.code}: {ended.said[-400:]}"


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────


def removed_folders(root: Path, data: Path, seed: int = 0) -> Found:
    """Removes the output folder while a run is at work: it must end with an error."""
    generator = random.Random(f"{seed}:removed")
    moments = (
        ("in a step", "transformers:Trainer", "training_step", generator.randint(1, 4), True),
        ("in a checkpoint's writing", "torch", "save", generator.randint(1, 12), False),
        ("in the final save", "rarl.training.arms", "finish", 1, True),
        ("after the final save", "rarl.training.arms", "finish", 1, False),
        ("before an evaluation", "rarl.training.run", "evaluate_arm", generator.randint(1, 2), True),
        ("after the last evaluation", "rarl.training.run", "evaluate_arm", 2, False),
    )
    for number, (what, module, name, count, early) in enumerate(moments):
        run = Run(root / f"removed-{number}", SMALL, data)
        remove = partial(shutil.rmtree, run.output)
        ended = run.train(before=at_call(module, name, count, early=early, act=remove))
        wrong = None if ended.in_one_sentence else f"exit {ended.code}: {ended.said[-300:]}"
        yield f"removed {what}, exit {ended.code}", wrong


def two_prepare(root: Path, data: Path, times: int) -> Found:
    """Two `rarl data prepare` of one folder at once: one writes it, the other says why it doesn't."""
    from multiprocessing import get_context

    for count in range(times):
        out = root / f"two-{count}"
        context = get_context("fork")
        results = context.Queue()

        def prepare(out: Path = out, results: "object" = results) -> None:
            ended = command("data", "prepare", "digits", str(out), seconds=120)
            results.put((ended.code, ended.said))  # type: ignore[attr-defined]

        both = [context.Process(target=prepare) for _ in range(2)]
        for process in both:
            process.start()
        found = sorted([results.get(timeout=150) for _ in both], key=lambda one: one[0] != 0)
        for process in both:
            process.join()
        (first, _), (second, said) = found
        one_told = second in (1, 2) and said.count("error: ") == 1 and "Traceback" not in said
        checked = command("data", "check", str(out), seconds=120)
        good = first == 0 and one_told and checked.code == 0
        yield f"two at once, exits {first} and {second}", None if good else f"{found}, check {checked.code}"
