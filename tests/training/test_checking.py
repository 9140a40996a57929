"""What is refused before a run begins, and that the run's folder stays as it was. It is tested through
`train_and_evaluate`, so that nothing is checked too late."""

import json
import shutil
import weakref
from dataclasses import fields

import pytest
import torch
import yaml
from PIL import Image

from helpers.training import quiet
from rarl.data.collection import load_collection
from rarl.errors import ConfigError, DataError, ModelError
from rarl.method.replies import reference_reply
from rarl.method.tasks import Task
from rarl.models.loading import load_processor
from rarl.training import checking
from rarl.training import run as stages
from rarl.training.checking import begin_run, check_and_begin
from rarl.training.config import completion_length, config_from


@pytest.fixture
def collection(few_digits):
    """Seven digits to train on, three to evaluate on, and no validation split."""
    return few_digits(train=7, test=3)


@pytest.fixture
def config_of(collection, tmp_path):
    def make(**changes):
        plain = {
            "task": "digits",
            "data": str(collection.root),
            "output": str(tmp_path / "run"),
            "stages": [{"name": "rarl", "images": [1, 2], "max_steps": 2, "mutation": {}}],
            "sft": {},
            "trainer": {"num_generations": 4},
            "evaluation": {"images": [1, 2], "lists": 2},
        }
        return config_from(plain | changes, "test")

    return make


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("something ran")

    for name in ("train_sft", "train_stage", "evaluate"):
        monkeypatch.setattr(stages, name, refuse)


STAGE = {"name": "rarl", "images": [1, 2], "max_steps": 2}
FALSE_TASK = {"name": "digits", "rule": "handwritten digit", "low": 0, "high": 9, "step": 1, "delta": 3}
REFUSED = {
    "an unknown field of the trainer": (
        {"trainer": {"num_generations": 4, "learning_rat": 1e-3}},
        ConfigError,
        r"trainer.learning_rat: unknown key",
    ),
    "a wrong type in a stage": (
        {"stages": [{**STAGE, "trainer": {"warmup_steps": "many"}}]},
        ConfigError,
        r"stages\[0\].trainer.warmup_steps",
    ),
    "an unknown field of SFT": (
        {"sft": {"trainer": {"num_generations": 4}}},
        ConfigError,
        r"sft.trainer.num_generations: unknown key",
    ),
    "what TRL refuses": (
        {"trainer": {"num_generations": 4, "lr_scheduler_type": "reduce_lr_on_plateau"}},
        ConfigError,
        r"trainer",
    ),
    "another task than the collection's": (
        {"task": FALSE_TASK},
        ConfigError,
        r"task: the run's is not that of .*task.yaml: .*delta 3.*, there 2",
    ),
    "a collection that is not there": ({"data": "no/such/folder"}, DataError, "no/such/folder"),
    "a split that is not there": (
        {"evaluation": {"images": [1], "split": "validation"}},
        ConfigError,
        "evaluation.split: .* no split 'validation', only .*test",
    ),
    "a split that the digits don't have": (
        {"data": None, "evaluation": {"split": "tests"}},
        ConfigError,
        "evaluation.split: the digits have no split 'tests', only train, validation, test, pretrain",
    ),
    "too few images to train on": (
        {"stages": [{**STAGE, "images": [1, 8]}]},
        ConfigError,
        r"stages\[0\].images: a group of 8 images can't be drawn from 7 images",
    ),
    "too few images to evaluate on": (
        {"evaluation": {"images": [2, 4], "lists": 2}},
        ConfigError,
        "evaluation.images: a group of 4 images can't be drawn from 3 images",
    ),
    "a model that is not there": ({"model": "no-such-model"}, ModelError, "no model at 'no-such-model'"),
    "a hub name that can't be reached": (
        {"model": "nobody/nothing"},
        ModelError,
        "could not load the processor of nobody/nothing",
    ),
    "fewer pixels than the model makes of any image": (
        {"pixels": 783},
        ConfigError,
        "pixels: must be at least 784",
    ),
    "responses too short for the references": (
        {
            "stages": [{**STAGE, "mutation": {}}],
            "trainer": {"num_generations": 4, "max_completion_length": 6},
        },
        ConfigError,
        r"stages\[0\] with trainer.max_completion_length 6: .* has \d+ tokens",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("resume", [False, True])
def test_refused_before_anything_is_written(config_of, changes, error, message, resume):
    config = config_of(**changes)
    with pytest.raises(error, match=message):
        stages.train_and_evaluate(config, resume=resume, console=quiet())
    assert not config.output.exists()


def test_a_model_that_can_not_reply_is_known_before_anything_is_trained(config_of, monkeypatch):
    import rarl.models.generation.replies

    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr(rarl.models.generation.replies, "_replies_of", out_of_memory)
    message = (
        r"^tiny can't reply to evaluation.batch_size \(1\) prompts of 2 images at once, and so nothing was "
        r"trained: the GPU's memory is too small for so many prompts at once: lower the batch size; if it is "
        r"memory, lower evaluation.batch_size or `pixels`$"
    )
    with pytest.raises(ModelError, match=message):
        stages.train_and_evaluate(
            config_of(evaluation={"images": [1, 2], "lists": 2, "batch_size": 1}),
            resume=False,
            console=quiet(),
        )


def test_the_model_that_was_tried_is_gone_before_anything_is_trained(config_of, monkeypatch):
    tried, alive = [], []

    def load_model(*args, original=checking.load_model, **options):
        model = original(*args, **options)
        tried.append(weakref.ref(model))
        return model

    def train_arms(*args):
        alive.extend(model() is not None for model in tried)
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "load_model", load_model)
    monkeypatch.setattr(stages, "train_arms", train_arms)
    with pytest.raises(KeyboardInterrupt):
        stages.train_and_evaluate(config_of(), resume=False, console=quiet())
    assert alive == [False]


@pytest.mark.parametrize(
    "mutation",
    [None, {"probability": 0.0}, {"reference": "best", "k": 1}],
)
def test_short_responses_are_allowed_where_no_reference_replaces_them(config_of, mutation):
    trainer = {"num_generations": 4, "max_completion_length": 6}
    check_and_begin(config_of(stages=[{**STAGE, "mutation": mutation}], trainer=trainer), resume=False)


def test_the_longest_reference_just_fits(config_of):
    """The number in the message is enough: what is refused with one token less is allowed with it."""
    stage = {**STAGE, "mutation": {"reasoning": "empty"}}
    with pytest.raises(ConfigError, match="tokens") as caught:
        check_and_begin(config_of(stages=[stage], trainer={"max_completion_length": 2}), resume=False)
    longest = int(str(caught.value).split(" has ")[1].split()[0])
    with pytest.raises(ConfigError, match=f"has {longest} tokens"):
        check_and_begin(
            config_of(stages=[stage], trainer={"max_completion_length": longest - 1}), resume=False
        )
    check_and_begin(config_of(stages=[stage], trainer={"max_completion_length": longest}), resume=False)


@pytest.mark.parametrize("stray", ["rarl", "sft", "checkpoints", "metrics.json", "predictions.jsonl"])
def test_what_no_configuration_accounts_for_is_not_taken_for_the_runs_own(config_of, stray):
    """If only config.yaml was removed to begin again, nothing would be trained and the old numbers would
    show."""
    config = config_of()
    (config.output / stray).mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(ConfigError, match=rf"holds {stray}, but no config.yaml"):
            check_and_begin(config, resume=resume)
        with pytest.raises(ConfigError, match=stray):
            begin_run(config, resume=resume)
    assert [path.name for path in config.output.iterdir()] == [stray]


def test_the_length_of_a_response_is_trls_where_the_run_names_none(config_of):
    from trl import GRPOConfig

    default = {field.name: field.default for field in fields(GRPOConfig)}["max_completion_length"]
    config = config_of()
    assert completion_length(config, config.stages[0]) == default
    own = config_of(stages=[{**STAGE, "trainer": {"max_completion_length": 33}}])
    assert completion_length(own, own.stages[0]) == 33


def test_other_files_in_the_folder_are_left_alone(config_of):
    config = config_of()
    config.output.mkdir()
    (config.output / "notes.txt").write_text("mine")
    check_and_begin(config, resume=False)
    assert sorted(path.name for path in config.output.iterdir()) == [
        "collection.json",
        "config.yaml",
        "notes.txt",
    ]


def test_a_run_begins_with_its_configuration(config_of, collection):
    config = config_of()
    assert check_and_begin(config, resume=False).splits == collection.splits
    assert (config.output / "config.yaml").read_text() == config.to_yaml()
    with pytest.raises(ConfigError, match="holds a run already"):
        check_and_begin(config, resume=False)
    check_and_begin(config, resume=True)


def test_the_same_collection_may_be_at_another_path(config_of, collection, tmp_path):
    check_and_begin(config_of(), resume=False)
    moved = tmp_path / "moved"
    shutil.copytree(collection.root, moved)
    config = config_of(data=str(moved))
    for known in (True, False):
        if not known:  # a run of an earlier version, whose collection is still where it was
            check_and_begin(config_of(), resume=True)
            (config.output / "collection.json").unlink()
        assert check_and_begin(config, resume=True).root == moved
        assert yaml.safe_load((config.output / "config.yaml").read_text())["data"] == str(moved)
    lines = (moved / "train/metadata.jsonl").read_text().splitlines()
    (moved / "train/metadata.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    other = tmp_path / "other"
    moved.rename(other)
    with pytest.raises(ConfigError, match=r"another configuration(.|\n)*data: .*moved' before, .*other' now"):
        check_and_begin(config_of(data=str(other)), resume=True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_that_the_processor_refuses_is_named_before_anything_runs(
    config_of, collection, tmp_path, split
):
    data = shutil.copytree(collection.root, tmp_path / "data")
    images = [row.path for row in load_collection(data).split(split)]
    for path in images[-2:]:
        Image.new("RGB", (410, 2)).save(path)
    with pytest.raises(DataError, match=r"410 x 2 pixels is not for this model .*200") as caught:
        check_and_begin(config_of(data=str(data)), resume=False)
    assert str(caught.value).startswith(f"{images[-2]}: ")
    assert str(caught.value).endswith(f"; the same with {images[-1]}")
    assert not config_of().output.exists()


def test_the_digits_are_built_where_no_collection_is_given(config_of):
    config = config_of(data=None)
    built = check_and_begin(config, resume=False)
    assert built.root == config.output / "data"
    assert check_and_begin(config, resume=True).splits == built.splits


def test_results_of_another_split_are_refused(config_of):
    config = config_of()
    check_and_begin(config, resume=False)
    (config.output / "metrics.json").write_text(
        '{"task": "digits", "split": "validation", "seed": 0, "lists": {}, "arms": {}}'
    )
    with pytest.raises(ConfigError, match="is of split 'validation', not 'test'"):
        check_and_begin(config, resume=True)


# ── orders alone ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def with_orders(collection, tmp_path):
    """`with_orders("train")`: the collection with these splits' values replaced by one order of their
    images."""

    def make(*splits):
        root = tmp_path / "orders"
        shutil.copytree(collection.root, root)
        for split in splits:
            file = root / split / "metadata.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            ascending = sorted(rows, key=lambda row: row.pop("value"))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            (root / split / "orders.jsonl").write_text(json.dumps({"ids": [row["id"] for row in ascending]}))
        return root

    return make


RANKING = {"name": "rarl", "images": [2], "max_steps": 2, "weights": {"regression": 0}, "mutation": {}}
OF_ORDERS = {"stages": [RANKING], "sft": None, "evaluation": {"images": [2], "lists": 2}}
NEED_VALUES = {
    "a weight of regression": (
        {"stages": [RANKING, {**RANKING, "name": "more", "weights": {"regression": 0.5}}]},
        r"stages\[1\].weights.regression: must be 0, not 0.5: .*train knows orders alone",
    ),
    "the weight of regression that is the default": (
        {"stages": [{**RANKING, "weights": {}}]},
        r"stages\[0\].weights.regression: must be 0, not 1: .*train knows orders alone",
    ),
    "sft": ({"sft": {}}, r"sft: .*train knows orders alone, and SFT imitates values: remove this section"),
    "single images in a stage": (
        {"stages": [RANKING, {**RANKING, "name": "more", "images": [1, 2]}]},
        r"stages\[1\].images: must not have 1: .*train knows orders alone, and one image has none",
    ),
    "single images": (
        {"evaluation": {"images": [1, 2], "lists": 2}},
        r"evaluation.images: must not have 1: .*test knows orders alone, and one image has none",
    ),
}


@pytest.mark.parametrize(("changes", "message"), NEED_VALUES.values(), ids=NEED_VALUES)
def test_what_needs_values_is_refused_where_only_orders_are_known(config_of, with_orders, changes, message):
    config = config_of(**{**OF_ORDERS, "data": str(with_orders("train", "test")), **changes})
    with pytest.raises(ConfigError, match=message):
        stages.train_and_evaluate(config, resume=False, console=quiet())
    assert not config.output.exists()


def test_what_needs_no_values_is_prepared(config_of, with_orders):
    config = config_of(**OF_ORDERS, data=str(with_orders("train", "test")))
    assert not check_and_begin(config, resume=False).knows_values("train")


def test_each_split_is_judged_by_itself(config_of, with_orders):
    """It is trained on orders and tested on values, or the other way round."""
    root = with_orders("train")
    evaluation = {"images": [1, 2], "lists": 2}
    check_and_begin(config_of(**{**OF_ORDERS, "evaluation": evaluation, "data": str(root)}), resume=False)


def test_trained_on_values_and_tested_on_orders(config_of, with_orders):
    changes = {"data": str(with_orders("test")), "stages": [STAGE]}
    check_and_begin(config_of(**changes, evaluation={"images": [2], "lists": 2}), resume=False)


def test_the_length_of_a_reference_in_order_is_that_of_the_longest_value(with_orders, config_of):
    """The values are the response's own, and can be any of the grid 0.05, 0.15, ..., 2.05. Its ends are not
    the longest: 0.05 + 0.1 is not 0.15 in binary, and is written in full."""
    root = with_orders("train", "test")
    task = Task("digits", "handwritten digit", low=0.05, high=2.05, step=0.1, delta=1)
    (root / "task.yaml").write_text(yaml.safe_dump(task.to_dict()))

    def config(length):
        stage = {**RANKING, "mutation": {"reasoning": "empty"}, "trainer": {"max_completion_length": length}}
        return config_of(**{**OF_ORDERS, "stages": [stage]}, task=task.to_dict(), data=str(root))

    encode = load_processor("tiny").tokenizer
    replies = [reference_reply([0.05 + 0.1 * place] * 2, 0.1, reasoned=False) for place in range(21)]
    lengths = [len(encode(reply)["input_ids"]) + 1 for reply in replies]
    longest = max(lengths)
    assert longest > max(lengths[0], lengths[10], lengths[20])
    with pytest.raises(ConfigError, match=f"has {longest} tokens"):
        check_and_begin(config(longest - 1), resume=False)
    check_and_begin(config(longest), resume=False)
