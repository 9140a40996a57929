"""Draws docs/demo.png, the picture in the README, from a finished demo: python docs/draw_picture.py runs/demo
Everything in it is read from the run's files. It needs matplotlib, which the library itself does not."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from rarl.data.collection import load_collection

ARMS = {"base": "embedded base", "sft": "SFT", "regression": "stage 1: regression", "rarl": "stage 2: RARL"}
COLORS = {"base": "#9aa0a6", "sft": "#e8a33d", "regression": "#7fa7d9", "rarl": "#1f5fa8"}
METRICS = {"mae": "MAE ↓, one image", "tau2": "τ ↑, 2 images", "tau4": "τ ↑, 4 images", "tau8": "τ ↑, 8 images"}


def main(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())["arms"]
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    pictures = {row.id: row.path for row in load_collection(run / "data").split("test")}
    eights = {
        arm: [line for line in lines if line["arm"] == arm and line["images"] == 8] for arm in ("base", "rarl")
    }
    # The list on which RARL is at its median, so that the strip is neither its best nor its worst.
    order = sorted(range(len(eights["rarl"])), key=lambda i: eights["rarl"][i]["tau"])
    middle = order[len(order) // 2]

    figure = plt.figure(figsize=(11, 6.2), dpi=150, layout="constrained")
    rows = figure.subfigures(3, 1, height_ratios=[1.25, 1.25, 2])
    for subfigure, arm in zip(rows[:2], ("base", "rarl"), strict=True):
        _strip(subfigure, arm, eights[arm][middle], pictures)
    for axes, (metric, title) in zip(rows[2].subplots(1, 4), METRICS.items(), strict=True):
        for place, arm in enumerate(ARMS):
            entry = metrics[arm][metric]
            error = [[entry["value"] - entry["low"]], [entry["high"] - entry["value"]]]
            axes.bar(place, entry["value"], yerr=error, color=COLORS[arm], capsize=3, label=ARMS[arm])
            axes.text(place, 0.02, f"{entry['value']:.2f}", ha="center", va="bottom", color="white", weight="bold")
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    rows[2].legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(Path(__file__).with_name("demo.png"))


def _strip(figure: plt.Figure, arm: str, line: dict, pictures: dict[str, Path]) -> None:
    """The images in the order that the reply lists them, each with its true and its predicted value."""
    figure.suptitle(f"{ARMS[arm]}: eight test images in the order of its reply (τ = {line['tau']:.2f})", fontsize=10)
    listed = sorted((p, i) for i, p in enumerate(line["positions"] or range(8)) if p is not None)
    for axes, (_, index) in zip(figure.subplots(1, 8), listed, strict=False):
        with Image.open(pictures[line["ids"][index]]) as image:
            axes.imshow(image)
        truth, given = line["truth"][index], line["values"][index]
        right = given == truth
        said = "-" if given is None else f"{given:g}"
        axes.set_title(
            f"true {truth:g}, said {said}", fontsize=8, color="#1a7f37" if right else "#c62828", pad=3
        )
        axes.set_xticks([])
        axes.set_yticks([])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
