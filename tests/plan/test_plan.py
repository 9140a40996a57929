"""The plan of a run: sizes of models, lengths of prompts, what fits, and what the command says. Nothing is
read from the hub, and only one test trains."""

import json

import pytest

from helpers import ROOT
from helpers.training import run_config
from rarl.cli import main
from rarl.errors import ConfigError, ModelError
from rarl.models.loading import load_model
from rarl.plan.architecture import SHARED, architecture_of, known_models
from rarl.plan.run import plan_run
from rarl.plan.tokens import _estimated_text, reading_of, stage_lengths
from rarl.shared_prefix.packing import MODEL_TYPES
from rarl.training.config import load_config

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PRESETS = [file for file in CONFIGS if file.stem != "sign_digits"]
GB = 1e9


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────


def test_parameters_of_the_known_models():
    """As the hub gives them for the weights' files."""
    assert {name: architecture_of(name).parameters for name in known_models()} == {
        "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
        "HuggingFaceTB/SmolVLM-256M-Instruct": 256_484_928,
    }


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_adapters_have_the_parameters_that_peft_gives_them(targets):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model("tiny"), LoraConfig(r=3, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert architecture_of("tiny").adapter_parameters(3, targets) == trained


def test_the_families_that_share_prompts():
    assert set(SHARED) == set(MODEL_TYPES)


def test_a_model_of_which_nothing_is_known():
    with pytest.raises(ModelError, match=r"can't plan with the model nobody/nothing: .*Qwen/Qwen2.5-VL-3B"):
        architecture_of("nobody/nothing")


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────

STAGE = {"name": "rarl", "images": [1, 2, 2], "max_steps": 3}


@pytest.fixture
def config_of(few_digits, tmp_path):
    def make(data=None, **changes):
        data = data or few_digits(train=24, validation=10, test=10).root
        return run_config(data, tmp_path / "run", [STAGE], **changes)

    return make


def test_lengths_are_those_of_the_groups_that_will_be_drawn(config_of):
    config = config_of()
    reading = reading_of(config)
    lengths, notes = stage_lengths(config, config.stages[0], reading, None)
    text = {count: reading.text("handwritten digit", "0-9", count) for count in (1, 2)}
    # An image of 28 x 28 is one token. Three steps of two prompts: one of single images, two of pairs.
    found = [(e.images, e.prompts, e.least, e.median, e.most, e.of_images) for e in lengths]
    assert found == [(1, 2, *[text[1] + 1] * 3, 1), (2, 4, *[text[2] + 2] * 3, 2)]
    assert notes == ()


def test_lengths_of_images_of_a_declared_size(config_of, tmp_path):
    config = config_of()
    reading = reading_of(config)
    lengths, notes = stage_lengths(config, config.stages[0], reading, (56, 56))
    assert [(each.prompts, each.of_images) for each in lengths] == [(2, 4), (4, 8)]
    assert notes == ("every image is counted as 56 x 56 pixels",)
    absent = config_of(data=tmp_path / "not there")
    with pytest.raises(ConfigError, match="say how large its images are: --image-size 640x480, or `pixels`"):
        stage_lengths(absent, absent.stages[0], reading, None)
    absent = config_of(data=tmp_path / "not there", pixels=1568)
    lengths, notes = stage_lengths(absent, absent.stages[0], reading_of(absent), None)
    assert lengths[0].of_images == 1
    assert "is not there: every image is counted as 39 x 39" in notes[0]


@pytest.mark.parametrize(
    ("rule", "ends", "tokens"),
    [
        ("facial age", "0-116", {1: 173, 2: 180, 4: 194, 8: 222}),
        ("number of person", "0-200", {1: 176, 2: 183, 4: 197, 8: 225}),
        ("aesthetic quality", "1-10", {1: 172, 2: 179, 4: 193, 8: 221}),
    ],
)
def test_texts_without_a_tokenizer_are_right_to_four_percent(rule, ends, tokens):
    """The numbers are those of Qwen2.5-VL's tokenizer."""
    for count, counted in tokens.items():
        assert _estimated_text(rule, ends, count) == pytest.approx(counted, rel=0.04)


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_every_preset_can_be_planned_and_fits_where_it_says(file):
    config = load_config(file)
    sharded = config.lora is None
    card = 80 if sharded else 24 if "3B" in config.model else 40
    plan = plan_run(config, cards=8 if sharded else 1, card=card * GB, size=None)
    assert plan.fits("fsdp" if sharded else "ddp")
    assert plan.advice == []
    if sharded:  # and it says so for a reason
        assert not plan.fits("ddp")


def test_the_3b_run_that_was_reckoned_before():
    """8 photos of 200 x 200 and 512 new tokens: a prompt of 614 tokens, 15.0 GB of weights in float32, 2.65
    of adapters with Adam, 1.4 of the layers' inputs, 2.8 of the cache; 23 GB in all."""
    config = load_config(ROOT / "configs" / "utkface_3b_lora.yaml", ["dtype=float32"])
    plan = plan_run(config, cards=1, card=80 * GB, size=(200, 200))
    stage = plan.stages[1]
    assert stage.lengths[-1].most == pytest.approx(614, abs=3)
    assert plan.trained * 16 == pytest.approx(2.65 * GB, rel=0.01)
    parts = stage.memory["ddp"]
    assert parts.weights - plan.trained * 4 == pytest.approx(15.0 * GB, rel=0.01)
    assert parts.peak == pytest.approx(23 * GB, rel=0.1)


def test_what_does_not_fit_is_told_what_to_change():
    config = load_config(ROOT / "configs" / "utkface_3b.yaml")
    plan = plan_run(config, cards=1, card=80 * GB, size=None)
    assert not plan.fits("ddp")
    one = "one group at a time (trainer.gradient_accumulation_steps: "
    adapters, more = plan.advice
    assert adapters.startswith(f"lora: {{r: 64, alpha: 128}} in place of all weights, and {one}8): ")
    assert more.startswith(f"2 cards with FSDP, and {one}4): ")
    config = load_config(ROOT / "configs" / "ava_7b_lora.yaml", ["dtype=float32"])
    half, more = plan_run(config, cards=1, card=52 * GB, size=None).advice
    assert half.startswith(f"prompts of half the length (lower `pixels`, fewer images), and {one}8): ")
    assert more.startswith(f"2 cards with FSDP, and {one}4): ")
    assert plan_run(config, cards=1, card=4 * GB, size=None).advice == [
        "a smaller model: no change that can be computed here makes this one fit"
    ]
    config = load_config(ROOT / "configs" / "smolvlm_256m.yaml", ["trainer.gradient_accumulation_steps=1"])
    [grouped, *_] = plan_run(config, cards=1, card=8 * GB, size=None, gpu=False).advice
    assert grouped.startswith(f"{one}2): ")


def test_hours_are_steps_times_seconds():
    plan = plan_run(load_config(ROOT / "configs" / "utkface_3b_lora.yaml"), cards=1, card=80 * GB, size=None)
    assert plan.hours({"rarl": 36.0, "sft": 3.6}) == {"rarl": 5.0, "sft": 1.0}  # 500 and 1,000 steps


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_prints_and_measures(config_of, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(config_of(sft={}).to_yaml())
    main_exits(["plan", str(path), "--cpu", "--measure", "--json"], 0)
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 316_384
    assert found["stages"][0]["memory"]["ddp"]["fits"]
    assert found["measured"]["seconds"].keys() == found["hours"].keys() == {"rarl", "sft"}
    for arm, steps in (("rarl", 3), ("sft", found["sft_steps"])):
        assert found["hours"][arm] == pytest.approx(found["measured"]["seconds"][arm] * steps / 3600)
    assert not (tmp_path / "run").exists()  # what was trained is gone
    main_exits(["plan", str(path), "--step-seconds", "1200"], 0)
    said = capsys.readouterr().out
    assert "0.000316 billion parameters" in said
    assert "rarl: 1 hours" in said


def test_mistakes_on_the_command_line(config_of, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(config_of().to_yaml())
    main_exits(["plan", str(path), "--image-size", "large"], 2)
    assert "--image-size large: must be width x height in pixels, such as 640x480" in capsys.readouterr().err
    main_exits(["plan", str(path), "--cards", "3"], 2)
    assert "does not divide" in capsys.readouterr().err
    main_exits(["plan", str(ROOT / "configs" / "utkface_3b.yaml")], 1)
    assert "it doesn't fit. What to change, any of:\n  - lora: " in capsys.readouterr().out


def main_exits(arguments, code):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert (end.value.code or 0) == code
