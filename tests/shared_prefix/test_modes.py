"""`shared_prefix` on, off and auto: where prompts are shared, why they are not, and what is left
afterwards."""

import logging

import pytest

from helpers.sharing import patches_of, settings, spy_on_vision, trainer_of
from rarl.errors import ConfigError
from rarl.models.loading import load_model
from rarl.training.trainer import RARLConfig

MODES = ("on", "auto", "off")


def vision_passes(trainer):
    """How many patches the policy's vision tower sees in a step."""
    calls = []
    spy_on_vision("policy", trainer.model, calls)
    trainer.train()
    return sum(patches for *_, patches in calls)


def test_auto_is_on_where_it_can_be(dataset, tmp_path, caplog):
    given = {"max_steps": 1, "beta": 0.0}
    with caplog.at_level(logging.WARNING, logger="rarl"):
        counts = {shared: vision_passes(trainer_of(dataset, tmp_path, shared, **given)) for shared in MODES}
    assert counts["auto"] == counts["on"] == patches_of(dataset, (0, 1))  # once in all
    assert counts["off"] == 2 * 4 * counts["on"]
    assert not caplog.records


def test_a_batch_that_holds_no_group_is_not_shared(dataset, tmp_path, caplog):
    given = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "max_steps": 1, "beta": 0.0}
    reason = (
        "a micro-batch of 6 responses (per_device_train_batch_size) can't hold whole groups of 4 "
        "(num_generations): make it a multiple, or in a run lower gradient_accumulation_steps or the number "
        "of processes"
    )
    with caplog.at_level(logging.WARNING, logger="rarl"):
        trainer = trainer_of(dataset, tmp_path, "auto", **given)
    [record] = caplog.records
    assert record.getMessage() == f"shared_prefix is off, each response has its own prompt pass: {reason}"
    assert vision_passes(trainer) == 2 * 4 * patches_of(dataset, (0, 1, 2))
    caplog.clear()
    trainer_of(dataset, tmp_path, "off", **given)
    assert not caplog.records
    with pytest.raises(ConfigError) as error:
        trainer_of(dataset, tmp_path, "on", **given)
    assert str(error.value) == f"shared_prefix: on is not possible: {reason}"


def test_an_attention_that_is_replaced_is_named(dataset, tmp_path, caplog):
    model = load_model("tiny", training=True)
    model.set_attn_implementation({"text_config": "eager"})
    with caplog.at_level(logging.WARNING, logger="rarl"):
        trainer_of(dataset, tmp_path, "auto", model=model)
        trainer_of(dataset, tmp_path, "auto", model=model)
        trainer_of(dataset, tmp_path, "auto")
    assert [record.getMessage() for record in caplog.records] == [
        "shared_prefix: the language model's attention is sdpa now, and not eager"
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"cache_implementation": "static"},
        {"generation_kwargs": {"num_beams": 2}},
        {"generation_kwargs": {"use_cache": False}},
    ],
)
def test_generation_with_a_cache_of_its_own_is_not_shared(dataset, tmp_path, given):
    with pytest.raises(ConfigError, match="generation is given a cache or beams of its own"):
        trainer_of(dataset, tmp_path, "on", **given)
    trainer_of(dataset, tmp_path, "on", generation_kwargs={"num_beams": 1, "use_cache": True})


def test_a_models_own_generate_is_used_and_stays(dataset, tmp_path):
    model = load_model("tiny", training=True)
    called = []

    def generate(**inputs):
        called.append(len(inputs["input_ids"]))
        return type(model).generate(model, **inputs)

    model.generate = generate
    trainer_of(dataset, tmp_path, "on", model=model, max_steps=2).train()
    assert called == [8, 8]
    assert model.generate is generate


def test_the_pixels_are_kept_for_the_micro_batches_alone(dataset, tmp_path):
    trainer = trainer_of(dataset, tmp_path, "on", max_steps=1)
    trainer.train()
    assert trainer._images == {}


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"auto.*on.*off"):
        RARLConfig(**settings(tmp_path, shared_prefix="maybe"))
    assert RARLConfig(**settings(tmp_path)).shared_prefix == "auto"


@pytest.mark.parametrize(
    "given", [{"cache_implementation": "static"}, {"generation_kwargs": {"num_beams": 2}}], ids=str
)
def test_a_generation_of_ones_own_is_not_shared(dataset, tmp_path, given):
    with pytest.raises(ConfigError, match="a cache or beams of its own"):
        trainer_of(dataset, tmp_path, "on", **given)


def test_a_model_that_can_not_share_is_not_shared(dataset, tmp_path, caplog):
    """Which models can share is tested in `test_packing.py`."""

    def model():
        model = load_model("tiny", training=True)
        model.config.text_config.layer_types[1] = "sliding_attention"
        return model

    with pytest.raises(ConfigError, match="sliding-window attention"):
        trainer_of(dataset, tmp_path, "on", model=model(), beta=0.0)
    trainer_of(dataset, tmp_path, "auto", model=model(), beta=0.0)
    [record] = caplog.records
    assert "sliding-window attention" in record.getMessage()


def test_a_trained_model_is_saved_without_it(dataset, tmp_path):
    trainer_of(dataset, tmp_path, "on", save_strategy="steps", save_steps=1).train()
    for path in tmp_path.glob("checkpoint-*/*.json"):
        assert '"_attn_implementation' not in path.read_text()
        if path.name == "config.json":
            assert "shared_prefix" not in path.read_text()
    again = load_model(tmp_path / "checkpoint-2")
    assert again.config.text_config._attn_implementation == "sdpa"
