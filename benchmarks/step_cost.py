"""Measures what a GRPO step costs if the responses to a prompt share one prompt pass (RARLTrainer with
`shared_prefix="on"`), against the stock `trl.GRPOTrainer`: time, peak memory, and the difference in
log-probs.

    python benchmarks/step_cost.py --images 8 --generations 8 --tokens 64 --new-tokens 96 --out step_cost.json

README.md in this folder says how it is measured. What the models learn is not looked at."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rarl.files import write_text
from step_cost_pair import measure
from step_cost_report import draw, report

POINT = ("images", "generations", "tokens", "new_tokens")
SWEEP = {
    "images": (1, 2, 4, 8, 16),
    "generations": (4, 8, 16),
    "tokens": (16, 64),
    "new_tokens": (32, 96, 192),
}
SETTINGS = (
    "size",
    "device",
    "dtype",
    "threads",
    "prompts",
    "micro_batch",
    "repeats",
    "warmup",
    "apart",
    "seed",
)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses and checks the options. If one is wrong, argparse says so and ends the program."""
    parser = argparse.ArgumentParser(
        prog="step_cost.py",
        description="A GRPO step with one prompt pass for a group, against trl's own.",
    )
    parser.add_argument("--images", type=int, default=8, help="images a prompt (8)")
    parser.add_argument("--generations", type=int, default=8, help="responses a prompt, G (8)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens an image, a square number (64)")
    parser.add_argument("--new-tokens", type=int, default=96, help="tokens a response (96)")
    parser.add_argument("--prompts", type=int, default=8, help="prompts an optimizer step (8)")
    parser.add_argument("--micro-batch", type=int, help="prompts a forward pass (all of a step's)")
    parser.add_argument("--repeats", type=int, default=5, help="steps measured (5)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before, not measured (1)")
    parser.add_argument("--threads", type=int, default=_cores(), help="CPU threads (all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--size", choices=("tiny", "3b"), default="tiny", help="the embedded model, or random weights"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="what passes are computed in; bfloat16 is bf16=True in both trainers (float32; 3b: bfloat16)",
    )
    parser.add_argument("--apart", action="store_true", help="one trainer after the other, not in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", action="store_true", help="vary each number; plot and table")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    for name, least in {
        "images": 1,
        "generations": 2,
        "tokens": 1,
        "new_tokens": 1,
        "prompts": 1,
        "repeats": 1,
        "warmup": 1,  # the first step reads two batches
        "threads": 1,
        "seed": 0,
    }.items():
        if (given := getattr(options, name)) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, not {given}")
    if math.isqrt(options.tokens) ** 2 != options.tokens:
        parser.error(f"--tokens must be a square number such as 16 or 64, not {options.tokens}")
    if options.micro_batch is None:
        options.micro_batch = options.prompts
    if options.micro_batch < 1 or options.prompts % options.micro_batch:
        parser.error(f"--micro-batch {options.micro_batch} must divide --prompts {options.prompts}")
    if options.dtype is None:
        options.dtype = "bfloat16" if options.size == "3b" else "float32"
    if options.size == "3b" and options.device != "cuda":
        parser.error("--size 3b needs --device cuda")
    if options.out.suffix != ".json":
        parser.error(f"--out must end in .json, not {options.out}")
    if not os.access(_existing(options.out.parent), os.W_OK):
        parser.error(f"--out: {options.out.parent} can't be written to")
    if options.sweep and find_spec("matplotlib") is None:
        parser.error("--sweep draws a plot: pip install matplotlib")
    return options


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return folder if folder.exists() else _existing(folder.parent)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def points(options: argparse.Namespace) -> list[dict[str, int]]:
    """The point that the options name, and in a sweep those that differ from it in one number."""
    base = {name: getattr(options, name) for name in POINT}
    found = [base]
    if options.sweep:
        found += [base | {name: value} for name, values in SWEEP.items() for value in values]
    return [point for at, point in enumerate(found) if point not in found[:at]]


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that all rows of a file share, as far as they are known before a model is loaded."""
    packages = {name: version(name) for name in ("torch", "trl", "transformers", "rarl")}
    return {name: getattr(options, name) for name in SETTINGS} | packages


def open_results(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Opens the file of a sweep to go on with it; without a file the results are empty.

    Raises:
        SystemExit: if the file is not one of this benchmark, or was measured with other settings.
    """
    if not path.exists():
        return {"settings": dict(wanted), "rows": []}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        found, _ = saved["settings"], [row["ratios"] for row in saved["rows"]]
        others = [
            f"{key} {found.get(key)!r}, not {wanted[key]!r}"
            for key in wanted
            if found.get(key) != wanted[key]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        sys.exit(f"{path} is no file of this benchmark; move it away")
    if others:
        sys.exit(f"{path} was measured with {'; '.join(others)}: move it away, or give another --out")
    return saved


@contextmanager
def model_of(size: str, device: str) -> Iterator[str]:
    """Yields what `load_model` is given: the name of the embedded model, or a temporary folder."""
    if size == "tiny":
        yield "tiny"
        return
    with TemporaryDirectory() as folder:
        process = get_context("spawn").Process(target=_build_3b, args=(Path(folder), device))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit("step_cost.py: the model could not be made; see above")
        yield folder


def _build_3b(folder: Path, device: str) -> None:
    from step_cost_trainer import build_3b  # only the trainers' processes load torch

    build_3b(folder, device)


def find_row(rows: list[dict[str, Any]], point: dict[str, int]) -> dict[str, Any] | None:
    """The row of a point, or None."""
    return next((row for row in rows if all(row[name] == point[name] for name in POINT)), None)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    # Set before the first trainer's process starts, so before anything reads them.
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

    common, todo = settings(options), points(options)
    results = open_results(options.out, common) if options.sweep else {"settings": dict(common), "rows": []}
    missing = [point for point in todo if find_row(results["rows"], point) is None]
    with model_of(options.size if missing else "tiny", options.device) as model:
        for number, point in enumerate(missing, 1):
            row, facts = measure({**common, **point, "model": model})
            for key, value in facts.items():
                if results["settings"].setdefault(key, value) != value:
                    sys.exit(f"{options.out} is of {key} {results['settings'][key]!r}, and this is {value!r}")
            results["rows"].append(row)
            write_text(options.out, json.dumps(results, indent=2, allow_nan=False) + "\n")
            print(f"[{number}/{len(missing)}] {_line(row)}", file=sys.stderr, flush=True)
    if options.sweep:
        write_text(options.out.with_suffix(".md"), report(results))
        draw(results["rows"], todo[0], options.out.with_suffix(".png"))
    print(report(results))
    row: Any = find_row(results["rows"], todo[0])
    last = {"images": row["images"], "generations": row["generations"], "step_ratio": row["ratios"]["step"]}
    last |= {name: row[name] for name in ("memory_ratio", "max_logprob_difference", "stock_rounding")}
    print(json.dumps(last))


def _line(row: dict[str, Any]) -> str:
    point = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in POINT)
    times = ", ".join(f"{kind} {row[kind]['step']['median']:.2f} s" for kind in ("stock", "ours"))
    return f"{point}: {times}, step ratio {row['ratios']['step']}, memory ratio {row['memory_ratio']}"


if __name__ == "__main__":
    main(sys.argv[1:])
