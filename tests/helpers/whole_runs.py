"""What a run of SFT and two stages leaves, and how two such runs are compared. The runs themselves are
fixtures of `tests/training/conftest.py`."""

import io
import json
import weakref

from rich.console import Console

from helpers.training import constant, log, weights
from rarl.training import arms
from rarl.training import run as stages
from rarl.training.trainer import RARLTrainer

ARMS = ["sft", "regression", "rarl"]
METRICS = {"mae", "accuracy", "within_one", "srcc", "plcc", "tau2", "tau2_values", "parsed", "valid"}
METRICS |= {"agreement2", "position_bias2"}
METRICS |= {"mae_mean", "mae_median", "srcc_mean", "tau2_mean", "ece", "coverage"}
METRICS |= {
    "mae_lenient",
    "accuracy_lenient",
    "srcc_lenient",
    "tau2_lenient",
    "parsed_lenient",
    "valid_lenient",
}
LOCKS = [".results.lock", ".training.lock"]
WRITTEN = ("collection.json", "config.yaml", "metrics.json", "predictions.jsonl", "lists-test-0.json")
LEFT = sorted([*LOCKS, *WRITTEN, *ARMS])


class Watched:
    """Watches each arm's trainer: the weights it begins with, its prompts, and models that outlive their
    arm."""

    def __init__(self):
        self.start, self.reference, self.ids = {}, {}, {}
        self.models, self.alive = [], []

    def fit(self, trainer, lines, start, folder, config, original=arms._fit):
        name = folder.name
        self.alive += [f"a model of the arm before {name}" for model in self.models if model() is not None]
        self.models += [weakref.ref(model) for model in models(trainer)]
        self.start[name] = weights(trainer.model)
        ids = self.ids[name] = []
        if isinstance(trainer, RARLTrainer):
            self.reference[name] = weights(trainer.ref_model)
            score = trainer._generate_and_score_completions

            def watched_score(inputs):
                ids.extend(inputs[i]["ids"] for i in range(0, len(inputs), trainer.num_generations))
                return score(inputs)

            trainer._generate_and_score_completions = watched_score
        else:
            collate = trainer.data_collator

            def watched_collate(examples):
                ids.extend(example["ids"] for example in examples)
                return collate(examples)

            trainer.data_collator = watched_collate
        original(trainer, lines, start, folder, config)


def models(trainer):
    """The policy, and the reference if there is one."""
    reference = getattr(trainer, "ref_model", None)
    return [trainer.model] if reference is None else [trainer.model, reference]


def continued(config):
    return stages.train_and_evaluate(config, resume=True, console=Console(file=io.StringIO()))


def logs(folder):
    """The log of an arm without what differs between a run and its twin."""
    return constant(log(folder))


def assert_same_run(output, reference):
    """Weights, logs and both files of results are the same to the bit; arms may come in any order."""
    for arm in ARMS:
        weights_file = f"{arm}/model.safetensors"
        assert (output / weights_file).read_bytes() == (reference / weights_file).read_bytes(), arm
        assert logs(output / arm)[:-1] == logs(reference / arm)[:-1], arm  # the last is of the whole training
    metrics, predictions = zip(*map(results, (output, reference)), strict=True)
    assert metrics[0] == metrics[1]
    assert predictions[0] == predictions[1]
    assert contents(output) == contents(reference)


def results(output):
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((output / "metrics.json").read_text()), sorted(lines)


def contents(output):
    return sorted(path.name for path in output.iterdir())
