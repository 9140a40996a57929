"""Validation while an arm trains: what its lines say, that training is the same with it and without, which
weights are kept, and what is refused."""

import io
import json
import shutil

import pytest
from rich.console import Console

from helpers.training import log, same
from helpers.validated import ASKED, SFT_ALONE, STAGE, model_bytes, steps_of, train, validated
from rarl.errors import RarlError
from rarl.models.loading import load_model
from rarl.training import callbacks as validation
from rarl.training.callbacks import (
    ValidationCallback,
    validation_groups,
)
from rarl.training.checking import check_and_begin
from rarl.training.config import check_trainer_fields


def answer(*listed):
    entries = ", ".join(f'{{"image_id": {image_id}, "value": {value}}}' for image_id, value in listed)
    return f"<think>so</think><answer>[{entries}]</answer>"


# ── the lines of the log ─────────────────────────────────────────────────────────────────────────────────


def test_it_is_asked_at_the_first_step_at_every_so_many_and_at_the_last(validated_config_of):
    text = io.StringIO()
    folder = train(validated_config_of(), console=Console(file=text, width=200))
    assert [line["step"] for line in validated(folder)] == [0, 2, 4, 5]
    wanted = {"mae", "accuracy", "within_one", "srcc", "plcc", "tau2", "tau2_values", "parsed", "valid"}
    for line in validated(folder):
        assert line.keys() - {"epoch", "step"} == {f"validation/{name}" for name in (*wanted, "score")}
        assert all(isinstance(value, int | float) for value in line.values())
    # All of training's own lines are there, including those of validated steps.
    assert [line["step"] for line in log(folder) if "loss" in line] == [1, 2, 3, 4, 5]
    said = [line.split("  ")[:2] for line in text.getvalue().splitlines() if line.startswith("rarl")]
    assert [line[0] for line in said if line[1] == "validation"] == [f"rarl {s}/5" for s in (0, 2, 4, 5)]
    assert [line[0] for line in said if line[1] != "validation"] == [f"rarl {s}/5" for s in range(1, 6)]


def test_a_last_step_that_is_a_multiple_is_asked_once(validated_config_of, scores):
    scores(dict.fromkeys(range(5), 1.0))
    folder = train(validated_config_of(stages=[{**STAGE, "max_steps": 4}]))
    assert [line["step"] for line in validated(folder)] == [0, 2, 4]


def test_sparse_logging_does_not_come_more_often_for_it(validated_config_of, scores):
    """transformers takes any line for the step's own, and writes one at the end if the last step has none."""
    scores(dict.fromkeys(range(6), 1.0))
    trainer = {**validated_config_of().to_dict()["trainer"], "logging_steps": 4}
    folder = train(validated_config_of(trainer=trainer))
    steps = [line["step"] for line in log(folder) if "loss" in line]
    plain = train(validated_config_of("plain", trainer=trainer, validation=None))
    assert steps == [line["step"] for line in log(plain) if "loss" in line]
    assert steps_of(log(folder)) == steps_of(log(plain))  # means over the same steps, none emptied between


def test_a_line_is_what_the_replies_are_worth(validated_config_of, validated_digits, monkeypatch):
    """Fixed replies replace the model's; every number is computed by hand."""
    values = {row.id: row.value for row in validated_digits.split("validation")}
    asked = []

    def replies(model, processor, groups, task, batch_size, max_new_tokens, *, shared, together):
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
    config = validated_config_of(stages=[stage], evaluation={"images": [2], "lists": 2, "batch_size": 7})
    first, last = validated(train(config))
    # One image: 2*1 + 0.5, and 0. Two: 2*1 + 3 + 0.5, and 2*1 + 1 + 0.5.
    assert first["validation/score"] == pytest.approx((2.5 + 0 + 5.5 + 3.5) / 4)
    assert first["validation/tau2"] == pytest.approx((1 - 1) / 2)
    assert first["validation/parsed"] == pytest.approx(3 / 4)
    assert first["validation/valid"] == pytest.approx(3 / 4)
    single = [group.values[0] for group in validation_groups(config, validated_digits)[:2]]
    assert first["validation/mae"] == pytest.approx((0 + abs(single[1] - 4.5)) / 2)  # 4.5: the midpoint
    assert {k: v for k, v in first.items() if k[:3] == "val"} == {
        k: v for k, v in last.items() if k[:3] == "val"
    }
    assert asked == [(4, 7, 48)] * 2


def test_sft_is_scored_with_all_weights_1(validated_config_of, monkeypatch):
    seen = []
    monkeypatch.setattr(
        validation, "reply_score", lambda group, text, task, weights: seen.append(weights) or 1.0
    )
    train(validated_config_of(**{**SFT_ALONE, "sft": {"max_steps": 1}}), "sft")
    assert {tuple(weights.in_order) for weights in seen} == {(1, 1, 1)}


# ── training is the same ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arm", ["rarl", "sft"])
def test_training_is_the_same_with_validation_and_without(validated_config_of, arm):
    """Sampling, and the dropout of adapters, draw from the one generator of the process."""
    changes = {**SFT_ALONE, "lora": {"r": 2, "dropout": 0.2}} if arm == "sft" else {}
    asked = train(validated_config_of("asked", **changes, validation={**ASKED, "every": 1}), arm)
    plain = train(validated_config_of("plain", **changes, validation=None), arm)
    assert model_bytes(asked) == model_bytes(plain)
    assert not same(dict(load_model(plain).state_dict()), dict(load_model("tiny").state_dict()))
    assert steps_of(log(asked)) == steps_of(log(plain))
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
    """The folder holds the weights of that step, and its record says so."""
    assert same(dict(load_model(folder).state_dict()), known.weights[step], atol)
    assert json.loads((folder / "training.json").read_text())["step"] == step
    assert [line["step"] for line in validated(folder)] == list(known.by_step)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # and no checkpoints


@pytest.mark.parametrize(("by_step", "step"), BEST)
def test_the_best_is_kept(validated_config_of, scores, by_step, step):
    known = scores(by_step)
    folder = train(validated_config_of(validation={**ASKED, "keep": "best"}))
    assert not same(known.weights[0], known.weights[2])
    assert not same(known.weights[4], known.weights[5])
    assert_kept(folder, known, step)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "log.jsonl", "groups.jsonl", "task.yaml"} <= names


def test_the_last_is_kept_where_that_is_what_is_asked_for(validated_config_of, scores):
    known = scores(BEST[0][0])
    assert_kept(train(validated_config_of()), known, 5)


def test_the_best_of_sft_is_kept(validated_config_of, scores):
    by_step, step = BEST[0]
    known = scores(by_step)
    assert_kept(
        train(validated_config_of(**SFT_ALONE, validation={**ASKED, "keep": "best"}), "sft"), known, step
    )


@pytest.mark.parametrize(("by_step", "step"), [BEST[0], BEST[2]])
def test_the_best_of_adapters_is_kept_merged(validated_config_of, scores, by_step, step, monkeypatch):
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
    folder = train(validated_config_of(lora={"r": 4, "alpha": 8}, validation={**ASKED, "keep": "best"}))
    known.weights = merged
    assert not same(merged[0], merged[2], atol=1e-4)
    assert_kept(folder, known, step, atol=1e-5)
    assert not (folder / "adapter_config.json").exists()


# ── refused ──────────────────────────────────────────────────────────────────────────────────────────────


def refused(config):
    """The error's message. The run's folder must not have been begun."""
    check_trainer_fields(config)
    with pytest.raises(RarlError) as caught:
        check_and_begin(config, resume=False)
    assert not (config.output / "config.yaml").exists()
    return str(caught.value)


def test_too_few_images_are_told_before_anything_runs(validated_config_of):
    assert refused(validated_config_of(validation={"images": [1, 16]})).startswith(
        "validation.images: a group of 16"
    )


def test_a_split_that_is_missing_is_told_before_anything_runs(validated_config_of, validated_digits):
    assert "no split 'held-out'" in refused(validated_config_of(validation={"split": "held-out"}))


def test_a_split_that_the_digits_have_not_is_told_before_anything_runs(validated_config_of):
    assert "held-out" in refused(validated_config_of(data=None, validation={"split": "held-out"}))


def test_one_image_of_which_the_order_is_known_is_told_before_anything_runs(
    validated_config_of, validated_digits, tmp_path
):
    root = tmp_path / "orders"
    shutil.copytree(validated_digits.root, root)
    file = root / "validation/metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ids = [row["id"] for row in sorted(rows, key=lambda row: row.pop("value"))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "validation/orders.jsonl").write_text(json.dumps({"ids": ids}) + "\n")
    message = refused(validated_config_of(data=str(root)))
    assert message.startswith("validation.images: must not have 1")
    assert "orders alone" in message

    # Lists can be asked: no regression, no MAE.
    stage = {**STAGE, "max_steps": 1}
    config = validated_config_of(data=str(root), stages=[stage], validation={"images": [2, 4], "prompts": 2})
    for line in validated(train(config)):
        assert "validation/mae" not in line
        assert {"validation/tau2", "validation/tau4", "validation/score"} <= line.keys()
