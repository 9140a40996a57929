"""A chat template that begins the reply itself (`<think>`): the reply is what the prompt has begun and what
the model writes, in rewards, references, SFT, evaluation and use."""

import pytest
import torch
from trl import SFTConfig

from helpers.grpo import (
    BACKWARDS,
    NOTHING,
    PERFECT,
    TOKENIZER,
    WRONG,
    Batch,
    ids_of,
    script,
    settings,
    text_of,
)
from helpers.opened import CLOSED, OPEN, opened_model
from helpers.training import cpu_arguments, run_config
from rarl.data.groups import Group
from rarl.errors import ModelError
from rarl.evaluation.evaluate import ask
from rarl.evaluation.prediction import predict
from rarl.method.mutation import keep_reasoning
from rarl.method.replies import continuation, parse, write_answer
from rarl.method.rewards import score
from rarl.method.tasks import DIGITS
from rarl.models.loading import load_model, load_processor
from rarl.models.processor import reply_opening
from rarl.ranking.ranker import Ranker
from rarl.training.arms import sft_dataset, sft_trainer
from rarl.training.checking import check_run
from rarl.training.trainer import RARLConfig, RARLTrainer

OPENINGS = pytest.mark.parametrize("opening", [OPEN, CLOSED], ids=["open", "closed"])


@pytest.fixture
def model_with(tmp_path):
    return lambda opening: opened_model(tmp_path / "model", opening)


def trainer_of(folder, dataset, out, mutation=None, **given):
    fields = {f"mutation_{key}": value for key, value in (mutation or {}).items()}
    return RARLTrainer(
        load_model(folder, training=True),
        args=RARLConfig(**settings(out, per_device_train_batch_size=4, **fields, **given)),
        train_dataset=dataset,
        processing_class=load_processor(folder),
    )


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────


@OPENINGS
def test_the_reward_reads_what_the_prompt_has_begun(prompts_of, model_with, monkeypatch, tmp_path, opening):
    rest = continuation(PERFECT, opening)
    assert not parse(rest).well_formed
    script(monkeypatch, [rest, continuation(WRONG, opening), NOTHING, PERFECT])
    batch = Batch(trainer_of(model_with(opening), prompts_of([3, 7]), tmp_path, {"probability": 0.0}))
    # A reply that opens a second block is not in the form asked for.
    assert [parts[-1] for parts in batch.parts] == [1, 1, 0, 0]
    assert batch.parts[0] == (1, 3, 1)
    assert batch.texts[0] == opening + rest
    assert batch.metrics["policy/rewards/format_reward"] == 0.5


@OPENINGS
@pytest.mark.parametrize("reasoning", ["template", "empty", "keep"])
def test_a_reference_repeats_no_tag(prompts_of, model_with, monkeypatch, tmp_path, opening, reasoning):
    own, other, best = (continuation(text, opening) for text in (WRONG, BACKWARDS, PERFECT))
    script(monkeypatch, [own, other, NOTHING, best])
    mutation = {"probability": 1.0, "k": 2, "reasoning": reasoning}
    batch = Batch(trainer_of(model_with(opening), prompts_of([3, 7]), tmp_path, mutation))
    assert batch.mutated == [True, False, True, False]
    for ids, text, parts in list(zip(batch.ids, batch.texts, batch.parts, strict=True))[::2]:
        assert text == opening + text_of(ids)
        assert (text.count("<think>"), text.count("</think>"), parts) == (1, 1, (1, 3, 1))
    if opening == OPEN:
        own = {"template": "Picture 1: 3. Picture 2: 7.", "empty": "", "keep": "a"}[reasoning]
        assert batch.texts[0].startswith(f"<think>\n{own}</think>\n<answer>")


def test_the_best_of_a_group_keeps_its_form(prompts_of, model_with, monkeypatch, tmp_path):
    script(monkeypatch, [continuation(text, OPEN) for text in (PERFECT, WRONG)] + [NOTHING, NOTHING])
    mutation = {"probability": 1.0, "k": 1, "reference": "best", "reasoning": "keep"}
    batch = Batch(trainer_of(model_with(OPEN), prompts_of([3, 7]), tmp_path, mutation))
    assert batch.texts[2] == OPEN + continuation(PERFECT, OPEN)


def test_own_reasoning_is_kept_without_its_opening_tag():
    def encode(text):
        return TOKENIZER.encode(text, add_special_tokens=False)

    own = ids_of(continuation(WRONG, OPEN))
    answer = f"\n<answer>{write_answer(parse(PERFECT).items, 1)}</answer>"
    kept = keep_reasoning(own, answer, encode, text_of, room=100)
    assert parse(OPEN + text_of(kept)).well_formed


@OPENINGS
def test_sft_learns_what_is_left_to_write(prompts_of, model_with, tmp_path, opening):
    folder, groups = model_with(opening), prompts_of([3, 7], [9, 1])
    model, processor = load_model(folder, training=True), load_processor(folder)
    args = cpu_arguments(tmp_path, per_device_train_batch_size=2, max_steps=1, remove_unused_columns=False)
    dataset = sft_dataset(groups, "template", processor)
    trainer = sft_trainer(model, processor, dataset, SFTConfig(**args, max_length=None), [])
    batch = next(iter(trainer.get_train_dataloader()))
    seen = set()
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learned = labels != -100
        seen.add(TOKENIZER.decode(labels[learned]))
        prompt = TOKENIZER.decode(ids[~learned & mask.bool()])
        assert prompt.endswith("<|im_start|>assistant\n" + opening)
        assert prompt.count("<|image_pad|>") == 2
        whole = opening + TOKENIZER.decode(labels[learned], skip_special_tokens=True)
        assert parse(whole).well_formed
    assert continuation(PERFECT, opening) + "<|im_end|>" in seen
    assert batch["mm_token_type_ids"].sum() == 4
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


def test_sampling_starts_after_the_opening(prompts_of, model_with, tmp_path):
    """A whole step, unscripted: prompt and completions are TRL's, and the logged reply is both."""
    folder = model_with(OPEN)
    trainer = trainer_of(folder, prompts_of([3, 7]), tmp_path, {"probability": 1.0}, max_completion_length=64)
    batch = Batch(trainer)
    prompt = TOKENIZER.decode(batch.output["prompt_ids"][0])
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert all(text == OPEN + text_of(ids) for text, ids in zip(batch.texts, batch.ids, strict=True))


# ── evaluation and use ───────────────────────────────────────────────────────────────────────────────────


@OPENINGS
def test_evaluation_and_use_read_the_whole_reply(digits, model_with, monkeypatch, opening):
    folder = model_with(opening)
    rest = continuation(PERFECT, opening)
    said = torch.tensor([ids_of(rest)])
    model, processor = load_model(folder), load_processor(folder)

    def generate(self, input_ids, **kwargs):
        assert TOKENIZER.decode(input_ids[0]).endswith("assistant\n" + opening)
        return torch.cat([input_ids, said], dim=1)

    monkeypatch.setattr(type(model), "generate", generate)
    first = {row.value: row for row in digits.split("test")}
    group = Group((first[3], first[7]))
    [(_, text)] = ask(model, processor, [group], DIGITS, 1, 64)
    prediction = predict(group, text)
    assert text == opening + rest
    assert (prediction.values, prediction.tau, prediction.lenient) == ([3, 7], 1, None)
    assert score(text, {"values": [3, 7], "delta": 2.0, "range": [0, 9]}, [1, 1, 1]) == 5
    ranker = Ranker(folder, DIGITS)
    assert [(place.value, place.method) for place in ranker.rank([row.path for row in group.rows])] == [
        (3, "listed"),
        (7, "listed"),
    ]
    assert ranker.read_leniently == 0


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opening", ["<think></think><answer>", "<answer>", "<think><think>", "</think>"])
def test_a_template_that_begins_anything_else_is_refused_before_the_run(
    few_digits, model_with, tmp_path, opening
):
    folder = model_with(opening)
    with pytest.raises(ModelError, match="the chat template begins every reply with"):
        reply_opening(load_processor(folder))
    stage = {"name": "rarl", "images": [2], "max_steps": 1}
    data = few_digits(train=24, validation=10, test=10)
    config = run_config(data.root, tmp_path / "run", [stage], model=str(folder))
    with pytest.raises(ModelError, match="the chat template begins every reply with"):
        check_run(config, resume=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="the chat template begins every reply with"):
        Ranker(folder, DIGITS).score([data.split("test")[0].path])


def test_tags_that_are_special_tokens_are_refused():
    processor = load_processor("tiny")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    with pytest.raises(ModelError, match="takes </think> for a special token"):
        reply_opening(processor)


def test_an_ordinary_template_begins_nothing(tiny_processor):
    assert reply_opening(tiny_processor) == ""
