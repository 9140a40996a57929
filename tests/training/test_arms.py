"""One arm is trained with adapters, from adapters, and without warnings: what its folder loads to, and from
which model its KL is measured."""

import warnings

import pytest
import torch

from helpers.training import log, quiet, run_config, same, weights
from rarl.models.loading import load_model, load_processor
from rarl.training import arms
from rarl.training import run as stages
from rarl.training.callbacks import ProgressLines
from rarl.training.config import config_from


@pytest.fixture
def config_of(digits, tmp_path):
    """A configuration of two short stages."""

    def make(name="run", **changes):
        stage = {"images": [2], "max_steps": 2}
        sections = {
            "stages": [{"name": "first", **stage}, {"name": "second", **stage}],
            "trainer": {"learning_rate": 3e-3, "max_completion_length": 32},
        }
        return run_config(digits.root, tmp_path / name, **(sections | changes))

    return make


@pytest.fixture
def seen(monkeypatch):
    """For each arm by name: its weights before and after training, with an adapter merged, and the
    reference's."""
    fit, found = arms._fit, {}

    def whole(trainer):
        """The merged weights; the adapter itself is not changed."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not hasattr(model, "merge_adapter"):
            return weights(model)
        model.merge_adapter()
        merged = {
            name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
            for name, tensor in weights(model).items()
            if "lora_" not in name
        }
        model.unmerge_adapter()
        return merged

    def watched(trainer, lines, start, folder, config):
        reference = None if trainer.ref_model is None else weights(trainer.ref_model)
        found[folder.name] = {"start": whole(trainer), "reference": reference}
        train = trainer.train

        def watched_train(*args, **kwargs):
            train(*args, **kwargs)
            found[folder.name]["end"] = whole(trainer)

        trainer.train = watched_train
        fit(trainer, lines, start, folder, config)

    monkeypatch.setattr(arms, "_fit", watched)
    return found


def trained(config, digits):
    config.output.mkdir(parents=True, exist_ok=True)
    stages.train_arms(config, digits, quiet())


def test_adapters_of_two_stages_stand_on_each_other(config_of, digits, seen):
    from transformers import AutoModelForImageTextToText

    config = config_of(lora={"r": 4, "alpha": 8})
    trained(config, digits)
    base = weights(load_model("tiny"))
    first, second = (weights(load_model(config.output / name)) for name in ("first", "second"))
    assert same(seen["first"]["start"], base, atol=1e-6)
    assert same(first, seen["first"]["end"], atol=1e-6)
    assert same(seen["second"]["start"], first, atol=1e-6)
    assert same(second, seen["second"]["end"], atol=1e-6)
    for one, other in [(base, first), (first, second), (base, second)]:
        assert not same(one, other, atol=1e-4)
    for name in ("first", "second"):
        # It loads without peft, without the folder of the stage before, and with transformers alone.
        folder = config.output / name
        assert not (folder / "adapter_config.json").exists()
        assert same(weights(AutoModelForImageTextToText.from_pretrained(folder)), weights(load_model(folder)))
        load_processor(folder)
        # With its adapter switched off the model is the stage's start: the KL begins at 0 in each.
        assert seen[name]["reference"] is None
        assert log(folder)[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert log(folder)[1]["kl"] > 0
    assert sorted(path.name for path in config.output.iterdir()) == ["first", "second"]


def test_adapters_trains_few_weights(config_of, digits, monkeypatch):
    shares = []

    def count(trainer, *rest):
        parameters = list(trainer.model.parameters())
        shares.append(
            sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)
        )

    monkeypatch.setattr(arms, "_fit", count)
    config = config_of(lora={"r": 2}, sft={})
    trained(config_from(config.to_dict() | {"stages": config.to_dict()["stages"][:1]}, "test"), digits)
    assert len(shares) == 2
    assert all(0 < share < 0.3 for share in shares)


def test_adapters_interrupted_end_the_same(config_of, digits, monkeypatch):
    def stop(lines, args, state, control, **kwargs):
        if lines._arm in ("sft", "second") and state.global_step == 1:
            raise KeyboardInterrupt

    # Dropout draws from the generator, so a checkpoint must hold the generator's state.
    changes = {"lora": {"r": 4, "dropout": 0.1}, "sft": {"max_steps": 2}}
    whole, parts = config_of("whole", **changes), config_of("parts", **changes)
    trained(whole, digits)
    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, "on_save", stop)
        for arm in ("sft", "second"):
            with pytest.raises(KeyboardInterrupt):
                trained(parts, digits)
            assert (parts.output / "checkpoints" / arm / "checkpoint-1").is_dir()
    trained(parts, digits)
    for name in ("sft", "first", "second"):
        model = f"{name}/model.safetensors"
        assert (whole.output / model).read_bytes() == (parts.output / model).read_bytes(), name


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_start_that_is_an_adapter_is_its_own_reference(config_of, digits, seen, tmp_path, lora):
    """TRL by itself would measure the KL from the adapter's base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        load_model("tiny"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    start = weights(load_model(folder))
    assert not same(start, weights(load_model("tiny")), atol=1e-4)

    config = config_of(model=str(folder), lora=lora)
    config = config_from(config.to_dict() | {"stages": config.to_dict()["stages"][:1]}, "test")
    trained(config, digits)
    assert same(seen["first"]["start"], start, atol=1e-6)
    if lora is None:
        assert same(seen["first"]["reference"], start)
    assert log(config.output / "first")[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert same(weights(load_model(config.output / "first")), seen["first"]["end"], atol=1e-6)
    assert [path.name for path in config.output.iterdir()] == ["first"]


def test_training_warns_of_nothing(config_of, digits):
    config = config_of(sft={"max_steps": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(config_from(config.to_dict() | {"stages": config.to_dict()["stages"][:1]}, "test"), digits)
    assert {str(warning.message) for warning in caught if warning.category is FutureWarning} == set()


def test_sft_cuts_nothing_off(config_of, digits, monkeypatch):
    """By default TRL cuts at 1,024 tokens, and the reply is at the end."""
    lengths = []
    monkeypatch.setattr(arms, "_fit", lambda trainer, *rest: lengths.append(trainer.args.max_length))
    config = config_of(sft={})
    arms.train_sft(
        config, stages.stage_groups(config, config.stages[0], digits.split("train")), config.output, quiet()
    )
    chosen = config_of(sft={"trainer": {"max_length": 4096}})
    arms.train_sft(
        chosen, stages.stage_groups(config, config.stages[0], digits.split("train")), config.output, quiet()
    )
    assert lengths == [None, 4096]


def test_sft_learns_from_the_reply_alone(config_of, digits, monkeypatch):
    batches = []

    def collate(trainer, *rest):
        rows = [trainer.train_dataset[i] for i in range(2)]
        batches.append((trainer.processing_class, rows, trainer.data_collator([dict(row) for row in rows])))

    monkeypatch.setattr(arms, "_fit", collate)
    config = config_of(sft={})
    arms.train_sft(
        config, stages.stage_groups(config, config.stages[0], digits.split("train")), config.output, quiet()
    )
    processor, rows, batch = batches[0]
    # Without these types Qwen2.5-VL takes images for text and gives them other positions (transformers 5.23).
    assert (batch["mm_token_type_ids"] == 1).any()
    for row, labels in zip(rows, batch["labels"], strict=True):
        learned = processor.tokenizer.decode(labels[labels != -100])
        assert learned.startswith(row["completion"][0]["content"])
        assert learned.removeprefix(row["completion"][0]["content"]).strip() == processor.tokenizer.eos_token


def test_the_longest_prompts_of_a_large_model_come_first(config_of, digits, monkeypatch):
    """The digits are as long as the embedded model's images can be, so that the number of images decides."""
    begun = {}

    def look(trainer, lines, start, folder, config):
        begun[folder.name] = [len(ids) for ids in trainer.train_dataset["ids"][:4]]

    monkeypatch.setattr(arms, "_fit", look)
    stage = {"images": [1, 2], "max_steps": 2, "weights": {"regression": 1, "ranking": 0, "format": 1}}
    config = config_of(stages=[{"name": "first", **stage}, {"name": "second", **stage}], sft={})
    rows = digits.split("train")
    drawn = [stages.stage_groups(config, each, rows) for each in config.stages]
    lengths = [[len(group.rows) for group in groups] for groups in drawn]
    assert lengths == [[2, 2, 1, 1], [1, 1, 2, 2]]  # by the seeds: only in the second is anything moved
    for small in (True, False):
        monkeypatch.setattr(arms, "is_small", lambda start, small=small: small)
        arms.train_sft(config, [*drawn[0], *drawn[1]], config.output / "sft", quiet())
        for each, groups in zip(config.stages, drawn, strict=True):
            arms.train_stage(config, each, "tiny", groups, config.output / each.name, quiet())
        second = lengths[1] if small else [2, 2, 1, 1]
        assert begun == {"first": lengths[0], "second": second, "sft": lengths[0]}
