"""The trainer with one prompt pass for a group against the same trainer without: on the same responses the
same losses, metrics, gradients and weights, and the images read once. The last part holds one contract test
for each private seam of TRL 1.16 that it leans on, so that an upgrade fails there and says so."""

import gc
import inspect
import json
import logging
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rarl.errors import ConfigError
from rarl.models.loading import load_model, load_processor
from rarl.training.trainer import REWARDS, RARLConfig, RARLTrainer

# Width and height of the images by what they show, so that one is of 1, 2, or 4 tokens.
SIZES = {0: (28, 28), 1: (56, 28), 2: (56, 56), 3: (28, 56)}
MODES = ("on", "auto", "off")
GROUPS = [[3, 7], [1], [2, 8, 4], [5, 6], [9], [0, 2, 6]]


def pictures(digits, folder, groups):
    """A dataset of prompts of digits, as pictures of several sizes."""
    from rarl.data.dataset import to_dataset
    from rarl.data.groups import Group

    first = {}
    for row in reversed(digits.split("train")):
        path = Path(folder) / f"{row.value:.0f}.png"
        if row.value not in first:
            Image.open(row.path).resize(SIZES[row.value % 4]).save(path)
        first[row.value] = replace(row, path=path)
    return to_dataset([Group(tuple(first[value] for value in group)) for group in groups], digits.task)


@pytest.fixture(scope="module", autouse=True)
def _imported_is_no_garbage():
    """accelerate 1.15 collects garbage in every training, which takes longer than the training here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def dataset(digits, tmp_path_factory):
    return pictures(digits, tmp_path_factory.mktemp("pictures"), GROUPS)


@pytest.fixture(scope="module")
def texts():
    """Prompts without images, one longer than the other."""
    rule = [{"role": "user", "content": "handwritten digit"}]
    more = [{"role": "user", "content": "Analyze each image to determine the handwritten digit"}]
    return Dataset.from_dict({"prompt": [rule, more] * 3, "values": [[3.0]] * 6, "step": [1.0] * 6})


# TRL 1.16 still asks transformers 5.23 for it under the old name.
CHECKPOINTING = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_:FutureWarning")


def settings(folder, **given):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 16,
        "max_steps": 2,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "beta": 0.5,
        "temperature": 1.4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "activation_checkpointing": False,
        "use_cpu": True,
        "shuffle_dataset": False,
        "seed": 0,
        **given,
    }


def length_reward(completions, **columns):
    """Apart for nearly all responses, so that every one has an advantage."""
    return [len(str(completion)) % 17 / 5 for completion in completions]


def trainer_of(
    dataset, folder, shared, lora=None, model=None, processor=None, rewards=None, eval_dataset=None, **given
):
    torch.manual_seed(11)  # an adapter draws its weights
    return RARLTrainer(
        model or load_model("tiny", training=True),
        rewards or [length_reward],
        args=RARLConfig(**settings(folder, shared_prefix=shared, **given)),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=processor or load_processor("tiny"),
        peft_config=lora,
    )


def stock_of(dataset, folder, **given):
    """TRL's own trainer."""
    return GRPOTrainer(
        load_model("tiny", training=True),
        [length_reward],
        GRPOConfig(**settings(folder, loss_type="grpo", **given)),
        train_dataset=dataset,
        processing_class=load_processor("tiny"),
    )


class Steps(TrainerCallback):
    """Trains, and keeps each optimizer step's loss and gradients, the logs, and the weights after."""

    def __init__(self, trainer):
        self.losses, self.gradients, self._loss = [], [], 0.0
        self.trainer = trainer
        compute_loss = trainer.compute_loss

        def recorded(model, *args, **kwargs):
            loss = compute_loss(model, *args, **kwargs)
            self._loss += loss.item() if model.training else 0.0
            return loss

        trainer.compute_loss = recorded
        trainer.add_callback(self)
        trainer.train()
        self.logs = trainer.state.log_history
        self.weights = {name: weight.detach() for name, weight in trainer.model.named_parameters()}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = self.trainer.model.named_parameters()
        self.gradients.append({name: w.grad.clone() for name, w in named if w.grad is not None})
        self.losses.append(self._loss)
        self._loss = 0.0


def recording(monkeypatch, calls):
    """Keeps what the policy really says."""
    original = GRPOTrainer._generate_single_turn

    def generate(self, *args, **kwargs):
        ids, logprobs = original(self, *args, **kwargs)
        calls.append([list(each) for each in ids])
        return ids, logprobs

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)


def replaying(monkeypatch, calls, logprob=None):
    """Makes the policy say that again; with a log-prob for each token, as vLLM does."""
    again = iter(calls)

    def generate(self, prompt_ids, *args, **kwargs):
        ids = [list(each) for each in next(again)]
        assert len(ids) == len(prompt_ids)
        return ids, None if logprob is None else [[logprob] * len(each) for each in ids]

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)


def assert_same_steps(own, theirs, metrics=True):
    timed = ("step_time", "runtime", "per_second")
    assert len(own.gradients) == len(theirs.gradients) > 0
    assert own.losses == pytest.approx(theirs.losses, abs=1e-5)
    for step, (ours, expected) in enumerate(zip(own.gradients, theirs.gradients, strict=True)):
        assert ours.keys() == expected.keys()
        # Of the same weights; later the weights have drifted apart by rounding, and some steps amplify it.
        limit = 1e-5 if step == 0 else 1e-4
        floor = 1e-6 * max(float(gradient.norm()) for gradient in expected.values())
        assert floor > 1e-8
        for name, gradient in expected.items():
            assert float((ours[name] - gradient).norm()) <= max(limit * float(gradient.norm()), floor), name
    for name, weight in theirs.weights.items():
        assert torch.allclose(own.weights[name], weight, rtol=0, atol=1e-5), name
    for ours, expected in zip(own.logs, theirs.logs, strict=True):
        assert ours.keys() == expected.keys()
        for key in expected if metrics else ("reward", "loss"):
            if key in expected and not key.endswith(timed):
                assert ours[key] == pytest.approx(expected[key], rel=1e-5, abs=2e-5), key


def on_and_off(dataset, folder, metrics=True, **given):
    """Trains without sharing, then with it on the same responses."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        theirs = Steps(trainer_of(dataset, folder / "off", "off", **given))
        replaying(patch, calls)
        own = Steps(trainer_of(dataset, folder / "on", "on", **given))
    assert len({len(ids) for call in calls for ids in call}) > 1
    assert_same_steps(own, theirs, metrics)
    return own, theirs, calls


def lora(**given):
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], lora_alpha=32, **given)


# ── the same numbers ─────────────────────────────────────────────────────────────────────────────────────


def test_ten_steps_are_those_of_trl(dataset, tmp_path):
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        theirs = Steps(stock_of(dataset, tmp_path / "stock", max_steps=10))
        replaying(patch, calls)
        own = Steps(trainer_of(dataset, tmp_path / "on", "on", max_steps=10))
    assert len(own.gradients) == 10
    for log in own.logs:  # what RARLTrainer logs beside TRL's own
        for key in [key for key in log if key.startswith(("policy", "mutation"))]:
            del log[key]
    assert_same_steps(own, theirs)
    assert own.logs[9]["kl"] > 1e-3
    start = load_model("tiny").state_dict()
    assert any((weight - start[name]).abs().max() > 1e-3 for name, weight in own.weights.items())


@CHECKPOINTING
@pytest.mark.parametrize(
    "given",
    [
        {"activation_checkpointing": True},
        {"num_iterations": 2, "max_steps": 4},
        {"mask_truncated_completions": True},
        {"mutation_probability": 1.0, "max_completion_length": 80, "rewards": REWARDS},
        {"loss_type": "dapo", "pad_to_multiple_of": 16, "top_entropy_quantile": 0.5},
        {"beta": 0.0, "importance_sampling_level": "sequence", "scale_rewards": "batch"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_settings_give_the_same_steps(dataset, tmp_path, given):
    own, _, _ = on_and_off(dataset, tmp_path, **given)
    if "mask_truncated_completions" in given:
        assert 0 < own.logs[0]["completions/clipped_ratio"] < 1
    if "mutation_probability" in given:
        assert own.logs[0]["mutation/fraction"] > 0


def test_a_group_that_is_masked_whole(dataset, tmp_path, monkeypatch):
    """All of its responses were cut, so that its micro-batch scores nothing."""
    cut, whole = [[30] * 16] * 4, [[31, 32, 2], [33, 2], [34, 35, 36, 2], [37, 38, 39, 2]]
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    runs = []
    for shared in ("on", "off"):
        replaying(monkeypatch, [cut + whole])
        trainer = trainer_of(dataset, tmp_path, shared, mask_truncated_completions=True, **given)
        runs.append(Steps(trainer))
    assert_same_steps(*runs, metrics=False)


@pytest.mark.parametrize(("accumulation", "prompts"), [(2, 2), (4, 1)])
def test_accumulated_gradients_are_the_same(dataset, tmp_path, accumulation, prompts):
    """TRL shuffles rows over the micro-batches, so that only their sum is the same."""
    size = {"per_device_train_batch_size": 4 * prompts, "gradient_accumulation_steps": accumulation}
    on_and_off(dataset, tmp_path, metrics=False, **size)


def test_an_accumulated_batch_is_reused(dataset, tmp_path):
    """The log-probs of before are kept for each micro-batch."""
    size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    on_and_off(dataset, tmp_path, metrics=False, num_iterations=2, max_steps=4, **size)


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_an_adapter_gives_the_same_steps(dataset, tmp_path, task):
    """The reference is the model without it."""
    own, _, _ = on_and_off(dataset, tmp_path, lora=lora(task_type=task), learning_rate=0.2)
    assert own.trainer.ref_model is None
    assert own.logs[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert own.logs[1]["kl"] > 1e-3


@CHECKPOINTING
def test_an_adapter_with_checkpointing_and_accumulation(dataset, tmp_path):
    size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    on_and_off(dataset, tmp_path, metrics=False, lora=lora(), activation_checkpointing=True, **size)


def test_prompts_without_images_give_the_same_steps(texts, tmp_path):
    on_and_off(texts, tmp_path)


def test_the_log_probs_of_vllm_are_those_of_their_responses(dataset, tmp_path, monkeypatch, caplog):
    """It generates the responses, and everything after is shared."""
    calls = [[[31 + at] * (1 + at % 5) + [2] for at in range(8)]]
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    runs = []
    for shared in ("on", "off"):
        replaying(monkeypatch, calls, logprob=-9.5)
        trainer = trainer_of(
            dataset, tmp_path, shared, vllm_importance_sampling_mode="token_truncate", **given
        )
        trainer.use_vllm = True
        trainer._start_sharing()
        runs.append(Steps(trainer))
    assert_same_steps(*runs, metrics=False)
    ratio = "sampling/importance_sampling_ratio/mean"
    assert runs[0].logs[0][ratio] == pytest.approx(runs[1].logs[0][ratio], rel=1e-4)
    [record] = caplog.records
    assert record.getMessage().startswith("shared_prefix: vLLM generates, ")


def test_mixed_precision_is_that_of_the_stock_pass(dataset, tmp_path):
    kinds = {}
    for shared in ("on", "off"):
        trainer = trainer_of(dataset, tmp_path, shared, max_steps=1, bf16=True)
        seen = kinds[shared] = []
        for model in (trainer.model, trainer.ref_model):
            model.model.language_model.layers[1].mlp.register_forward_hook(
                lambda module, args, output, seen=seen: seen.append((torch.is_grad_enabled(), output.dtype))
            )
        trainer.train()
    assert set(kinds["on"]) == set(kinds["off"])
    assert (True, torch.bfloat16) in kinds["on"]


def rows_of(dataset, column, images, size=None):
    """Prompts with these images each, by their row in `dataset`, in a column of this name."""

    def image(at):
        picture = dataset[at]["images"][0]
        return picture.resize(size) if size else picture

    def read(batch):
        prompts = [[{"role": "user", "content": "the digit " * (1 + at % 3)}] for at in batch["at"]]
        pictures = [[image(at) for at in images[at]] for at in batch["at"]]
        return {"prompt": prompts, column: pictures if column == "images" else [of[0] for of in pictures]}

    return Dataset.from_dict({"at": range(len(images))}).with_transform(read)


@pytest.mark.parametrize(
    ("column", "images"),
    [("image", [[0], [1], [2], [1]]), ("images", [[], [], [0], [2, 1]]), ("images", [[0, 1], [2], [], []])],
)
def test_batches_with_and_without_images(dataset, tmp_path, column, images):
    """The images are in a column of one each, too."""
    on_and_off(rows_of(dataset, column, images), tmp_path)


def test_images_of_many_tokens(dataset, tmp_path):
    processor = load_processor("tiny")
    processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 10**6}
    rows = rows_of(dataset, "images", [[0], [2, 1]], size=(168, 112))
    own, _, _ = on_and_off(rows, tmp_path, processor=processor)
    assert own.logs[0]["num_tokens"] > 4 * 3 * (6 * 4)  # 24 for each of 3 images, in 4 responses


def test_a_prompt_without_images_beside_one_with_images(dataset, tmp_path):
    """TRL 1.16 can't read such a batch, so that micro-batches are compared with the batch in one."""
    rows = rows_of(dataset, "images", [[0], [], [], [2, 1]])
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        whole = Steps(trainer_of(rows, tmp_path / "whole", "on"))
        replaying(patch, calls)
        size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        parts = Steps(trainer_of(rows, tmp_path / "parts", "on", **size))
    assert_same_steps(parts, whole, metrics=False)


def test_evaluation_between_steps_is_trls_own(dataset, tmp_path):
    """With fewer responses to a prompt than in training, and cut batches."""
    given = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2}
    given |= {"per_device_eval_batch_size": 6, "eval_dataset": dataset.select([2, 1, 0])}
    own, theirs, _ = on_and_off(dataset, tmp_path, **given)
    evaluated = [[log for log in run.logs if "eval_loss" in log] for run in (own, theirs)]
    assert len(evaluated[0]) == 2
    metrics = []
    for run in (own, theirs):  # sampled now
        torch.manual_seed(3)
        metrics.append(run.trainer.evaluate())
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], abs=1e-5)
    assert metrics[0]["eval_loss"] != 0


@CHECKPOINTING
@pytest.mark.parametrize("how", ["full", "lora", "checkpointing", "texts"])
def test_the_same_seed_samples_the_same(dataset, texts, tmp_path, monkeypatch, how):
    given = {
        "max_steps": 3,
        "per_device_train_batch_size": 24,
        "activation_checkpointing": how == "checkpointing",
    }
    runs = []
    for shared in ("off", "on"):
        calls = []
        with monkeypatch.context() as patch:
            recording(patch, calls)
            trainer = trainer_of(
                texts if how == "texts" else dataset,
                tmp_path,
                shared,
                lora=lora(init_lora_weights=False, task_type="CAUSAL_LM") if how == "lora" else None,
                **given,
            )
            trainer.train()
        runs.append(calls)
    assert runs[0] == runs[1]
    assert len({tuple(ids) for ids in runs[0][0]}) > 12


# ── two processes ────────────────────────────────────────────────────────────────────────────────────────


LOGGED = ("loss", "kl", "entropy", "reward", "mutation/fraction")


def play(collection, out):
    """Two steps, of this process alone or of one in two; run by `python test_sharing.py` too."""
    from rarl.data.collection import load_collection

    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    folder = Path(out) / f"rank{rank}of{world}"
    folder.mkdir(parents=True)
    dataset = pictures(load_collection(collection), folder, GROUPS)
    calls = json.loads((Path(out) / "calls.json").read_text())
    size = 8 // world
    given = {"per_device_train_batch_size": size, "mutation_probability": 0.5, "max_completion_length": 80}
    given |= {"max_steps": 2, "ddp_backend": "gloo" if world > 1 else None, "rewards": REWARDS}
    with pytest.MonkeyPatch.context() as patch:
        replaying(patch, [call[rank * size : (rank + 1) * size] for call in calls])
        steps = Steps(trainer_of(dataset, folder, "on", **given))
    seen = {
        "logs": [{key: log[key] for key in LOGGED} for log in steps.logs[:2]],
        "weights": {name: weight.flatten().tolist() for name, weight in steps.weights.items()},
    }
    (folder / "seen.json").write_text(json.dumps(seen))
    return seen


def test_two_processes_are_as_one(digits, dataset, tmp_path, in_two_processes):
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        trainer_of(dataset, tmp_path / "record", "on", max_steps=2, max_completion_length=40).train()
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    alone = in_two_processes(__file__, digits.root, tmp_path, alone=lambda: play(digits.root, tmp_path))
    first, second = (json.loads((tmp_path / f"rank{rank}of2" / "seen.json").read_text()) for rank in (0, 1))
    assert first == second
    assert any(log["mutation/fraction"] > 0 for log in alone["logs"])
    for own, expected in zip(first["logs"], alone["logs"], strict=True):
        assert own == pytest.approx(expected, abs=1e-5)
    for name, weights in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(weights, abs=1e-5), name


# ── work that is done once ───────────────────────────────────────────────────────────────────────────────


def patches_of(dataset, prompts):
    """How many patches of 14 x 14 pixels the images of these prompts have."""
    images = [image for at in prompts for image in dataset[at]["images"]]
    return sum(image.width * image.height // 14**2 for image in images)


def spy_on_vision(name, model, calls):
    def hook(module, args, kwargs):
        states = args[0] if args else kwargs["hidden_states"]
        calls.append((name, torch.is_grad_enabled(), len(states)))

    model.model.visual.register_forward_pre_hook(hook, with_kwargs=True)


def test_the_vision_tower_sees_an_image_once_a_pass(dataset, tmp_path):
    """Two micro-batches of one prompt: one rollout and two reference passes, then an update each."""
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1}
    both, first, second = patches_of(dataset, (0, 1)), patches_of(dataset, [0]), patches_of(dataset, [1])
    assert first != second
    runs = {}
    for shared in ("on", "off"):
        trainer = trainer_of(dataset, tmp_path, shared, **given)
        runs[shared] = []
        spy_on_vision("policy", trainer.model, runs[shared])
        spy_on_vision("reference", trainer.ref_model, runs[shared])
        trainer.train()
    reference = [("reference", False, first), ("reference", False, second)]
    update = [("policy", True, first), ("policy", True, second)]
    assert runs["on"][:3] == [("policy", False, both), *reference]
    assert sorted(runs["on"][3:]) == sorted(update)  # the groups are shuffled
    assert sum(patches for *_, patches in runs["off"]) == 4 * sum(patches for *_, patches in runs["on"])


def test_an_image_is_read_once_a_generation(dataset, tmp_path, monkeypatch):
    read = Counter()
    processor = type(load_processor("tiny").image_processor)
    original = processor.__call__

    def counting(self, images, *args, **kwargs):
        def flat(each):
            return (
                [each] if isinstance(each, Image.Image) else [image for part in each for image in flat(part)]
            )

        read["images"] += len(flat(images))
        return original(self, images, *args, **kwargs)

    monkeypatch.setattr(processor, "__call__", counting)
    for shared, times in (("on", 1), ("off", 2 * 4)):
        read.clear()
        trainer_of(dataset, tmp_path, shared).train()
        assert read["images"] == times * sum(map(len, GROUPS[:4]))


def test_rewards_are_given_the_images_of_each_response(dataset, tmp_path):
    seen = {}
    for shared in ("on", "off"):
        calls = seen[shared] = []

        def reward(prompts, completions, images, calls=calls, **columns):
            inside = [
                [part["image"].tobytes() for part in prompt[1]["content"] if part["type"] == "image"]
                for prompt in prompts
            ]
            given = [[image.tobytes() for image in of_one] for of_one in images]
            assert inside == given
            calls.append((given, sorted(columns)))
            return [0.0] * len(completions)

        trainer = trainer_of(dataset, tmp_path, shared, rewards=[reward], max_steps=1)
        trainer.train()
        logged = [[image.tobytes() for image in images] for images in trainer._logs["images"]]
        assert logged == calls[-1][0]
    assert seen["on"] == seen["off"]
    assert [len(images) for images in seen["on"][0][0]] == [2, 2, 2, 2, 1, 1, 1, 1]


def test_nothing_is_logged_of_images_that_are_not_there(texts, tmp_path):
    logged = []
    for shared in ("on", "off"):
        trainer = trainer_of(texts, tmp_path, shared, max_steps=1)
        trainer.train()
        logged.append(list(trainer._logs["images"]))
    assert logged == [[], []]


# ── on, off, and auto ────────────────────────────────────────────────────────────────────────────────────


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
    assert counts["auto"] == counts["on"] == 2 * patches_of(dataset, (0, 1))
    assert counts["off"] == 4 * counts["on"]
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
    """What the model is asked is in `test_shared_prefix.py`."""

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


# ── seams of TRL 1.16 ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        (
            "_get_per_token_logps_and_entropies",
            [
                *("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
                *("compute_entropy", "compute_aux_loss", "pixel_values", "image_grid_thw", "num_images"),
                *("pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes", "token_type_ids"),
                *("mm_token_type_ids", "image_position_ids"),
            ],
        ),
    ],
)
def test_seam_names_and_parameters(method, parameters):
    """Those that `test_trainer.py` has not."""
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


@pytest.fixture
def stock(dataset, tmp_path):
    """TRL's own trainer, ready for a step."""
    trainer = stock_of(dataset, tmp_path)
    trainer.model.train()
    return trainer


def test_seam_prompts_that_have_their_images_within(stock, dataset):
    """One list of ids and of images for each, and the fields of all images together."""
    from trl.data_utils import prepare_multimodal_messages

    rows = [dataset[at] for at in (0, 1)]
    prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
    ids, images, fields = stock._tokenize_prompts(prompts)
    assert [len(each) for each in images] == [2, 1]
    assert len(ids[0]) > len(ids[1])
    assert {"pixel_values", "image_grid_thw"} <= fields.keys()
    assert len(fields["image_grid_thw"]) == 3
    assert len(fields["pixel_values"]) == patches_of(dataset, (0, 1))


def test_seam_generation_without_fields_calls_generate_with_three_arguments(stock):
    calls = []

    def generate(**kwargs):
        calls.append(kwargs)
        return torch.cat([kwargs["input_ids"], torch.full((2, 3), 7)], dim=1)

    stock.model.generate = generate
    assert stock._generate_single_turn([[5, 6], [5]], None, {}, 4) == ([[7, 7, 7]] * 2, None)
    [arguments] = calls
    assert arguments.keys() == {"input_ids", "attention_mask", "generation_config"}
    assert arguments["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert arguments["input_ids"][:, 1].tolist() == [6, 5]


def test_seam_a_step_counts_and_buffers(stock, dataset):
    assert (stock._step, stock._buffered_inputs, stock.num_iterations) == (0, None, 1)
    batch = next(iter(stock.get_train_dataloader()))
    inputs = stock._prepare_inputs(batch)
    assert len(stock._buffered_inputs) == stock.args.steps_per_generation == 1
    assert inputs is stock._buffered_inputs[0]
    assert {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"} <= inputs.keys()
    assert inputs["num_items_in_batch"].ndim == 0
    assert sum(inputs["num_images"]) == 4 * 3
    assert (stock.aux_loss_enabled, stock.rollout_func, stock.environment_factories) == (False, None, None)
    assert (stock.use_vllm, bool(stock.tools), stock.log_multimodal) == (False, False, True)


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2])
