"""`rarl reproduce` on few digits and with two steps a stage: its recipe, the command, and what it leaves."""

import contextlib
import io

import pytest

from rarl.cli import main

SHOWN = ["base", "regression", "rarl_no_mutation", "rarl"]  # by Table 6
TRAINED = SHOWN[1:]
RECIPE = {
    "task": "digits",
    "model": "tiny",
    "stages": [
        {"name": "regression", "images": [1], "weights": {"ranking": 0}, "max_steps": 2},
        {"name": "rarl", "images": [1, 2], "max_steps": 2, "mutation": {"k": 2, "probability": 0.8}},
    ],
    "trainer": {
        **{"prompts_per_step": 1, "num_generations": 4, "learning_rate": 1e-3, "save_steps": 1},
        **{"logging_steps": 1, "max_completion_length": 48, "beta": 0.0},
    },
    "validation": {"every": 2, "prompts": 1, "images": [2]},
    "evaluation": {"images": [1, 2], "lists": 3, "position_lists": 1},
}


def command(*arguments):
    """Its exit code, and what it prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in ("reproduce", *arguments)])
    return int(left.value.code or 0), out.getvalue(), err.getvalue()


RESULTS = "table6/results.json"


def contents(out, *patterns):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in sorted(out.glob(pattern))
    }


# Times stand in the logs and in training.json, and nowhere else.
CELLS = ("seed-*/*/*/model.safetensors", "seed-*/*/metrics.json", "seed-*/*/predictions.jsonl")
CELLS += ("seed-*/*/*/groups.jsonl", "seed-*/*/lists-*.json")


def first_seed_of(out):
    return {name: data for name, data in contents(out, *CELLS).items() if name.startswith("seed-0/")}
