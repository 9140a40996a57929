"""The supervised baseline: it learns from the reply alone, sees the groups in order and once each, and can be
continued from a checkpoint."""

import copy
import math

import pytest
import torch
from trl import SFTConfig

from helpers.training import cpu_arguments
from rarl.errors import ConfigError
from rarl.method.replies import reference_reply
from rarl.models.loading import load_model, load_processor
from rarl.training.arms import sft_dataset, sft_trainer
from rarl.training.config import config_from

# `RunConfig.sft_arguments` sets these: otherwise transformers would shuffle the groups, and drop the columns
# that images are made of.
OF_A_RUN = {"train_sampling_strategy": "sequential", "remove_unused_columns": False}
GROUPS = ([3, 7], [9, 1], [0, 2], [8, 4], [5, 6], [2, 7], [1, 3], [9, 0])


def trainer(prompts_of, folder, reasoning="template", **given):
    settings = cpu_arguments(
        folder,
        **{"per_device_train_batch_size": 2, "max_steps": 2, "learning_rate": 1e-3, **OF_A_RUN, **given},
    )
    dataset = sft_dataset(prompts_of(*GROUPS), reasoning, load_processor("tiny"))
    args = SFTConfig(**settings)
    return sft_trainer(load_model("tiny", training=True), load_processor("tiny"), dataset, args, [])


def test_a_run_keeps_the_groups_in_order_and_their_columns(tmp_path):
    stage = {"name": "rarl", "images": [2], "max_steps": 1}
    run = config_from({"task": "digits", "output": str(tmp_path), "stages": [stage], "sft": {}}, "run.yaml")
    assert OF_A_RUN.items() <= run.sft_arguments().items()


def batches(trainer):
    return list(trainer.get_train_dataloader())


TEMPLATE = [
    "<think>Picture 1: 3. Picture 2: 7.</think>\n"
    '<answer>[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 7}]</answer>',
    "<think>Picture 1: 9. Picture 2: 1.</think>\n"
    '<answer>[{"image_id": 2, "value": 1}, {"image_id": 1, "value": 9}]</answer>',
]
EMPTY = [f"<think></think>{text.partition('</think>')[2]}" for text in TEMPLATE]


@pytest.mark.parametrize(("reasoning", "replies"), [("template", TEMPLATE), ("empty", EMPTY)])
def test_labels_are_the_completions_tokens_and_no_others(prompts_of, tmp_path, reasoning, replies):
    batch = batches(trainer(prompts_of, tmp_path, reasoning))[0]
    tokenizer = load_processor("tiny").tokenizer
    for ids, labels, mask, reply in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], replies, strict=True
    ):
        learned = labels != -100
        assert torch.equal(labels[learned], ids[learned])
        # The reply, its end, and the line break with which the chat template closes a message.
        assert tokenizer.decode(labels[learned]) == reply + "<|im_end|>\n"
        assert mask[learned].all()
        before = tokenizer.decode(ids[~learned & mask.bool()])
        assert before.endswith("<|im_start|>assistant\n")
        assert "Analyze each image" in before
        assert before.count("<|image_pad|>") == 2


def test_the_groups_come_in_order_and_once_each(prompts_of, tmp_path):
    tokenizer = load_processor("tiny").tokenizer
    seen = [
        tokenizer.decode(labels[labels != -100]).removesuffix("<|im_end|>\n")
        for batch in batches(trainer(prompts_of, tmp_path))
        for labels in batch["labels"]
    ]
    assert seen == [reference_reply([float(v) for v in group], 1) for group in GROUPS]


def test_the_prompt_is_the_one_that_grpo_gives(prompts_of, tmp_path):
    """The same tokens, and each picture where it belongs."""
    processor = load_processor("tiny")
    batch = batches(trainer(prompts_of, tmp_path))[0]
    row = prompts_of(*GROUPS)[0]
    text = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[row["images"]], return_tensors="pt")
    prompt = inputs["input_ids"][0].tolist()
    ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
    assert ids[: len(prompt)] == prompt
    assert torch.equal(batch["pixel_values"][:8], inputs["pixel_values"])
    # Without these, transformers silently drops the 3-D positions.
    assert batch["mm_token_type_ids"].sum() == 4


def test_two_steps_teach_the_reply(prompts_of, tmp_path):
    teacher = trainer(prompts_of, tmp_path, max_steps=2)
    before = copy.deepcopy(teacher.model.state_dict())
    teacher.train()
    losses = [log["loss"] for log in teacher.state.log_history if "loss" in log]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert any(not torch.equal(before[name], weight) for name, weight in teacher.model.state_dict().items())


def test_it_learns(prompts_of, tmp_path):
    """It sees the same two prompts again and again."""
    teacher = trainer(prompts_of, tmp_path, max_steps=12, lr_scheduler_type="constant", learning_rate=3e-3)
    teacher.train_dataset = teacher.train_dataset.select([0, 1])
    teacher.train()
    losses = [log["loss"] for log in teacher.state.log_history if "loss" in log]
    assert losses[-1] < 0.3 * losses[0]


def test_a_resumed_run_ends_as_the_whole_one(prompts_of, tmp_path):
    given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(prompts_of, tmp_path / "whole", **given)
    whole.train()
    again = trainer(prompts_of, tmp_path / "again", **given)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    weights = again.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in whole.model.state_dict().items())


def test_orders_alone_can_t_be_imitated(prompts_of):
    orders = prompts_of([3, 7]).remove_columns("values").add_column("order", [[0, 1]])
    with pytest.raises(ConfigError, match="no column 'values': SFT imitates values, and orders have none"):
        sft_dataset(orders, "template", load_processor("tiny"))
