"""A run as a whole, on the embedded base with a few steps: what it leaves, that a seed decides everything,
and that a run that is interrupted, anywhere, ends with the weights and numbers of one that is not."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch
import yaml
from rich.console import Console

import rarl.evaluation.evaluate
from rarl.data.writing import write_collection
from rarl.errors import ConfigError
from rarl.method.tasks import DIGITS
from rarl.models.loading import load_model
from rarl.training import arms
from rarl.training import run as stages
from rarl.training.callbacks import ProgressLines
from rarl.training.config import config_from
from rarl.training.run import stage_groups
from rarl.training.trainer import RARLTrainer

ARMS = ["sft", "regression", "rarl"]
METRICS = {"mae", "accuracy", "within_one", "srcc", "plcc", "tau2", "tau2_values", "parsed", "valid"}
METRICS |= {"agreement2", "position_bias2"}
# What the logs of one run and of its twin may differ in: times, and TRL 1.16's count of the tokens that SFT
# has seen, which starts again where a run is continued.
VARYING = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "num_tokens"}


@pytest.fixture(scope="module")
def small(digits, tmp_path_factory):
    """Few digits: a quick evaluation, and every training image is used more than once."""
    sizes = {"train": 24, "validation": 10, "test": 10}
    splits = {
        split: [(row.id, row.value, row.path.read_bytes()) for row in digits.split(split)[:size]]
        for split, size in sizes.items()
    }
    return write_collection(tmp_path_factory.mktemp("collections") / "small", DIGITS, splits)


@pytest.fixture(scope="module")
def config_of(small):
    """`config_of(output, seed=1)`: SFT and two stages, the second with mutation; a checkpoint a step."""

    def make(output, **changes):
        plain = {
            "task": "digits",
            "model": "tiny",
            "data": str(small.root),
            "output": str(output),
            "stages": [
                {
                    "name": "regression",
                    "images": [1],
                    "weights": {"regression": 1, "ranking": 0, "format": 1},
                    "max_steps": 2,
                },
                {
                    "name": "rarl",
                    "images": [1, 2, 4],
                    "max_steps": 4,
                    "mutation": {"k": 2, "probability": 0.8},
                    # Two micro-batches of one generation: what is drawn when must not depend on the process.
                    "trainer": {"gradient_accumulation_steps": 2},
                },
            ],
            "sft": {"trainer": {"save_steps": 2}},
            "trainer": {
                "prompts_per_step": 2,
                "num_generations": 4,
                "learning_rate": 1e-3,
                "max_completion_length": 64,
                "logging_steps": 1,
                "save_steps": 1,
            },
            "evaluation": {"images": [1, 2], "lists": 5},
        }
        return config_from(plain | changes, "test")

    return make


class Watched:
    """What each arm's trainer began with, and the prompts that it was given."""

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


@pytest.fixture(scope="module")
def whole(config_of, tmp_path_factory):
    """A run that was not interrupted: its configuration, what it returned, was seen to do, and printed."""
    config = config_of(tmp_path_factory.mktemp("runs") / "whole")
    watched, text = Watched(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "_fit", watched.fit)
        metrics = stages.train_and_evaluate(config, resume=False, console=Console(file=text, width=200))
    return config, metrics, watched, text.getvalue()


@pytest.fixture
def copy_of(whole, config_of, tmp_path):
    """`copy_of("rarl")`: the configuration of a copy of the whole run, without that arm's model."""

    def make(*without, results=True):
        config = config_of(tmp_path / "copy")
        shutil.copytree(whole[0].output, config.output)
        for name in without:
            shutil.rmtree(config.output / name)
        if not results:
            for name in ("metrics.json", "predictions.jsonl"):
                (config.output / name).unlink()
        return config

    return make


def models(trainer):
    """The policy, and the reference where there is one."""
    reference = getattr(trainer, "ref_model", None)
    return [trainer.model] if reference is None else [trainer.model, reference]


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def continued(config):
    return stages.train_and_evaluate(config, resume=True, console=Console(file=io.StringIO()))


def logs(folder):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in VARYING} for line in lines]


def assert_same_run(output, reference):
    """The arms' weights and logs and both files of results, to the bit; results of arms in any order."""
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


@pytest.fixture
def interrupt_at(monkeypatch):
    """`interrupt_at("rarl", 2)`: Ctrl-C when that arm has saved that step; or, not `saved`, within it."""

    def arrange(arm, step, saved=True):
        def stop(lines, args, state, control, **kwargs):
            if lines._arm == arm and state.global_step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(ProgressLines, "on_save" if saved else "on_substep_end", stop)

    return arrange


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("something was trained")

    monkeypatch.setattr(stages, "train_sft", refuse)
    monkeypatch.setattr(stages, "train_stage", refuse)


# What a run leaves


LOCKS = [".results.lock", ".training.lock"]
LEFT = sorted([*LOCKS, "config.yaml", "metrics.json", "predictions.jsonl", "lists-test-0.json", *ARMS])


def test_a_run_leaves_its_models_its_results_and_nothing_else(whole):
    output = whole[0].output
    assert contents(output) == LEFT
    for arm in ARMS:
        names = {path.name for path in (output / arm).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "log.jsonl", "task.yaml"} <= names
        assert not any(name.startswith((".", "checkpoint", "optimizer")) for name in names)


def test_every_arm_is_a_folder_that_from_pretrained_loads(whole):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    for arm in ARMS:
        folder = whole[0].output / arm
        model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert same(weights(model), weights(load_model(folder)))
        assert AutoTokenizer.from_pretrained(folder).chat_template


def test_metrics_json_is_what_machines_read(whole):
    config, metrics, _, _ = whole
    saved = json.loads((config.output / "metrics.json").read_text())
    assert saved == metrics
    assert (saved["task"], saved["split"], saved["seed"]) == ("digits", "test", 0)
    assert list(saved["arms"]) == ["base", *ARMS]
    for entries in saved["arms"].values():
        assert entries.keys() == METRICS
        for entry in entries.values():
            assert entry.keys() == {"value", "low", "high", "n"}
            assert entry["low"] <= entry["value"] <= entry["high"]
        assert entries["mae"]["n"] == 10
        assert entries["tau2"]["n"] == 5
        assert entries["parsed"]["n"] == 15


def test_every_arm_answers_the_same_prompts(whole):
    lines = [json.loads(line) for line in (whole[0].output / "predictions.jsonl").read_text().splitlines()]
    asked = {arm: [line["ids"] for line in lines if line["arm"] == arm] for arm in ["base", *ARMS]}
    # The lists stand there once more, in both rotations.
    assert sum(map(len, asked.values())) == len(lines) == 4 * (15 + 5 * 2)
    assert asked["base"] == asked["sft"] == asked["regression"] == asked["rarl"]


def test_each_arm_has_its_log_with_a_line_a_step(whole):
    for arm, steps in {"sft": 6, "regression": 2, "rarl": 4}.items():
        assert [line["step"] for line in logs(whole[0].output / arm)] == [*range(1, steps + 1), steps]
    assert logs(whole[0].output / "rarl")[0].keys() >= {"kl", "mutation/fraction", "policy/reward"}


def test_config_yaml_is_the_run_again(whole):
    config = whole[0]
    saved = yaml.safe_load((config.output / "config.yaml").read_text())
    assert config_from(saved, "saved") == config


def test_the_terminal_shows_a_line_a_step_and_nothing_else(whole):
    lines = whole[3].splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *(f"sft {step}/6" for step in range(1, 7)),
        *(f"regression {step}/2" for step in range(1, 3)),
        *(f"rarl {step}/4" for step in range(1, 5)),
    ]


# Stages


def test_each_stage_starts_from_the_one_before(whole):
    config, _, watched, _ = whole
    base = weights(load_model("tiny"))
    assert same(watched.start["sft"], base)
    assert same(watched.start["regression"], base)
    assert same(watched.start["rarl"], weights(load_model(config.output / "regression")))
    for arm in ARMS:
        assert not same(watched.start[arm], weights(load_model(config.output / arm))), (
            f"{arm} learned nothing"
        )


def test_the_reference_of_the_kl_is_the_stages_own_start(whole):
    config, _, watched, _ = whole
    assert same(watched.reference["regression"], watched.start["regression"])
    assert same(watched.reference["rarl"], watched.start["rarl"])
    assert not same(watched.reference["rarl"], watched.reference["regression"])
    for arm in ("regression", "rarl"):
        first, *later = [log["kl"] for log in logs(config.output / arm) if "kl" in log]
        assert first == pytest.approx(0, abs=1e-6)
    assert max(later) > 1e-6  # of the last stage, whose groups have variance by mutation


def test_sft_sees_the_groups_of_all_stages_in_order_and_once_each(whole, small):
    config, _, watched, _ = whole
    drawn = {stage.name: stage_groups(config, stage, small.split("train")) for stage in config.stages}
    for name, groups in drawn.items():
        assert watched.ids[name] == [[row.id for row in group.rows] for group in groups]
    assert watched.ids["sft"] == watched.ids["regression"] + watched.ids["rarl"]
    assert len(watched.ids["sft"]) == 2 * (2 + 4)


def test_the_models_of_an_arm_are_gone_when_the_next_begins(whole):
    """Memory holds a policy and its reference, and not those of the arm before, too."""
    assert whole[2].alive == []


# A seed decides everything


def test_the_same_seed_gives_the_same_run_and_another_seed_another(whole, config_of, tmp_path):
    first = whole[0].output
    again = config_of(tmp_path / "again")
    stages.train_and_evaluate(again, resume=False, console=Console(file=io.StringIO()))
    assert_same_run(again.output, first)
    assert (again.output / "metrics.json").read_text() == (first / "metrics.json").read_text()

    only = {"stages": again.to_dict()["stages"][:1], "sft": None, "evaluation": {"images": [2], "lists": 5}}
    other = config_of(tmp_path / "other", seed=1, **only)
    metrics = stages.train_and_evaluate(other, resume=False, console=Console(file=io.StringIO()))
    assert metrics["seed"] == 1
    trained = [weights(load_model(output / "regression")) for output in (first, other.output)]
    assert not same(*trained)


# Interrupted and continued


@pytest.mark.parametrize("step", [1, 4])
def test_a_stage_interrupted_at_a_checkpoint_ends_the_same(whole, copy_of, interrupt_at, monkeypatch, step):
    """At the last step nothing is left to train, and the folder is still to be written."""
    config = copy_of("rarl")
    interrupt_at("rarl", step)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    assert (config.output / f"checkpoints/rarl/checkpoint-{step}").is_dir()
    assert not (config.output / "rarl").exists()
    metrics = continued(config)
    assert metrics == whole[1]
    assert_same_run(config.output, whole[0].output)


def test_a_stage_interrupted_between_its_micro_batches_ends_the_same(
    whole, copy_of, interrupt_at, monkeypatch
):
    config = copy_of("rarl")
    interrupt_at("rarl", 2, saved=False)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    continued(config)
    assert_same_run(config.output, whole[0].output)


def test_sft_interrupted_ends_the_same(whole, copy_of, interrupt_at, monkeypatch):
    config = copy_of("sft")
    interrupt_at("sft", 4)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    continued(config)
    assert_same_run(config.output, whole[0].output)


def remove(name):
    return lambda checkpoint: (checkpoint / name).unlink()


def cut(checkpoint):
    file = checkpoint / "trainer_state.json"
    file.write_text(file.read_text()[:100])


@pytest.mark.parametrize("damage", [remove("optimizer.pt"), cut], ids=["optimizer", "state"])
def test_half_a_checkpoint_is_passed_over(whole, copy_of, interrupt_at, monkeypatch, damage, caplog):
    config = copy_of("rarl")
    interrupt_at("rarl", 3)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    monkeypatch.undo()
    damage(config.output / "checkpoints/rarl/checkpoint-3")
    continued(config)
    assert "checkpoint-3 is not whole" in caplog.text
    assert_same_run(config.output, whole[0].output)


def test_an_interrupted_bar_leaves_the_terminal_as_it_was(copy_of, interrupt_at):
    config = copy_of("rarl")
    interrupt_at("rarl", 1)
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyboardInterrupt):
        stages.train_and_evaluate(config, resume=True, console=console)
    text = console.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0  # the cursor is hidden, and shown again


def test_a_killed_process_continues_to_the_same_end(whole, config_of, tmp_path):
    config = config_of(tmp_path / "killed")
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "rarl", "train", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        reached = config.output / "checkpoints/rarl/checkpoint-1/trainer_state.json"
        deadline = time.monotonic() + 120
        while not reached.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (config.output / "sft").is_dir()
    assert not (config.output / "rarl").exists()

    output = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True, timeout=120)
    assert_same_run(config.output, whole[0].output)
    # The checkpoint that was being written is mentioned, if there was one.
    assert all(line.endswith("passed over") for line in output.stderr.splitlines())
    lines = [line for line in output.stdout.splitlines() if line.startswith(tuple(ARMS))]
    assert lines, "the steps that were left"
    assert all(line.startswith("rarl ") and line.endswith(" s/step") for line in lines)
    table = output.stdout[output.stdout.index("digits, test split") :]
    assert [name for name in ("+ SFT", "+ Regression", "+ RARL") if table.count(name) == 1] == [
        "+ SFT",
        "+ Regression",
        "+ RARL",
    ]
    # Our lines and the table: no bars, no warnings, no empty lines in between.
    assert output.stdout.split("digits, test split")[0].strip().splitlines() == lines


def test_interrupted_between_training_and_evaluation(whole, copy_of, no_training):
    config = copy_of(results=False)
    continued(config)
    assert_same_run(config.output, whole[0].output)


def test_interrupted_during_evaluation(whole, copy_of, no_training, monkeypatch):
    config = copy_of(results=False)
    calls = []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:  # three batches of the base, and one of sft
            raise KeyboardInterrupt
        return replies(*args, **kwargs)

    replies = rarl.evaluation.evaluate.greedy_replies
    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", stop)
    with pytest.raises(KeyboardInterrupt):
        continued(config)
    assert list(json.loads((config.output / "metrics.json").read_text())["arms"]) == ["base"]
    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", replies)
    continued(config)
    assert_same_run(config.output, whole[0].output)


def test_interrupted_between_the_two_files_of_results(whole, copy_of, no_training, monkeypatch):
    config = copy_of(results=False)

    def stop(folder, metrics):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rarl.evaluation.evaluate, "write_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            continued(config)
    assert (config.output / "predictions.jsonl").is_file()
    assert not (config.output / "metrics.json").exists()
    continued(config)
    assert_same_run(config.output, whole[0].output)


def test_checkpoints_of_a_finished_arm_do_not_stay(whole, copy_of, no_training):
    """Killed when the arm had its name, and its checkpoints were still there."""
    config = copy_of()
    (config.output / "checkpoints/rarl/checkpoint-4").mkdir(parents=True)
    continued(config)
    assert_same_run(config.output, whole[0].output)


def test_half_a_model_folder_is_not_taken_for_one(whole, copy_of):
    """Killed while the model was written, at its temporary name."""
    config = copy_of("rarl")
    half = config.output / ".rarl.unfinished"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    continued(config)
    assert_same_run(config.output, whole[0].output)


# Continuing what is finished


def test_a_finished_run_trains_and_evaluates_nothing_again(whole, copy_of, no_training, monkeypatch):
    config = copy_of()
    before = {path: path.stat().st_mtime_ns for path in config.output.rglob("*.json*")}
    monkeypatch.setattr(stages, "load_model", lambda name: pytest.fail("a model was loaded"))
    started = time.monotonic()
    assert continued(config) == whole[1]
    assert time.monotonic() - started < 10
    assert before == {path: path.stat().st_mtime_ns for path in config.output.rglob("*.json*")}


def test_a_finished_run_is_not_begun_again(copy_of, no_training):
    with pytest.raises(ConfigError, match="continue it with --resume"):
        stages.train_and_evaluate(copy_of(), resume=False, console=Console(file=io.StringIO()))


def test_what_another_command_trains_is_left_to_it(copy_of, no_training, other_command):
    """Of half a run, so that there would be something to do."""
    config = copy_of(results=False)
    shutil.rmtree(config.output / "rarl")
    other_command(config.output, "training")
    before = {
        path: path.stat().st_mtime_ns for path in config.output.rglob("*") if path.name != "config.yaml"
    }
    with pytest.raises(ConfigError, match=r"another command is at work here \(training\)"):
        continued(config)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_configuration_does_not_continue_a_run(copy_of, no_training):
    config = copy_of()
    plain = config.to_dict()
    plain["stages"][1]["mutation"]["k"] = 1
    plain["trainer"]["learning_rate"] = 2e-3
    with pytest.raises(ConfigError) as caught:
        continued(config_from(plain, "test"))
    assert "stages[1].mutation.k: 2 before, 1 now" in str(caught.value)
    assert "trainer.learning_rate: 0.001 before, 0.002 now" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_more_is_evaluated_where_more_is_asked_for(whole, copy_of, config_of, no_training):
    """`evaluation` may change: what was measured before stays as it was."""
    config = copy_of()
    more = config_from(config.to_dict() | {"evaluation": {"images": [1, 2, 4], "lists": 5}}, "test")
    metrics = continued(more)
    for arm, entries in metrics["arms"].items():
        assert entries.keys() == METRICS | {"tau4", "tau4_values", "agreement4", "position_bias4"}
        for name in ("mae", "tau2"):
            assert entries[name] == whole[1]["arms"][arm][name]
    assert yaml.safe_load((config.output / "config.yaml").read_text())["evaluation"]["images"] == [1, 2, 4]


def test_another_number_of_lists_is_refused_and_not_ignored(copy_of, no_training):
    config = copy_of()
    other = config_from(config.to_dict() | {"evaluation": {"images": [1, 2], "lists": 6}}, "test")
    with pytest.raises(ConfigError, match=r"evaluation.lists: .* on 5 lists, not 6"):
        continued(other)


def test_a_removed_model_is_trained_again_and_its_results_go_first(whole, copy_of, monkeypatch):
    config = copy_of("regression")
    seen = []

    def train(*args):
        seen.append(json.loads((config.output / "metrics.json").read_text())["arms"].keys())
        seen.append({json.loads(line)["arm"] for line in results(config.output)[1]})
        return original(*args)

    original = stages.train_stage
    monkeypatch.setattr(stages, "train_stage", train)
    metrics = continued(config)
    assert seen == [{"base", "sft", "rarl"}, {"base", "sft", "rarl"}]  # and one stage alone was trained
    assert metrics == whole[1]
    model = "regression/model.safetensors"
    assert (config.output / model).read_bytes() == (whole[0].output / model).read_bytes()


# Several processes


def test_two_processes_train_one_run(config_of, tmp_path):
    config = config_of(tmp_path / "two", evaluation={"images": [2], "lists": 3})
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*launcher, "-m", "rarl", "train", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        stdout, stderr = process.communicate(timeout=150)
    finally:
        process.terminate()  # torchrun ends its processes then; killed, it would leave them
        process.wait()
    assert process.returncode == 0, stderr
    assert contents(config.output) == LEFT
    assert list(json.loads((config.output / "metrics.json").read_text())["arms"]) == ["base", *ARMS]
    # Said once, by the first of them.
    steps = [line.split("  ")[0] for line in stdout.splitlines() if line.endswith(" s/step")]
    assert steps == [*(f"sft {i}/6" for i in range(1, 7)), "regression 1/2", "regression 2/2"] + [
        f"rarl {i}/4" for i in range(1, 5)
    ]
    assert stdout.count("digits, test split") == 1
    base = weights(load_model("tiny"))
    for arm in ARMS:
        assert not same(weights(load_model(config.output / arm)), base)
