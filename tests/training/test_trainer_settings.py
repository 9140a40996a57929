"""What RARLTrainer and RARLConfig refuse and default to, and datasets and rewards of one's own."""

import pytest
from datasets import Dataset
from trl import GRPOConfig

from helpers.grpo import NOTHING, PERFECT, TOKENIZER, TRUTH, Batch, ids_of, ours, script, settings
from rarl.errors import ConfigError
from rarl.method.mutation import Mutation
from rarl.method.replies import reference_items, write_reply
from rarl.training.trainer import RARLConfig, RARLTrainer

# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reasoning", ["template", "empty", "keep"])
def test_a_reference_that_does_not_fit_is_refused_with_the_number(
    prompts_of, tmp_path, monkeypatch, reasoning
):
    script(monkeypatch, [NOTHING] * 4)
    reply = write_reply("", reference_items(TRUTH), 1) if reasoning == "empty" else PERFECT
    needed = len(ids_of(reply))

    def batch(length):
        mutation = {"probability": 0.5, "reasoning": reasoning}
        trainer = ours(
            prompts_of([3, 7]),
            tmp_path,
            mutation,
            per_device_train_batch_size=4,
            max_completion_length=length,
        )
        return Batch(trainer)

    with pytest.raises(ConfigError) as error:
        batch(needed - 1)
    assert str(error.value) == (
        f"max_completion_length {needed - 1} can't hold the reference reply for 2 images ({needed} tokens); "
        f"raise it to at least {needed}"
    )
    batch(needed)


def test_a_reference_without_its_reasoning_tag_is_no_way_to_fit(prompts_of, tmp_path, monkeypatch):
    """`keep` cuts reasoning, but a reply without room for `<think>` doesn't come into a group."""
    script(monkeypatch, ["<think>abc</think>?"] * 4)
    answer = write_reply("", reference_items(TRUTH), 1).removeprefix("<think>")
    room = len(TOKENIZER.encode(answer, add_special_tokens=False)) + 1
    mutation = {"probability": 1.0, "reasoning": "keep"}
    trainer = ours(
        prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4, max_completion_length=room
    )
    with pytest.raises(ConfigError, match="max_completion_length"):
        Batch(trainer)


def test_k_must_leave_a_response(tmp_path):
    with pytest.raises(ConfigError, match=r"k must be less than num_generations \(4\), not 4"):
        RARLConfig(**settings(tmp_path, mutation_k=4, mutation_probability=0.5))
    RARLConfig(**settings(tmp_path, mutation_k=3, mutation_probability=0.5))
    RARLConfig(**settings(tmp_path, mutation_k=4))  # nothing is ever mutated


def test_the_mutation_fields_are_checked_at_once(tmp_path):
    with pytest.raises(ConfigError, match="does nothing: all rewards are equal"):
        RARLConfig(**settings(tmp_path, mutation_when="stagnant", mutation_reference="best"))
    with pytest.raises(ConfigError, match="when: must be 'always' or 'stagnant', not 'never'"):
        RARLConfig(**settings(tmp_path, mutation_when="never"))
    assert RARLConfig(**settings(tmp_path)).mutation == Mutation(probability=0.0)


def test_the_papers_settings_are_the_defaults(tmp_path):
    args = RARLConfig(str(tmp_path), bf16=False, use_cpu=True, activation_checkpointing=False)
    assert (args.learning_rate, args.beta, args.loss_type, args.num_generations) == (1e-6, 0.01, "grpo", 8)
    assert args.scale_rewards == "group"
    assert args.mutation.probability == 0


# ── datasets and rewards of one's own ────────────────────────────────────────────────────────────────────


def answers_at_all(completions, **columns):
    """A reward that needs no column. It takes texts or messages, all of one kind."""
    assert len({type(completion) for completion in completions}) == 1
    return [float("<answer>" in str(completion)) for completion in completions]


def texts_of(**columns):
    """Prompts that are plain texts, as in any text dataset."""
    rows = {"prompt": ["handwritten digit"] * 4} | {name: [value] * 4 for name, value in columns.items()}
    return Dataset.from_dict(rows)


def test_without_mutation_a_dataset_need_not_say_the_truth(tmp_path):
    trainer = ours(texts_of(), tmp_path, reward_funcs=[answers_at_all], reward_weights=None)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert "policy/reward" in logged
    assert "mutation/fraction" not in logged


def test_mutation_names_the_columns_it_lacks(tmp_path):
    trainer = ours(
        texts_of(values=TRUTH), tmp_path, {"probability": 1.0}, None, [answers_at_all], reward_weights=None
    )
    with pytest.raises(ConfigError, match=r"missing: step$"):
        trainer.train()


def test_rewards_are_given_texts_where_the_prompts_are_texts(tmp_path, monkeypatch):
    script(monkeypatch, [NOTHING] * 8)
    trainer = ours(
        texts_of(values=TRUTH, step=1.0),
        tmp_path,
        {"probability": 1.0},
        None,
        [answers_at_all],
        reward_weights=None,
    )
    trainer.train()
    assert trainer.state.log_history[0]["mutation/fraction"] == 0.5


def test_arguments_of_trl_are_refused_by_name(prompts_of, tmp_path):
    with pytest.raises(ConfigError, match=r"must be a RARLConfig, .* not a GRPOConfig"):
        RARLTrainer("tiny", args=GRPOConfig(**settings(tmp_path)), train_dataset=prompts_of(TRUTH))
