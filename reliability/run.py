"""Measures what docs/reliability.md says, and writes its table: `python reliability/run.py`. Each row is a
function of another file that yields what was tried, and what is wrong with it; a figure is how many were
right. `--share 0.1` tries a tenth of those that are drawn by chance, `--rows kills,yaml` some rows alone."""

import argparse
import inspect
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import disks
import kills
import processes
import strange
from runs import few_digits

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- table -->", "<!-- end of the table -->"

Row = Callable[..., Iterator[tuple[str, str | None]]]

# What is counted, how, and how many times where chance decides.
ROWS: dict[str, tuple[str, Row, int]] = {
    "kills": ("killed with SIGKILL at any moment and continued: equal to the bit", kills.kills, 40),
    "two": ("the same with two processes, DDP and FSDP2", processes.kills_of_two, 8),
    "texts": ("steps of runs on one process and on two: the same texts", processes.same_texts, 3),
    "sigterm": (
        "asked to stop by SIGTERM: exit 143, it says how to continue, continued equal to the bit",
        partial(kills.stops, number=signal.SIGTERM),
        10,
    ),
    "sigint": (
        "asked to stop by Ctrl-C: exit 130, the same",
        partial(kills.stops, number=signal.SIGINT),
        10,
    ),
    "damages": (
        "each file of the newest checkpoint deleted, cut and zeroed: continued equal to the bit",
        disks.damaged_checkpoints,
        0,
    ),
    "bits": ("one bit of weights or optimizer turned over: found", disks.flipped_bits, 4),
    "full": ("a full disk in train, evaluate, report: one sentence, continued equal", disks.full_disks, 0),
    "prepare": ("two `data prepare` of one folder: one writes, one says so", disks.two_prepare, 10),
    "removed": ("the output folder removed in the run: an error", disks.removed_folders, 0),
    "connections": ("commands and `RARLTrainer` with local folders: no connection", strange.connections, 0),
    "pickles": ("files of a finished model folder: no pickle, readable as others", strange.pickles, 0),
    "folders": (
        "model folders of strangers: no code run, one sentence within 10 s of computing",
        strange.folders,
        0,
    ),
    "yaml": ("YAML that is a trap: one sentence, or read, within 1 s of computing", strange.yaml, 0),
}


def measure(name: str, share: float) -> tuple[int, int, float]:
    """How many of a row's tries were right, how many there were, and how many seconds they took."""
    _, row, times = ROWS[name]
    given = {"times": max(1, round(times * share))} if "times" in inspect.signature(row).parameters else {}
    right = tried = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for what, wrong in row(root=root, data=few_digits(root), **given):
            tried += 1
            right += wrong is None
            print(
                "  right " if wrong is None else "  WRONG ",
                what,
                "" if wrong is None else f": {wrong}",
                flush=True,
            )
    return right, tried, time.monotonic() - began


def write_table(results: dict[str, tuple[int, int, float]]) -> None:
    """Puts the rows into docs/reliability.md, in place of those measured before."""
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^(\| `(\w+)` \|.*)$", page, re.MULTILINE)
    before = {name: line for line, name in rows}
    for name, (right, tried, seconds) in results.items():
        before[name] = f"| `{name}` | {ROWS[name][0]} | {right} of {tried} | {seconds / 60:.1f} min |"
    lines = ["| row | what | right | took |", "|---|---|---:|---:|"]
    lines += [before[name] for name in ROWS if name in before]
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:start] + "\n" + "\n".join(lines) + "\n" + page[end:], encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", default=",".join(ROWS), help="names of rows, with commas between them")
    options.add_argument("--share", type=float, default=1.0, help="of the tries that chance decides")
    options.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    given = options.parse_args()
    _import_all()
    results = {}
    for name in given.rows.split(","):
        print(f"{name}: {ROWS[name][0]}", flush=True)
        results[name] = measure(name, given.share)
        right, tried, seconds = results[name]
        print(f"{name}: {right} of {tried} right, {seconds:.0f} s\n", flush=True)
        if given.write:
            write_table({name: results[name]})
    print(f"{platform.platform()}, {os.cpu_count()} cores")
    sys.exit(any(right < tried for right, tried, _ in results.values()))


def _import_all() -> None:
    """What the commands import, so that each process in which something is tried has it already. Nothing is
    computed here: the threads of torch would not live on in those processes."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
    import peft  # noqa: F401
    import torch

    import rarl.cli
    import rarl.data.check
    import rarl.evaluation.evaluate
    import rarl.ranking.ranker
    import rarl.report.page
    import rarl.training.run  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
