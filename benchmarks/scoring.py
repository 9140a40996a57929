"""How many images a second `Ranker` scores, beside two others: the plain loop (open, prompt, generate,
parse, one image after the other), and the ranker of before (batches of 8, opened in the same process). All
of them ask the same model for greedy replies. `Ranker` decodes large photos at a part of their size, so the
table says how many images get the value that it gives, and how far apart the others are. README.md in this
folder says how it is measured.

    python benchmarks/scoring.py                    # 2,000 photos of 200 px, 100 of 12 megapixels
    python benchmarks/scoring.py --memory 20000     # what each further image costs in memory
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

LARGE = (4000, 3000)
SMALL = (200, 200)
DIFFERENT = 8
"""How many large photos are made; the others are copies of them, since making one takes a second."""

Values = list[float | None]


# ── the photos ───────────────────────────────────────────────────────────────────────────────────────────


def photo(size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A picture that costs a JPEG decoder as much as a photo: soft shapes, and noise as of a sensor."""
    width, height = size
    shapes = random.integers(0, 256, (height // 50 + 2, width // 50 + 2, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    noise = random.normal(0, 6, (height, width, 1)).astype(np.int16)
    return Image.fromarray((soft + noise).clip(0, 255).astype(np.uint8))


def make_photos(folder: Path, number: int, size: tuple[int, int], different: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for place in range(number):
        path = folder / f"{place:06}.jpg"
        if place < different:
            photo(size, random).save(path, quality=90)
        else:
            path.write_bytes((folder / f"{place % different:06}.jpg").read_bytes())


# ── the arms ─────────────────────────────────────────────────────────────────────────────────────────────


def plain(files: Sequence[str]) -> Callable[[], Values]:
    """What one writes first: transformers, one image after the other."""
    import torch

    from rarl.method.prompts import messages
    from rarl.method.replies import parse_leniently
    from rarl.method.tasks import DIGITS
    from rarl.models.generation.replies import vision_tokens
    from rarl.models.loading import load_model, load_processor

    model, processor = load_model("tiny"), load_processor("tiny")
    forbidden = vision_tokens(model, processor)

    def run() -> Values:
        values: Values = []
        for file in files:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            prompt = messages(1, DIGITS.rule, DIGITS.value_range)
            text = processor.apply_chat_template([prompt], tokenize=False, add_generation_prompt=True)
            inputs = processor(
                text=text, images=[image], return_mm_token_type_ids=True, return_tensors="pt"
            ).to(model.device)
            with torch.inference_mode():
                tokens = model.generate(
                    **inputs, do_sample=False, max_new_tokens=1024, suppress_tokens=forbidden
                )
            new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
            [reply] = processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
            values += parse_leniently(reply, 1).values(1)
        return values

    return run


def before(files: Sequence[str]) -> Callable[[], Values]:
    """The ranker of before: one image a prompt, batches of 8, opened in the same process."""
    import torch

    from rarl.data.images import image_size, open_image
    from rarl.method.prompts import messages
    from rarl.method.replies import parse, parse_leniently
    from rarl.method.tasks import DIGITS
    from rarl.models.generation.replies import _settings
    from rarl.models.limits import shape_problem
    from rarl.models.loading import load_model, load_processor

    model, processor = load_model("tiny"), load_processor("tiny")
    settings = _settings(model, processor, 1024)

    def run() -> Values:
        image_size(files[0])
        values: Values = []
        for start in range(0, len(files), 8):
            images = []
            for file in files[start : start + 8]:
                image = open_image(file)
                assert shape_problem(processor, *image.size) is None
                images.append([image])
            prompts = [messages(1, DIGITS.rule, DIGITS.value_range) for _ in images]
            texts = processor.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
            inputs = processor(
                text=texts,
                images=images,
                padding=True,
                padding_side="left",
                return_mm_token_type_ids=True,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                tokens = model.generate(**inputs, generation_config=settings)
            new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
            replies = processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
            for reply in replies:
                parse(reply)
                values += parse_leniently(reply, 1).values(1)
        return values

    return run


def now(files: Sequence[str]) -> Callable[[], Values]:
    """`Ranker.score`."""
    from rarl import Ranker

    ranker = Ranker("tiny")
    return lambda: [said.value for said in ranker.score(files)]


ARMS = {"plain": plain, "before": before, "now": now}


def run_arm(name: str, folder: Path, cores: int) -> None:
    """Scores a folder and prints the seconds and the values. Loading the model is not counted, starting
    processes is; one batch before warms up."""
    from rarl.models.loading import use_one_thread_for

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    use_one_thread_for("tiny")
    files = sorted(str(path) for path in folder.iterdir())
    ARMS[name](files[:4])()
    run = ARMS[name](files)
    start, own, workers = time.perf_counter(), time.process_time(), _of_children()
    values = run()
    said = {"seconds": time.perf_counter() - start, "values": values}
    cpu = {"own": time.process_time() - own, "workers": _of_children() - workers}
    print(json.dumps({**said, "cpu": cpu}))


def _of_children() -> float:
    """Processor seconds of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def run_memory(folder: Path, number: int) -> None:
    """Scores so many images and prints what the process held after each batch of the second half."""
    import psutil

    from rarl import Ranker
    from rarl.models.loading import use_one_thread_for

    use_one_thread_for("tiny")
    first = [str(path) for path in sorted(folder.iterdir())]
    files = [first[place % len(first)] for place in range(number)]
    process, done = psutil.Process(), 0
    held: list[tuple[int, int]] = []
    for batch in Ranker("tiny").measure_each(files):
        done += len(batch)
        if done > number / 2:
            held.append((done, process.memory_info().rss))
    print(json.dumps(held))


# ── the measurement ──────────────────────────────────────────────────────────────────────────────────────


def in_process(*arguments: object) -> Any:
    """What a process of this script's prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, label: str, repeats: int, cores: int) -> list[dict[str, Any]]:
    """A row for each arm, with all cores; and for `now` with one core."""
    runs = [(name, cores) for name in ARMS] + ([("now", 1)] if cores > 1 else [])
    seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    values: dict[tuple[str, int], Values] = {}
    cpu: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(repeats):
        for run in runs:  # in turn, so that what else the machine does falls on all of them
            said = in_process("--arm", run[0], "--folder", folder, "--cores", run[1])
            seconds[run].append(said["seconds"])
            values[run], cpu[run] = said["values"], said["cpu"]
    number = len(values[runs[0]])
    mine = statistics.median(seconds["now", cores])
    rows = []
    for run in runs:
        pairs = list(zip(values[run], values["now", cores], strict=True))
        apart = [abs(a - b) for a, b in pairs if a is not None and b is not None]
        middle = statistics.median(seconds[run])
        rows.append(
            {
                "photos": label,
                "arm": run[0],
                "cores": run[1],
                "images_per_second": round(number / middle, 1),
                "now_is_faster": round(middle / mine, 2),
                **{f"cpu_ms_{who}": round(spent / number * 1e3, 2) for who, spent in cpu[run].items()},
                "same_values": f"{sum(a == b for a, b in pairs)}/{number}",
                "greatest_difference": max(apart, default=0.0),
            }
        )
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


@contextmanager
def photos(number: int, size: tuple[int, int], different: int) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        make_photos(Path(folder) / "photos", number, size, different)
        yield Path(folder) / "photos"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Images a second, against a plain loop and the ranker of before."
    )
    parser.add_argument("--small", type=int, default=2000, help="photos of 200 px (2000)")
    parser.add_argument("--large", type=int, default=100, help="photos of 12 megapixels (100)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each arm, in turn (3)")
    parser.add_argument("--cores", type=int, default=2, help="processor cores (2)")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory over N images, and no speed")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.arm is not None:
        run_arm(options.arm, options.folder, options.cores)
        return
    if options.folder is not None:
        run_memory(options.folder, options.memory)
        return
    if options.memory is not None:
        with photos(500, (28, 28), 500) as folder:
            held = in_process("--folder", folder, "--memory", options.memory)
        done, bytes_held = np.array(held, dtype=float).T
        slope = np.polyfit(done, bytes_held, 1)[0]
        print(
            f"{options.memory:,} images: {slope:,.0f} bytes more an image, {bytes_held[-1] / 2**20:,.0f} MiB"
        )
        return
    rows: list[dict[str, Any]] = []
    for number, size, label in (
        (options.small, SMALL, "200 px"),
        (options.large, LARGE, "12 megapixels"),
    ):
        if number:
            with photos(number, size, number if size == SMALL else min(DIFFERENT, number)) as folder:
                rows += compare(folder, f"{number:,} of {label}", options.repeats, options.cores)
    print_table(rows)


if __name__ == "__main__":
    main()
