"""Validation while an arm trains: what its lines say, that training is the same with it and without, which
weights are kept, and that whatever is interrupted ends as if it had not been."""

import io
import json
import shutil
import sys

import pytest
import torch
from rich.console import Console

from rarl.data.collection import Row, load_collection
from rarl.data.groups import Group
from rarl.data.writing import write_collection
from rarl.errors import ConfigError, RarlError
from rarl.method.tasks import DIGITS
from rarl.models.loading import load_model
from rarl.training import arms
from rarl.training import callbacks as validation
from rarl.training import run as stages
from rarl.training.callbacks import (
    SCORE_KEY,
    ProgressLines,
    ValidationCallback,
    kept_step,
    reply_score,
    validation_groups,
)
from rarl.training.config import config_from
from rarl.training.run import check_and_begin
from rarl.training.sections import Weights
from rarl.training.trainer_fields import check_trainer_fields

VARYING = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "num_tokens"}


@pytest.fixture(scope="module")
def small(digits, tmp_path_factory):
    """Few digits."""
    sizes = {"train": 24, "validation": 12, "test": 4}
    splits = {
        split: [(row.id, row.value, row.path.read_bytes()) for row in digits.split(split)[:size]]
        for split, size in sizes.items()
    }
    return write_collection(tmp_path_factory.mktemp("collections") / "small", DIGITS, splits)


STAGE = {"name": "rarl", "images": [2], "max_steps": 5, "mutation": {"k": 2, "probability": 0.8}}
ASKED = {"every": 2, "prompts": 2, "images": [1, 2]}
SFT = {"max_steps": 5}
SFT_ALONE = {"sft": SFT, "stages": [{**STAGE, "max_steps": 1}]}


@pytest.fixture(scope="module")
def config_in(small):
    """`config_in(folder, validation={...})`: one stage of five steps, a checkpoint a step."""

    def make(output, **changes):
        plain = {
            "task": "digits",
            "data": str(small.root),
            "output": str(output),
            "seed": 3,
            "stages": [STAGE],
            "trainer": {
                "prompts_per_step": 1,
                "num_generations": 4,
                "learning_rate": 2e-3,
                "beta": 0.0,  # no reference model
                "max_completion_length": 48,
                "logging_steps": 1,
                "save_steps": 1,
            },
            "validation": ASKED,
            "evaluation": {"images": [2], "lists": 2, "max_new_tokens": 16},
        }
        return config_from(plain | changes, "test")

    return make


@pytest.fixture
def config_of(config_in, tmp_path):
    return lambda name="run", **changes: config_in(tmp_path / name, **changes)


def train(config, arm="rarl", console=None):
    """Trains this arm of `config` alone; its folder."""
    console = console or Console(file=io.StringIO())
    collection = load_collection(config.data)
    rows, held_out = collection.split("train"), validation_groups(config, collection)
    config.output.mkdir(parents=True, exist_ok=True)
    folder = config.output / arm
    [groups] = [stages.stage_groups(config, stage, rows) for stage in config.stages]
    if arm == "sft":
        arms.train_sft(config, groups, folder, console, held_out)
    else:
        arms.train_stage(config, config.stages[0], config.model, groups, folder, console, held_out)
    return folder


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def validated(folder):
    return [line for line in log(folder) if SCORE_KEY in line]


def constant(lines):
    """The lines without what differs between a run and its twin."""
    return [{k: v for k, v in line.items() if k not in VARYING} for line in lines if "loss" in line]


def model_bytes(folder):
    return (folder / "model.safetensors").read_bytes()


class Scores:
    """In place of what is measured: known scores by step, and the weights of each step that was asked."""

    def __init__(self, by_step):
        self.by_step, self.weights = by_step, {}

    def __call__(self, asked):
        trainer = asked._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        self.weights[trainer.state.global_step] = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items()
        }
        return {SCORE_KEY: self.by_step[trainer.state.global_step], "validation/mae": 1.0}


@pytest.fixture
def scores(monkeypatch):
    """`scores({0: 1.0, ...})`: what every step's score is, from now on."""

    def given(by_step):
        known = Scores(by_step)
        monkeypatch.setattr(ValidationCallback, "_measured", lambda asked: known(asked))
        return known

    return given


def same(one, other, atol=0.0):
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=0, atol=atol) for name in one
    )


# ── the score of one reply ───────────────────────────────────────────────────────────────────────────────


def group_of(*values, order=None):
    return Group(
        tuple(Row(str(i), f"/nowhere/{i}.png", value, None, order) for i, value in enumerate(values))
    )


def answer(*listed, thought="<think>so</think>"):
    entries = ", ".join(f'{{"image_id": {image_id}, "value": {value}}}' for image_id, value in listed)
    return f"{thought}<answer>[{entries}]</answer>"


ONES = Weights()
OTHERS = Weights(regression=2, ranking=0.5, format=0.25)
# DIGITS has delta 2: 1 at the truth, (3/4)^2 = 0.5625 one digit away, (1/2)^2 = 0.25 two away, then 0.
TABLE = [
    # One image: no ranking. Right; one away; no thoughts, so no format; nothing.
    (group_of(3.0), answer((1, 3)), ONES, 1 + 1),
    (group_of(3.0), answer((1, 4)), ONES, 0.5625 + 1),
    (group_of(3.0), answer((1, 4), thought=""), ONES, 0.5625),
    (group_of(3.0), "seven", ONES, 0.0),
    (group_of(3.0), answer((1, 4)), OTHERS, 2 * 0.5625 + 0.25),
    # Two images: all right; in the wrong order with its own values ascending; the values right, listed
    # descending (consistency and accuracy 0); one image left out (r_len 1/2, one pair counted 0 is 1/2).
    (group_of(2.0, 5.0), answer((1, 2), (2, 5)), ONES, 1 + 3 + 1),
    (group_of(2.0, 5.0), answer((2, 4), (1, 4)), ONES, (0.25 + 0.5625) / 2 + (1 + 0.5 + 0) + 1),
    (group_of(2.0, 5.0), answer((2, 5), (1, 2)), ONES, 1 + (1 + 0 + 0) + 1),
    (group_of(2.0, 5.0), answer((1, 2)), ONES, 0.5 + (0.5 + 0.5 + 0.5) + 1),
    (group_of(2.0, 5.0), answer((1, 2), (2, 5)), OTHERS, 2 * 1 + 0.5 * 3 + 0.25),
    # Stage 1's weights: the ranking does not count.
    (group_of(2.0, 5.0), answer((1, 2), (2, 5)), Weights(ranking=0), 2.0),
    # All truths the same: nothing to rank.
    (group_of(4.0, 4.0), answer((1, 4), (2, 5)), ONES, (1 + 0.5625) / 2 + 1),
    # A value outside the range counts 0; it is ranked all the same.
    (group_of(2.0, 5.0), answer((1, 2), (2, 50)), ONES, 0.5 + 3 + 1),
    # Only the order is known (picture 2 before picture 1): no regression, whatever the values are.
    (group_of(1.0, 0.0, order=1), answer((2, 7), (1, 8)), ONES, 3 + 1),
    (group_of(1.0, 0.0, order=1), answer((1, 1), (2, 8)), ONES, (1 + 1 + 0) + 1),
    (group_of(1.0, 0.0, order=1), answer((2, 7), (1, 8)), OTHERS, 0.5 * 3 + 0.25),
]


@pytest.mark.parametrize(("group", "text", "weights", "wanted"), TABLE)
def test_the_score_of_one_reply(group, text, weights, wanted):
    assert reply_score(group, text, DIGITS, weights) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("history", "keep", "step"),
    [
        ([], "last", 0),
        ([], "best", 0),
        ([{SCORE_KEY: 1.0, "step": 0}, {"loss": 0, "step": 3}], "last", 3),
        (
            [{SCORE_KEY: 1.0, "step": 0}, {SCORE_KEY: 0.5, "step": 2}, {"train_runtime": 1, "step": 2}],
            "best",
            0,
        ),
        ([{SCORE_KEY: 1.0, "step": 0}, {SCORE_KEY: 2.0, "step": 2}, {SCORE_KEY: 2.0, "step": 4}], "best", 2),
        ([{SCORE_KEY: -1.0, "step": 0}, {SCORE_KEY: -0.5, "step": 2}], "best", 2),
        ([{"loss": 0, "step": 3}], "best", 3),
    ],
)
def test_the_step_that_is_kept(history, keep, step):
    assert kept_step(history, keep) == step


# ── the prompts ──────────────────────────────────────────────────────────────────────────────────────────


def test_as_many_prompts_for_each_number_of_images_from_the_part_that_is_named(config_of, small):
    config = config_of(validation={"prompts": 5, "images": [4, 1, 2, 2]})
    groups = validation_groups(config, small)
    assert [len(group.rows) for group in groups] == [1] * 5 + [2] * 5 + [4] * 5
    held_out = {row.id for row in small.split("validation")}
    assert {row.id for group in groups for row in group.rows} <= held_out


def test_the_prompts_are_the_same_for_all_arms_and_others_for_another_seed(config_of, small):
    config = config_of()
    assert validation_groups(config, small) == validation_groups(config_of("other", sft=SFT), small)
    assert validation_groups(config, small) != validation_groups(config_of(seed=4), small)


def test_without_the_section_nothing_is_asked(config_of, small):
    config = config_of(validation=None)
    assert validation_groups(config, small) == []


# ── the lines of the log ─────────────────────────────────────────────────────────────────────────────────


def test_it_is_asked_at_the_first_step_at_every_so_many_and_at_the_last(config_of):
    text = io.StringIO()
    folder = train(config_of(), console=Console(file=text, width=200))
    assert [line["step"] for line in validated(folder)] == [0, 2, 4, 5]
    wanted = {"mae", "accuracy", "within_one", "srcc", "plcc", "tau2", "tau2_values", "parsed", "valid"}
    for line in validated(folder):
        assert line.keys() - {"epoch", "step"} == {f"validation/{name}" for name in (*wanted, "score")}
        assert all(isinstance(value, int | float) for value in line.values())
    # Training's own lines are all there, at the steps that are validated, too.
    assert [line["step"] for line in log(folder) if "loss" in line] == [1, 2, 3, 4, 5]
    said = [line.split("  ")[:2] for line in text.getvalue().splitlines() if line.startswith("rarl")]
    assert [line[0] for line in said if line[1] == "validation"] == [f"rarl {s}/5" for s in (0, 2, 4, 5)]
    assert [line[0] for line in said if line[1] != "validation"] == [f"rarl {s}/5" for s in range(1, 6)]


def test_a_last_step_that_is_a_multiple_is_asked_once(config_of, scores):
    scores(dict.fromkeys(range(5), 1.0))
    folder = train(config_of(stages=[{**STAGE, "max_steps": 4}]))
    assert [line["step"] for line in validated(folder)] == [0, 2, 4]


def test_sparse_logging_does_not_come_more_often_for_it(config_of, scores):
    """transformers takes every line for that of the step, and writes one at the end if it has not."""
    scores(dict.fromkeys(range(6), 1.0))
    trainer = {**config_of().to_dict()["trainer"], "logging_steps": 4}
    folder = train(config_of(trainer=trainer))
    steps = [line["step"] for line in log(folder) if "loss" in line]
    plain = train(config_of("plain", trainer=trainer, validation=None))
    assert steps == [line["step"] for line in log(plain) if "loss" in line]
    assert constant(log(folder)) == constant(log(plain))  # means over the same steps, none emptied between


def test_a_line_is_what_the_replies_are_worth(config_of, small, monkeypatch):
    """Fixed replies in place of the model's; every number by hand."""
    values = {row.id: row.value for row in small.split("validation")}
    asked = []

    def replies(model, processor, groups, task, batch_size, max_new_tokens):
        asked.append((len(groups), batch_size, max_new_tokens))
        for number, group in enumerate(groups):
            true = [values[row.id] for row in group.rows]
            if len(true) == 1:  # right, then nothing
                yield group, answer((1, true[0])) if number == 0 else "?"
            else:  # in the right order with the right values, then the order turned
                listed = sorted(enumerate(true, 1), key=lambda pair: pair[1])
                yield group, answer(*(listed if number == 2 else listed[::-1]))

    monkeypatch.setattr(validation, "ask", replies)
    stage = {**STAGE, "weights": {"regression": 2, "ranking": 1, "format": 0.5}, "max_steps": 1}
    config = config_of(stages=[stage], evaluation={"images": [2], "lists": 2, "batch_size": 7})
    first, last = validated(train(config))
    # One image: 2*1 + 0.5, and 0. Two: 2*1 + 3 + 0.5, and 2*1 + 1 + 0.5.
    assert first["validation/score"] == pytest.approx((2.5 + 0 + 5.5 + 3.5) / 4)
    assert first["validation/tau2"] == pytest.approx((1 - 1) / 2)
    assert first["validation/parsed"] == pytest.approx(3 / 4)
    assert first["validation/valid"] == pytest.approx(3 / 4)
    single = [group.values[0] for group in validation_groups(config, small)[:2]]
    assert first["validation/mae"] == pytest.approx((0 + abs(single[1] - 4.5)) / 2)  # 4.5: the midpoint
    assert {k: v for k, v in first.items() if k[:3] == "val"} == {
        k: v for k, v in last.items() if k[:3] == "val"
    }
    assert asked == [(4, 7, 48)] * 2


def test_sft_is_scored_with_all_weights_1(config_of, monkeypatch):
    seen = []
    monkeypatch.setattr(
        validation, "reply_score", lambda group, text, task, weights: seen.append(weights) or 1.0
    )
    train(config_of(**{**SFT_ALONE, "sft": {"max_steps": 1}}), "sft")
    assert {tuple(weights.in_order) for weights in seen} == {(1, 1, 1)}


# ── training is the same ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arm", ["rarl", "sft"])
def test_training_is_the_same_with_validation_and_without(config_of, arm):
    """Sampling, and the dropout of adapters, draw from the one generator of the process."""
    changes = {**SFT_ALONE, "lora": {"r": 2, "dropout": 0.2}} if arm == "sft" else {}
    asked = train(config_of("asked", **changes, validation={**ASKED, "every": 1}), arm)
    plain = train(config_of("plain", **changes, validation=None), arm)
    assert model_bytes(asked) == model_bytes(plain)
    assert not same(dict(load_model(plain).state_dict()), dict(load_model("tiny").state_dict()))
    assert constant(log(asked)) == constant(log(plain))
    if arm == "rarl":
        assert (asked / "groups.jsonl").read_text() == (plain / "groups.jsonl").read_text()
    assert not validated(plain)
    assert [line["step"] for line in validated(asked)] == [0, 1, 2, 3, 4, 5]


# ── which weights are kept ───────────────────────────────────────────────────────────────────────────────

BEST = [
    ({0: 1.0, 2: 3.0, 4: 2.0, 5: 2.5}, 2),
    ({0: 1.0, 2: 3.0, 4: 3.0, 5: 3.0}, 2),  # the first of the best
    ({0: 3.0, 2: 1.0, 4: 2.0, 5: 3.0}, 0),  # the model as it was
    ({0: 1.0, 2: 3.0, 4: 2.0, 5: 3.5}, 5),
]


def assert_kept(folder, known, step, atol=0.0):
    """The folder loads as the weights of that step, and says so."""
    assert same(dict(load_model(folder).state_dict()), known.weights[step], atol)
    assert json.loads((folder / "training.json").read_text())["step"] == step
    assert [line["step"] for line in validated(folder)] == list(known.by_step)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # and no checkpoints


@pytest.mark.parametrize(("by_step", "step"), BEST)
def test_the_best_is_kept(config_of, scores, by_step, step):
    known = scores(by_step)
    folder = train(config_of(validation={**ASKED, "keep": "best"}))
    assert not same(known.weights[0], known.weights[2])
    assert not same(known.weights[4], known.weights[5])
    assert_kept(folder, known, step)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "log.jsonl", "groups.jsonl", "task.yaml"} <= names


def test_the_last_is_kept_where_that_is_what_is_asked_for(config_of, scores):
    known = scores(BEST[0][0])
    assert_kept(train(config_of()), known, 5)


def test_the_best_of_sft_is_kept(config_of, scores):
    by_step, step = BEST[0]
    known = scores(by_step)
    assert_kept(train(config_of(**SFT_ALONE, validation={**ASKED, "keep": "best"}), "sft"), known, step)


@pytest.mark.parametrize(("by_step", "step"), [BEST[0], BEST[2]])
def test_the_best_of_adapters_is_kept_merged(config_of, scores, by_step, step, monkeypatch):
    known = scores(by_step)
    merged = {}
    measured = ValidationCallback._measured

    def watched(asked):
        found = measured(asked)
        model = asked._trainer.accelerator.unwrap_model(asked._trainer.model)
        model.merge_adapter()
        merged[asked._trainer.state.global_step] = {
            name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor.detach().clone()
            for name, tensor in model.state_dict().items()
            if "lora_" not in name
        }
        model.unmerge_adapter()
        return found

    monkeypatch.setattr(ValidationCallback, "_measured", watched)
    folder = train(config_of(lora={"r": 4, "alpha": 8}, validation={**ASKED, "keep": "best"}))
    known.weights = merged
    assert not same(merged[0], merged[2], atol=1e-4)
    assert_kept(folder, known, step, atol=1e-5)
    assert not (folder / "adapter_config.json").exists()


# ── interrupted ──────────────────────────────────────────────────────────────────────────────────────────


def stop_at(monkeypatch, event, step, times=1):
    """Ctrl-C when this event of the trainer's has been dealt with at that step, so many times."""
    left = [times]

    def stop(lines, args, state, control, **kwargs):
        if state.global_step == step and left[0]:
            left[0] -= 1
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLines, event, stop)


RISING = {0: 1.0, 2: 3.0, 4: 4.0, 5: 2.5}
FALLING = {0: 1.0, 2: 3.0, 4: 2.0, 5: 2.5}


@pytest.fixture(scope="module")
def whole(config_in, tmp_path_factory):
    """Of runs that were not interrupted: by what is kept and its scores, the arm's folder."""
    folders = {}
    for keep, by_step in (("best", RISING), ("best", FALLING), ("last", FALLING)):
        root = tmp_path_factory.mktemp("whole")
        with pytest.MonkeyPatch.context() as patch:
            known = Scores(by_step)
            patch.setattr(ValidationCallback, "_measured", lambda asked, known=known: known(asked))
            folders[keep, by_step[4]] = train(config_in(root, validation={**ASKED, "keep": keep}))
    return lambda keep, by_step: folders[keep, by_step[4]]


def assert_same_end(folder, reference):
    assert model_bytes(folder) == model_bytes(reference)
    assert constant(log(folder)) == constant(log(reference))
    assert validated(folder) == validated(reference)
    assert (folder / "groups.jsonl").read_text() == (reference / "groups.jsonl").read_text()
    records = [json.loads((where / "training.json").read_text()) for where in (folder, reference)]
    assert records[0]["step"] == records[1]["step"]
    assert [path.name for path in folder.parent.iterdir()] == ["rarl"]


@pytest.mark.parametrize(("keep", "step"), [("best", 1), ("best", 5), ("last", 3)])
def test_interrupted_at_a_checkpoint_the_end_is_the_same(config_of, scores, monkeypatch, whole, step, keep):
    scores(FALLING)
    config = config_of(validation={**ASKED, "keep": keep})
    with monkeypatch.context() as patch:
        stop_at(patch, "on_save", step)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert (config.output / f"checkpoints/rarl/checkpoint-{step}").is_dir()
    folder = train(config)
    assert_same_end(folder, whole(keep, FALLING))
    # Nobody has seen the whole of it.
    assert json.loads((folder / "training.json").read_text())["seconds"] is None


@pytest.mark.parametrize("step", [0, 4])
def test_killed_between_the_validation_and_the_checkpoint(config_of, scores, monkeypatch, whole, step):
    """The step is not in a checkpoint, and its best model is put aside already."""
    scores(RISING)
    config = config_of(validation={**ASKED, "keep": "best"})
    validate = ValidationCallback._validate

    def stop(asked, state, control):
        validate(asked, state, control)
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ValidationCallback, "_validate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (config.output / f"checkpoints/rarl/checkpoint-{step}").exists()
    assert_same_end(train(config), whole("best", RISING))


def test_killed_while_the_best_takes_its_place(config_of, scores, monkeypatch, whole):
    """The former best is gone then, and the new one has not its name."""
    scores(RISING)
    config = config_of(validation={**ASKED, "keep": "best"})

    def half(temporary, folder):
        if folder.exists():
            shutil.rmtree(folder)
            raise KeyboardInterrupt
        temporary.rename(folder)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "finish", half)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (config.output / "checkpoints/rarl/best").exists()
    assert_same_end(train(config), whole("best", RISING))


def test_adapters_and_sft_interrupted_keep_the_best(config_of, scores, monkeypatch):
    scores(FALLING)
    changes = {**SFT_ALONE, "lora": {"r": 4, "dropout": 0.1}, "validation": {**ASKED, "keep": "best"}}
    whole, parts = train(config_of("whole", **changes), "sft"), config_of("parts", **changes)
    with monkeypatch.context() as patch:
        stop_at(patch, "on_save", 3)
        with pytest.raises(KeyboardInterrupt):
            train(parts, "sft")
    folder = train(parts, "sft")
    assert model_bytes(folder) == model_bytes(whole)
    assert validated(folder) == validated(whole)


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spread", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_a_model_that_no_process_holds_whole_is_not_asked(config_of, monkeypatch, spread):
    fit = arms._fit

    def pretend(trainer, *rest):
        begin = trainer.callback_handler.on_train_begin

        def begun(*args):
            setattr(trainer, spread, True)
            return begin(*args)

        trainer.callback_handler.on_train_begin = begun
        fit(trainer, *rest)

    monkeypatch.setattr(arms, "_fit", pretend)
    with pytest.raises(ConfigError, match=r"^validation: .*FSDP, DeepSpeed.*remove this section"):
        train(config_of())


def refused(config):
    """The message; the run's folder must not have been begun."""
    check_trainer_fields(config)
    with pytest.raises(RarlError) as caught:
        check_and_begin(config, resume=False)
    assert not (config.output / "config.yaml").exists()
    return str(caught.value)


def test_too_few_images_are_told_before_anything_runs(config_of):
    assert refused(config_of(validation={"images": [1, 16]})).startswith("validation.images: a group of 16")


def test_a_part_that_is_missing_is_told_before_anything_runs(config_of, small):
    assert "no split 'held-out'" in refused(config_of(validation={"split": "held-out"}))


def test_a_part_that_the_digits_have_not_is_told_before_anything_runs(config_of):
    assert "held-out" in refused(config_of(data=None, validation={"split": "held-out"}))


def test_one_image_of_which_the_order_is_known_is_told_before_anything_runs(config_of, small, tmp_path):
    root = tmp_path / "orders"
    shutil.copytree(small.root, root)
    file = root / "validation/metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ids = [row["id"] for row in sorted(rows, key=lambda row: row.pop("value"))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "validation/orders.jsonl").write_text(json.dumps({"ids": ids}) + "\n")
    message = refused(config_of(data=str(root)))
    assert message.startswith("validation.images: must not have 1")
    assert "orders alone" in message

    # Lists alone can be asked: no regression, no MAE.
    stage = {**STAGE, "max_steps": 1}
    config = config_of(data=str(root), stages=[stage], validation={"images": [2, 4], "prompts": 2})
    for line in validated(train(config)):
        assert "validation/mae" not in line
        assert {"validation/tau2", "validation/tau4", "validation/score"} <= line.keys()


# ── several processes ────────────────────────────────────────────────────────────────────────────────────


def test_two_processes_ask_once_and_keep_the_best(config_of, tmp_path, in_two_processes):
    settings = {**ASKED, "every": 1, "keep": "best"}
    changes = {"stages": [{**STAGE, "max_steps": 2}], "validation": settings}
    pair, one = config_of("pair", **changes), config_of("one", **changes)
    pair.output.mkdir()
    (tmp_path / "pair.json").write_text(json.dumps(pair.to_dict()))
    alone = in_two_processes(__file__, tmp_path / "pair.json", alone=lambda: train(one))
    folder = pair.output / "rarl"
    assert [line["step"] for line in validated(folder)] == [0, 1, 2]
    assert validated(folder)[0] == validated(alone)[0]  # of the same model, by one process
    assert [line["step"] for line in log(folder) if "loss" in line] == [1, 2]
    kept = json.loads((folder / "training.json").read_text())["step"]
    found = [line[SCORE_KEY] for line in validated(folder)]
    assert kept == found.index(max(found))
    assert model_bytes(folder)
    assert [path.name for path in pair.output.iterdir()] == ["rarl"]


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        train(config_from(json.load(file), "pair"))
