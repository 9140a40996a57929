"""What the choice of scoring is worth: for the models of finished runs, what validation chooses, and on the
reported split the error, correlation and order by that beside those of greedy replies, with the paired 95 %
interval of each difference. Prints a Markdown table, which is in docs/evaluation.md.

    python benchmarks/choice.py rarl runs/reproduce/digits-tiny/seed-*/rarl

It is chosen anew, by the code of now. The replies and distributions on the reported split are those of the
runs' `predictions.jsonl`."""

import argparse
from pathlib import Path

import numpy as np

from rarl.data.collection import load_collection
from rarl.evaluation.choosing.choose import choose
from rarl.evaluation.intervals import bootstrap_interval
from rarl.evaluation.metrics import filled, list_tau, srcc, tau_values
from rarl.evaluation.prediction import Prediction
from rarl.evaluation.results import read_predictions
from rarl.models.loading import load_model, load_processor
from rarl.scoring.scoring import Scoring
from rarl.training.config import load_config
from rarl.training.run import lengths_of, reply_length, scoring_split

SEED = 0  # of the intervals


def chosen(run: Path, arm: str) -> Scoring:
    """What the end of this run chooses for its arm."""
    config = load_config(run / "config.yaml")
    collection = load_collection(config.data)
    return choose(
        load_model(run / arm),
        load_processor(run / arm, config.pixels),
        collection,
        scoring_split(config, collection),
        lengths=lengths_of(config, arm),
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
        max_new_tokens=reply_length(config),
    )


def compared(run: Path, arm: str, scoring: Scoring) -> dict[str, tuple[float, float, float, float]]:
    """METRIC -> of greedy replies, of what was chosen, and the interval of the gain."""
    if scoring.windows or scoring.method == "mean-fast" or scoring.is_sampled:
        raise SystemExit(f"{run}: {scoring.sentence}: predictions.jsonl has no such values")
    task = load_config(run / "config.yaml").task
    lines = [p for p in read_predictions(run / "predictions.jsonl") if p.arm == arm and not p.is_rotated]
    alone = {line.ids[0]: line for line in lines if line.images == 1}
    written = filled([line.values[0] for line in alone.values()], task)
    greedy = dict(zip(alone, written, strict=True))
    values, means = dict(greedy), dict(greedy)
    if scoring.method == "mean":
        for name, line in alone.items():
            said = (line.expected or [None])[0]
            values[name], means[name] = (task.midpoint,) * 2 if said is None else (said.median, said.mean)
    truths = np.array([line.truth[0] for line in alone.values()])
    columns = [
        np.clip(list(each.values()), task.low, task.high).astype(float) for each in (greedy, values, means)
    ]
    found = {
        "MAE": _gain(abs(columns[0] - truths), abs(columns[1] - truths), lower=True),
        "SRCC": (
            srcc(columns[0], truths),
            srcc(columns[2], truths),
            *bootstrap_interval(np.column_stack([columns[0], columns[2], truths]), _gain_in_srcc, seed=SEED),
        ),
    }
    for count in sorted({line.images for line in lines} - {1}):
        lists = [line for line in lines if line.images == count]
        paper = np.array([line.tau for line in lists], dtype=float)
        orders = [_tau(line, means, count in scoring.listed) for line in lists]
        found[f"τ{count}"] = _gain(paper, np.array(orders), lower=False)
    return found


def _tau(line: Prediction, means: dict[str, float], listed: bool) -> float:
    read = line.read_leniently()
    if listed and read.valid:
        assert read.positions is not None
        return list_tau(read.positions, line.truth)
    return tau_values(range(line.images), [means[name] for name in line.ids], line.truth)


def _gain(before: np.ndarray, after: np.ndarray, *, lower: bool) -> tuple[float, float, float, float]:
    """Their means, and the interval of the gain; `lower` is better."""
    gains = before - after if lower else after - before
    low, high = bootstrap_interval(gains, seed=SEED)
    return float(before.mean()), float(after.mean()), low, high


def _gain_in_srcc(before: np.ndarray, after: np.ndarray, truths: np.ndarray) -> float:
    return srcc(after, truths) - srcc(before, truths)


def main() -> None:
    """Prints a table with two columns for each run."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("arm", help="of these runs, such as rarl")
    options.add_argument("runs", nargs="+", type=Path, help="their folders, each with config.yaml")
    given = options.parse_args()
    scorings = [chosen(run, given.arm) for run in given.runs]
    tables = [compared(run, given.arm, scoring) for run, scoring in zip(given.runs, scorings, strict=True)]
    heads = [f"{run.parent.name}/{run.name}: greedy | chosen | gain" for run in given.runs]
    print(f"| | {' | '.join(heads)} |\n|---{'|---:' * 3 * len(tables)}|")
    for metric in tables[0]:
        cells = [
            f"{before:.3f} | {after:.3f} | {low:.3f} to {high:.3f}"
            for before, after, low, high in (table[metric] for table in tables)
        ]
        print(f"| {metric} | {' | '.join(cells)} |")
    for run, scoring in zip(given.runs, scorings, strict=True):
        print(f"\n{run}: {scoring.sentence}")


if __name__ == "__main__":
    main()
