"""How many prompts a stage generates for, counted in TRL's own training: one generation serves
steps_per_generation x num_iterations micro-steps, and every group that is drawn is one that is seen."""

import pytest

from helpers.training import quiet, run_config
from rarl.data.collection import load_collection
from rarl.training import arms
from rarl.training.config import stage_groups
from rarl.training.trainer_keys import generated_prompts, steps_for_prompts

# Keys, steps, prompts. A step has 2 prompts.
CASES = [
    ({}, 4, 8),
    ({"num_iterations": 2}, 4, 4),
    ({"num_iterations": 4}, 4, 2),
    ({"num_iterations": 2}, 3, 4),  # the second generation serves one step of two
    ({"steps_per_generation": 2}, 4, 8),
    ({"steps_per_generation": 2}, 3, 8),  # likewise
    ({"steps_per_generation": 2, "num_iterations": 2}, 4, 4),
    ({"gradient_accumulation_steps": 2}, 2, 4),
    ({"gradient_accumulation_steps": 2, "num_iterations": 2}, 4, 4),
    ({"gradient_accumulation_steps": 2, "steps_per_generation": 1}, 2, 4),
    # 6 micro-steps of one group, each group in 3 of them.
    ({"gradient_accumulation_steps": 2, "steps_per_generation": 1, "num_iterations": 3}, 3, 2),
    ({"gradient_accumulation_steps": 2, "steps_per_generation": 1, "num_iterations": 2}, 1, 1),
]


@pytest.fixture(scope="module")
def small(few_digits):
    return few_digits(train=24, test=4)


@pytest.mark.parametrize(("keys", "steps", "prompts"), CASES)
def test_the_groups_that_are_drawn_are_those_that_are_seen(
    small, tmp_path, monkeypatch, keys, steps, prompts
):
    seen, fit = [], arms._fit

    def watched(trainer, *rest):
        score = trainer._generate_and_score_completions

        def watched_score(inputs):
            seen.extend(inputs[i]["ids"] for i in range(0, len(inputs), trainer.num_generations))
            return score(inputs)

        trainer._generate_and_score_completions = watched_score
        fit(trainer, *rest)
        assert trainer.state.global_step == steps

    monkeypatch.setattr(arms, "_fit", watched)
    stage = {"name": "rarl", "images": [1, 2], "max_steps": steps}
    given = {"save_strategy": "no", "beta": 0.0, "max_completion_length": 16, **keys}
    config = run_config(small.root, tmp_path / "run", [stage], given, sft={})
    groups = stage_groups(config, config.stages[0], load_collection(config.data).split("train"))
    config.output.mkdir()
    arms.train_stage(config, config.stages[0], "tiny", groups, config.output / "rarl", quiet())
    assert seen == [[row.id for row in group.rows] for group in groups]
    assert len(seen) == config.prompts_of(config.stages[0]) == prompts
    assert config.sft_arguments()["max_steps"] == -(-prompts // 2)  # as many prompts, 2 a step


@pytest.mark.parametrize(
    ("keys", "prompts", "steps"),
    [
        ({}, 8, 4),
        ({}, 7, 4),
        ({"num_iterations": 2}, 8, 8),
        ({"num_iterations": 4}, 2, 4),
        ({"steps_per_generation": 2}, 6, 4),  # two generations of 4 prompts, each serving two steps
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 1, "num_iterations": 3}, 2, 3),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 1, "num_iterations": 3}, 3, 5),
    ],
)
def test_the_steps_that_so_many_prompts_take(keys, prompts, steps):
    whole = {"prompts_per_step": 2, "num_generations": 4, **keys}
    assert steps_for_prompts(whole, prompts) == steps
    assert generated_prompts(whole, steps) >= prompts
