"""Runs made up by hand for the tests of reports: images of one grey each, replies, logs and metrics, in the
files that training and evaluation write. No model has seen them, and the numbers mean nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from rarl.data.collection import Collection
from rarl.data.writing import write_collection
from rarl.evaluation.prediction import Expected, Prediction
from rarl.evaluation.results import write_metrics, write_predictions
from rarl.method.tasks import Task
from rarl.scoring.scoring import Scoring, write_scoring
from rarl.training.config import RunConfig, config_from

SHADES = Task("shades", "brightness of a square", low=0, high=9, step=1, delta=2)
SCORING = Scoring(
    "mean", temperatures={"mean": 2.5}, lengths=(2, 4), listed=(2,), split="validation", images=12
)
ARMS = ("base", "sft", "regression", "rarl")


def entry(value: float, low: float, high: float, n: int = 16) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def numbers(mae: float) -> dict[str, Any]:
    """The metrics of one arm; all but the first are the same in every arm."""
    return {
        "mae": entry(mae, mae - 0.25, mae + 0.25),
        "accuracy": entry(0.625, 0.5, 0.75),
        "within_one": entry(0.875, 0.75, 1.0),
        "srcc": entry(0.9, 0.85, 0.95),
        "plcc": entry(0.8, 0.7, 0.9),
        "tau2": entry(0.5, 0.25, 0.75, 8),
        "tau2_values": entry(0.5, 0.25, 0.75, 8),
        "tau4": entry(-0.125, -0.5, 0.25, 8),
        "tau4_values": entry(-0.125, -0.5, 0.25, 8),
        "mae_mean": entry(mae - 0.0625, mae - 0.25, mae),
        "mae_median": entry(mae - 0.125, mae - 0.25, mae),
        "srcc_mean": entry(0.925, 0.875, 0.975),
        "tau2_mean": entry(0.75, 0.5, 1.0, 8),
        "tau4_mean": entry(0.625, 0.25, 1.0, 8),
        "ece": entry(0.0625, 0.03125, 0.125),
        "coverage": entry(0.875, 0.75, 1.0),
        "parsed": entry(1.0, 1.0, 1.0, 32),
        "valid": entry(0.9375, 0.875, 1.0, 32),
        "agreement4": entry(0.75, 0.5, 1.0, 2),
        "position_bias4": entry(0.25, 0.0, 0.5, 2),
    }


def make_collection(folder: Path, task: Task = SHADES, sizes: Sequence[int] = (24,)) -> Collection:
    """Splits `train` and `test` of 16 images each; image number n is square, of value n mod 10, its side the
    next of `sizes`. `test` has a column `light`: lamp, sun, lamp, ..."""
    splits = {}
    for split in ("train", "test"):
        splits[split] = [
            (
                f"{split}-{n}",
                n % 10,
                Image.new("RGB", (sizes[n % len(sizes)],) * 2, (25 * (n % 10),) * 3),
            )
            for n in range(16)
        ]
    collection = write_collection(folder, task, splits)
    metadata = folder / "test/metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows = [row | {"light": ("lamp", "sun")[place % 2]} for place, row in enumerate(rows)]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return collection


def reply(listed: Sequence[int], values: Sequence[float]) -> str:
    """The reply that lists these pictures (from 1); `values` are those of picture 1, 2, ..."""
    answer = [{"image_id": picture, "value": values[picture - 1]} for picture in listed]
    return f"<think>A guess.</think>\n<answer>{json.dumps(answer)}</answer>"


def asked(
    arm: str, images: Sequence[int], listed: Sequence[int] | None, tau: float | None, **more: Any
) -> Prediction:
    """A prediction: these images of `test`, by number, and a reply that gives every picture its true value
    and lists them as `listed`; None is a reply without an answer. Its means are half a value too high. `more`
    replaces fields of it."""
    truth = [float(number % 10) for number in images]
    count = len(images)
    known = Prediction(
        arm=arm,
        split="test",
        images=count,
        ids=[f"test-{number}" for number in images],
        truth=truth,
        reply="I can't say." if listed is None else reply(listed, truth),
        values=[None] * count if listed is None else truth,
        positions=None if listed is None else [listed.index(picture + 1) for picture in range(count)],
        parsed=listed is not None,
        valid=listed is not None,
        tau=tau,
        tau_values=tau,
        expected=[Expected(value + 0.5, value, value - 1, value + 2, value, 0.75) for value in truth],
    )
    return replace(known, **more)


def predictions(arm: str) -> list[Prediction]:
    """16 single images, 3 lists of two, 5 lists of four of which one reply is no ranking, and 2 of them in
    every rotation."""
    lines = [asked(arm, [number], [1], None) for number in range(16)]
    lines += [asked(arm, [number, number + 1], [1, 2], 1.0) for number in (0, 2, 4)]
    lines += [
        asked(arm, [0, 1, 2, 3], [1, 2, 3, 4], 1.0),
        asked(arm, [4, 5, 6, 7], [4, 3, 2, 1], -1.0),
        asked(arm, [1, 2, 3, 4], None, 0.0),
        asked(arm, [5, 6, 7, 8], [2, 1, 3, 4], 2 / 3),
        asked(arm, [3, 2, 1, 0], [4, 3, 2, 1], 1.0),
    ]
    for place, images in enumerate(([0, 1, 2, 3], [4, 5, 6, 7])):
        for turn in range(4):
            turned = images[turn:] + images[:turn]
            lines.append(asked(arm, turned, [1, 2, 3, 4], 0.0, list=place, rotation=turn, expected=None))
    return lines


def log(steps: int, *, rewards: bool = True) -> list[dict[str, Any]]:
    """Lines of `log.jsonl` at every fifth step, with validation at the first and the last."""

    def validation(step: int) -> dict[str, Any]:
        part = step / steps
        return {
            "validation/mae": 2 - part,
            "validation/tau2": part,
            "validation/tau4": part / 2,
            "validation/parsed": 1.0,
            "validation/score": 1 + part,
            "step": step,
        }

    lines = [validation(0)]
    for step in range(5, steps + 1, 5):
        line = {"loss": 1 / step, "entropy": 1 / step, "step": step}
        if rewards:
            line |= {"policy/reward": 2.0, "policy/rewards/regression_reward": 0.5, "policy/r_len": 0.9}
            line |= {"policy/rewards/ranking_reward": 1.5, "policy/rewards/format_reward": 1.0}
            line |= {"policy/entropy": 2 / step, "policy/kl": 3 / step, "kl": 1 / step}
            line |= {"policy/r_consis": 0.4, "policy/r_acc": 0.2, "mutation/stagnant_before": 0.5}
            line["mutation/stagnant_after"] = 0.25
        lines.append(line)
    return [*lines, validation(steps), {"train_runtime": 1.0, "step": steps}]


def group(step: int, *texts: str, mutated: Sequence[int] = (), **more: Any) -> dict[str, Any]:
    """A line of `groups.jsonl`: two images of `train`, and these responses."""
    responses = [
        {
            "text": text,
            "rewards": {"regression": 0.5, "ranking": None if place else 3.0, "format": 1.0},
            "reward": 1.5 if place else 4.5,
            "advantage": -0.25 if place else 1.25,
            "mutated": place in mutated,
        }
        for place, text in enumerate(texts)
    ]
    known = {"ids": ["train-1", "train-2"], "truth": [1.0, 2.0], "rule": "brightness of a square"}
    return {"step": step, **known, "responses": responses, **more}


TRAINING = {
    "versions": {"python": "3.11.7", "rarl": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    "device": "cpu",
    "seconds": 83.4,
    "finished": "2030-01-02T03:04:05+00:00",
    "step": 40,
}


def config_of(run: Path, **more: Any) -> RunConfig:
    """Two stages, of 20 and 40 steps."""
    weights = {"regression": 1, "ranking": 0, "format": 1}
    mapping = {
        "task": SHADES.to_dict(),
        "model": "models/grey-eyes",
        "data": str(run / "data"),
        "output": str(run),
        "stages": [
            {"name": "regression", "images": [1], "weights": weights, "max_steps": 20},
            {"name": "rarl", "images": [1, 2, 4], "max_steps": 40, "mutation": {}},
        ],
        "sft": {},
        "validation": {"every": 10},
    }
    return config_from(mapping | more, "made up")


def write_lines(path: Path, lines: Sequence[Mapping[str, Any] | Prediction]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [line.to_json() if isinstance(line, Prediction) else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in plain), encoding="utf-8")


def metrics_of(arms: dict[str, Any], **more: Any) -> dict[str, Any]:
    lists = {"2": {"n": 3, "tie_rate": 0.0}, "4": {"n": 5, "tie_rate": 0.0}}
    return {"task": "shades", "split": "test", "seed": 0, "lists": lists, "arms": arms} | more


def make_run(run: Path, arms: Sequence[str] = ARMS, **config: Any) -> Path:
    """A complete run of these arms; MAE is 1.5 for the first, 1.25 for the second, and so on."""
    run.mkdir(parents=True, exist_ok=True)
    if "data" not in config:
        make_collection(run / "data", sizes=(24, 200))
    (run / "config.yaml").write_text(config_of(run, **config).to_yaml(), encoding="utf-8")
    by_light = {"light": {"lamp": {"mae": entry(1, 0.5, 1.5, 8)}, "sun": {"mae": entry(2, 1.5, 2.5, 8)}}}
    found = {arm: numbers(1.5 - place / 4) for place, arm in enumerate(arms)}
    write_metrics(run, metrics_of(found, subgroups=dict.fromkeys(arms, by_light)))
    for arm in arms:
        write_predictions(run, arm, predictions(arm))
        if arm == "base":
            continue
        steps = 20 if arm == "regression" else 40
        write_lines(run / arm / "log.jsonl", log(steps, rewards=not arm.startswith("sft")))
        (run / arm / "training.json").write_text(json.dumps(TRAINING, indent=2) + "\n")
        write_scoring(run / arm, SCORING)
        if not arm.startswith("sft"):
            good, bad = reply([1, 2], [1, 2]), reply([2, 1], [1, 2])
            lines = [group(step, good, bad, mutated=[0] if step > 5 else []) for step in (5, 10, 20, 40)]
            write_lines(run / arm / "groups.jsonl", lines)
    return run


def make_cell(out: Path, arm: str, data: Path, seed: int = 0) -> Path:
    """A grid's cell: a run of one arm, whose model folder has the arm's name. MAE of rarl is 0.75."""
    run = out / f"seed-{seed}" / arm
    weights = {"regression": 1, "ranking": 0, "format": 1}
    first = {"name": "regression", "images": [1], "weights": weights, "max_steps": 20}
    second = {"name": "rarl", "images": [1, 2, 4], "max_steps": 40}
    stages = [first] if arm == "regression" else [first, second] if arm.startswith("rarl") else [second]
    make_run(run, [arm], data=str(data), stages=stages, sft=None)
    place = ("base", "regression", "rarl_no_mutation", "rarl").index(arm)
    write_metrics(run, metrics_of({arm: numbers(1.5 - place / 4)}, seed=seed))
    return run
