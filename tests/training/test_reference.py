"""The reference of a stage's KL: the model that it starts from, or with `reference: base` the run's own
model."""

import pytest
import torch

from helpers.sharing import lora as adapter
from helpers.training import log, quiet, run_config, same, weights
from rarl.errors import ConfigError
from rarl.models.loading import load_model
from rarl.training import arms
from rarl.training import run as stages
from rarl.training.callbacks import ProgressLines
from rarl.training.keeping.checkpoints import check_output

FIRST = {"name": "first", "images": [2], "max_steps": 2, "reference": "base"}
SECOND = {"name": "second", "images": [2], "max_steps": 2, "reference": "base"}
LORA = {"r": 4, "alpha": 8}


def config_of(digits, output, second=SECOND, trainer=None, **changes):
    keys = {"learning_rate": 3e-3, "max_completion_length": 32, **(trainer or {})}
    return run_config(digits.root, output, [FIRST, second], keys, **changes)


def trained(config, digits):
    config.output.mkdir(parents=True, exist_ok=True)
    stages.train_arms(config, digits, quiet())


@pytest.fixture
def references(monkeypatch):
    """arm -> the weights of its reference before training and after; None if it has no model of its own."""
    fit, found = arms._fit, {}

    def watched(trainer, lines, start, folder, config):
        before = None if trainer.ref_model is None else weights(trainer.ref_model)
        fit(trainer, lines, start, folder, config)
        after = None if trainer.ref_model is None else weights(trainer.ref_model)
        found[folder.name] = before, after

    monkeypatch.setattr(arms, "_fit", watched)
    return found


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("shared", ["on", "off"])
def test_the_base_is_the_reference_of_the_second_stage(digits, tmp_path, references, lora, shared):
    config = config_of(digits, tmp_path / "run", trainer={"shared_prefix": shared}, lora=lora)
    trained(config, digits)
    base = weights(load_model("tiny"))
    assert not same(base, weights(load_model(config.output / "first")), atol=1e-4)
    before, after = references["second"]
    assert same(before, base)
    assert same(after, base)  # it is not trained
    assert (references["first"][0] is None) == (
        lora is not None
    )  # its start is the base: TRL's own reference
    assert log(config.output / "first")[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert log(config.output / "second")[0]["kl"] > 1e-3


@pytest.mark.parametrize("lora", [None, LORA])
def test_its_kl_is_the_base_s(digits, tmp_path, lora):
    """At the second stage's first step the policy is still the first stage's: its KL is computed here from
    the two models alone."""
    config = config_of(digits, tmp_path / "run", lora=lora)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = arms.RARLTrainer._compute_loss

        def watched(self, model, inputs):
            seen.append((self.args.output_dir, inputs))
            return original(self, model, inputs)

        patch.setattr(arms.RARLTrainer, "_compute_loss", watched)
        trained(config, digits)
    inputs = next(inputs for folder, inputs in seen if folder.endswith("second"))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    keep = inputs["completion_ids"].shape[1]
    grids, patches = inputs["image_grid_thw"], inputs["pixel_values"]
    each = int(grids[0].prod())  # the patches of an image

    def logps_of(model):
        found = []
        for row in range(len(ids)):
            first = 2 * (row // config.trainer.num_generations)  # of the two images of its prompt
            grid, pixels = grids[first : first + 2], patches[first * each : (first + 2) * each]
            real = mask[row] == 1
            with torch.no_grad():
                logits = model(
                    input_ids=ids[row][real][None], pixel_values=pixels, image_grid_thw=grid
                ).logits[0]
            length = int(mask[row, -keep:].sum())
            scores = logits[-length - 1 : -1].log_softmax(-1)
            found.append(scores.gather(1, ids[row][real][-length:, None])[:, 0])
        return torch.cat(found)

    policy, base = logps_of(load_model(config.output / "first")), logps_of(load_model("tiny"))
    expected = (torch.exp(base - policy) - (base - policy) - 1).mean().item()
    assert log(config.output / "second")[0]["kl"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("lora", [None, LORA])
def test_interrupted_it_ends_the_same(digits, tmp_path, references, monkeypatch, lora):
    def stop(lines, args, state, control, **kwargs):
        if lines._arm == "second" and state.global_step == 1:
            raise KeyboardInterrupt

    whole, parts = (config_of(digits, tmp_path / name, lora=lora) for name in ("whole", "parts"))
    trained(whole, digits)
    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, "on_save", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(parts, digits)
    assert (parts.output / "checkpoints/second/checkpoint-1").is_dir()
    trained(parts, digits)
    assert same(references["second"][0], weights(load_model("tiny")))
    for name in ("first", "second"):
        model = f"{name}/model.safetensors"
        assert (whole.output / model).read_bytes() == (parts.output / model).read_bytes(), name
    assert sorted(path.name for path in parts.output.iterdir()) == ["first", "second"]


def test_a_base_that_is_an_adapter_is_taken_with_it(digits, tmp_path, references):
    from peft import get_peft_model

    torch.manual_seed(0)
    folder = tmp_path / "adapter"
    get_peft_model(load_model("tiny"), adapter(init_lora_weights=False)).save_pretrained(folder)
    base = weights(load_model(folder))
    assert not same(base, weights(load_model("tiny")), atol=1e-4)
    config = config_of(digits, tmp_path / "run", model=str(folder))
    trained(config, digits)
    assert same(references["second"][0], base)
    assert sorted(path.name for path in config.output.iterdir()) == ["first", "second"]


def test_without_a_kl_no_reference_is_loaded(digits, tmp_path, references):
    trained(config_of(digits, tmp_path / "run", trainer={"beta": 0.0}), digits)
    assert references["second"] == (None, None)


def test_what_is_refused(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"stages\[1\].reference: .*'base'"):
        config_of(digits, tmp_path, SECOND | {"reference": "first"})
    with pytest.raises(ConfigError) as caught:
        config_of(digits, tmp_path, trainer={"sync_ref_model": True})
    assert str(caught.value).splitlines() == [
        f"test: stages[{number}].reference: 'base' is not possible with sync_ref_model" for number in (0, 1)
    ]


def test_a_run_of_an_earlier_version_had_the_start(digits, tmp_path):
    """Its config.yaml has no such key."""
    plain = {key: value for key, value in SECOND.items() if key != "reference"}
    config = run_config(digits.root, tmp_path, [plain])
    text = config.to_yaml()
    assert "  reference: null\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("  reference: null\n", ""))
    check_output(tmp_path, config.to_dict(), resume=True)
    with pytest.raises(ConfigError, match=r"stages\[0\].reference: null before, 'base' now"):
        check_output(tmp_path, run_config(digits.root, tmp_path, [SECOND]).to_dict(), resume=True)
