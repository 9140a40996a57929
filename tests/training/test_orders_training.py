"""Training if only orders are known: which rewards remain, what replaces a response (RMO), and a run from its
configuration to its numbers."""

import json
import math
from copy import deepcopy

import pytest
from trl import GRPOConfig, GRPOTrainer

from helpers.grpo import TOKENIZER, ids_of
from helpers.grpo import settings as grpo_settings
from helpers.training import log, quiet, run_config
from rarl.data.collection import load_collection
from rarl.data.dataset import to_dataset
from rarl.data.groups import Group
from rarl.data.writing import write_collection
from rarl.errors import ConfigError
from rarl.method.rewards import format_reward, ranking_reward, regression_reward
from rarl.method.tasks import DIGITS
from rarl.models.loading import load_model, load_processor
from rarl.report.tables import markdown_table
from rarl.training import run as stages
from rarl.training.trainer import RARLConfig, RARLTrainer

PLACES = [2, 0, 1]  # of pictures 1, 2, 3 in the true order, which is 2, 3, 1


def without_values(root, split):
    """Turns a split of values into one of orders: all of its digits in turn, one image of each."""
    file = root / split / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    by_value = {}
    for row in rows:
        by_value.setdefault(row.pop("value"), []).append(row["id"])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    orders = []
    while len(by_value) > 1:
        orders.append([by_value[value].pop() for value in sorted(by_value)])
        by_value = {value: ids for value, ids in by_value.items() if ids}
    (root / split / "orders.jsonl").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in orders))


@pytest.fixture(scope="module")
def collection_of(digits, tmp_path_factory):
    """`collection_of("train")`: few digits; in these splits only orders are known."""

    def make(*ordered):
        root = tmp_path_factory.mktemp("collections") / "orders"
        sizes = {"train": 30, "test": 20}
        splits = {
            split: [(row.id, row.value, row.path.read_bytes()) for row in digits.split(split)[:size]]
            for split, size in sizes.items()
        }
        write_collection(root, DIGITS, splits)
        for split in ordered:
            without_values(root, split)
        return load_collection(root)

    return make


@pytest.fixture(scope="module")
def orders(collection_of):
    """Two prompts of three pictures each, and only their order is known."""
    collection = collection_of("train", "test")
    rows = [row for row in collection.split("train") if row.order == 1]
    groups = [Group(tuple(rows[place] for place in PLACES)), Group(tuple(rows[place] for place in (0, 3, 6)))]
    return to_dataset(groups, collection.task)


def settings(folder, **given):
    return grpo_settings(folder, **{"max_steps": 1, "reward_weights": None, **given})


def ours(dataset, folder, mutation=None, **given):
    fields = {f"mutation_{key}": value for key, value in (mutation or {}).items()}
    args = RARLConfig(**settings(folder, **({"reward_weights": [0, 1, 1]} | fields | given)))
    return trainer_of(dataset, args)


def trainer_of(dataset, args, **given):
    return RARLTrainer(
        load_model("tiny", training=True),
        args=args,
        train_dataset=dataset,
        processing_class=load_processor("tiny"),
        **given,
    )


# ── rewards ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_dataset_has_places_and_no_values(orders):
    assert orders[0]["order"] == PLACES
    assert orders[1]["order"] == [0, 1, 2]  # among the pictures shown
    assert "values" not in orders.column_names


def test_the_regression_reward_is_left_out_where_its_weight_is_0(orders, tmp_path):
    args = RARLConfig(**settings(tmp_path, reward_weights=[0, 0.5, 2.0]))
    before = deepcopy(args.to_dict())
    trainer = trainer_of(orders, args)
    assert trainer.reward_func_names == ["ranking_reward", "format_reward"]
    assert trainer.reward_weights.tolist() == [0.5, 2]
    assert args.to_dict() == before
    assert args.reward_weights == [0, 0.5, 2]
    # The same arguments work for another trainer.
    assert trainer_of(orders, args).reward_weights.tolist() == [0.5, 2]
    trainer.train()
    log = trainer.state.log_history[0]
    rewards = {key for key in log if key.startswith("rewards/") and key.endswith("/mean")}
    assert rewards == {"rewards/ranking_reward/mean", "rewards/format_reward/mean"}
    assert {key for key in log if key.startswith("policy/rewards/")} == {
        "policy/rewards/ranking_reward",
        "policy/rewards/format_reward",
    }
    weighted = 0.5 * log["rewards/ranking_reward/mean"] + 2 * log["rewards/format_reward/mean"]
    assert log["reward"] == pytest.approx(weighted, abs=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, r"weight of the regression reward is 1: make it 0, as in reward_weights=\[0, 1, 1\]"),
        ([1, 1, 1], "weight of the regression reward is 1: make it 0"),
        ([0.25, 1, 1], "is 0.25: make it 0"),
        ([-1, 1, 1], "is -1: make it 0"),
        ([math.nan, 1, 1], "is nan: make it 0"),
        ([1, 1], "of regression, ranking and format, not 2 numbers; .* such as \\[0, 1, 1\\]"),
        ([0, 1, 1, 1], "of regression, ranking and format, not 4 numbers"),
    ],
)
def test_weights_that_orders_can_t_have_are_refused(orders, tmp_path, weights, message):
    with pytest.raises(ConfigError, match=message):
        trainer_of(orders, RARLConfig(**settings(tmp_path, reward_weights=weights)))


# TRL 1.16's own defaults use the old name.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_without_arguments_it_says_to_make_the_weight_0(orders):
    with pytest.raises(ConfigError, match="make it 0"):
        trainer_of(orders, None)


def test_rewards_of_one_s_own_are_taken_as_they_are(orders, tmp_path):
    args = RARLConfig(**settings(tmp_path, reward_weights=[2]))
    trainer = trainer_of(orders, args, reward_funcs=[ranking_reward])
    assert trainer.reward_func_names == ["ranking_reward"]
    assert trainer.reward_weights.tolist() == [2]


def test_where_values_are_known_nothing_is_left_out(prompts_of, tmp_path):
    trainer = ours(prompts_of([3, 7]), tmp_path)
    assert trainer.reward_func_names == ["regression_reward", "ranking_reward", "format_reward"]
    assert trainer.reward_weights.tolist() == [0, 1, 1]


def stock(dataset, folder, rewards):
    return GRPOTrainer(
        load_model("tiny", training=True),
        rewards,
        GRPOConfig(**settings(folder)),
        train_dataset=dataset,
        processing_class=load_processor("tiny"),
    )


def test_the_stock_trainer_trains_on_orders(orders, tmp_path):
    trainer = stock(orders, tmp_path, [ranking_reward, format_reward])
    trainer.train()
    log = trainer.state.log_history[0]
    rank = log["r_len"] + log["r_consis"] + log["r_acc"]
    assert log["rewards/ranking_reward/mean"] == pytest.approx(rank, abs=1e-5)
    assert log["r_len"] > 0


def test_the_stock_trainer_with_the_regression_reward_is_told(orders, tmp_path):
    with pytest.raises(ConfigError, match=r"regression reward needs values, .* orders alone"):
        stock(orders, tmp_path, [regression_reward, ranking_reward]).train()


# ── mutation ─────────────────────────────────────────────────────────────────────────────────────────────


def answer(*listed):
    entries = ", ".join(f'{{"image_id": {image_id}, "value": {value}}}' for image_id, value in listed)
    return f"<answer>[{entries}]</answer>"


OWN = "<think>5, 2, 9</think>" + answer((2, 2), (1, 5), (3, 9))
TIED = "<think>all alike</think>" + answer((1, 4), (2, 4), (3, 4))
NOTHING = "What is this?"
PARTIAL = "<think>two</think>" + answer((2, 1), (1, 8))
BEYOND = "<think>ten</think>" + answer((2, 1), (1, 8), (3, 10))
TWICE = "<think>one</think>" + answer((2, 1), (1, 8), (3, 9), (3, 9))
OFF = "<think>off</think>" + answer((1, 0.4), (2, 2.6), (3, 8.5))

# The true order is 2, 3, 1; the response's own values, ascending, take these places.
SORTED = answer((2, 2), (3, 5), (1, 9))
EVEN = answer((2, 2), (3, 5), (1, 7))  # 9/4, 18/4 and 27/4 on the grid
REFERENCES = {  # response -> its reference by reasoning: template, keep
    OWN: (f"<think>Picture 1: 9. Picture 2: 2. Picture 3: 5.</think>\n{SORTED}", "5, 2, 9", SORTED),
    TIED: (
        f"<think>Picture 1: 4. Picture 2: 4. Picture 3: 4.</think>\n{answer((2, 4), (3, 4), (1, 4))}",
        "all alike",
        answer((2, 4), (3, 4), (1, 4)),
    ),
    OFF: (
        f"<think>Picture 1: 9. Picture 2: 0. Picture 3: 3.</think>\n{answer((2, 0), (3, 3), (1, 9))}",
        "off",
        answer((2, 0), (3, 3), (1, 9)),
    ),
    **{
        text: (f"<think>Picture 1: 7. Picture 2: 2. Picture 3: 5.</think>\n{EVEN}", own, EVEN)
        for text, own in {NOTHING: None, PARTIAL: "two", BEYOND: "ten", TWICE: "one"}.items()
    },
}


def references(dataset, folder, texts, reasoning):
    """The references that would replace these responses to the first prompt, as texts."""
    trainer = ours(dataset, folder, {"probability": 1.0, "reasoning": reasoning}, max_completion_length=96)
    trainer._inputs = [dataset[0]] * len(texts)
    ids = trainer._reference_ids([TOKENIZER.encode(text, add_special_tokens=False) for text in texts], [])
    assert all(each[-1] == TOKENIZER.eos_token_id for each in ids)
    assert all(len(each) <= 96 for each in ids)
    return [TOKENIZER.decode(each, skip_special_tokens=True) for each in ids]


def test_the_template_spells_the_values_and_the_answer_lists_the_true_order(orders, tmp_path):
    written = references(orders, tmp_path, REFERENCES, "template")
    assert written == [template for template, _, _ in REFERENCES.values()]


def test_keep_leaves_the_own_reasoning_and_takes_the_template_where_there_is_none(orders, tmp_path):
    written = references(orders, tmp_path, REFERENCES, "keep")
    assert written == [
        template if own is None else f"<think>{own}</think>\n{listed}"
        for template, own, listed in REFERENCES.values()
    ]


def test_empty_has_no_reasoning(orders, tmp_path):
    written = references(orders, tmp_path, REFERENCES, "empty")
    assert written == [f"<think></think>\n{listed}" for _, _, listed in REFERENCES.values()]


def test_a_reference_is_scored_as_any_response(orders, tmp_path):
    written = references(orders, tmp_path, [OWN, TIED, NOTHING], "template")
    logged = {}
    for text in written:
        ranking_reward([text], order=[PLACES], log_metric=lambda k, v: logged.setdefault(k, []).append(v))
    # All are in the true order. Tied values support no order: each of the three pairs counts 1/2.
    assert logged == {"r_len": [1, 1, 1], "r_consis": [1, 0.5, 1], "r_acc": [1, 1, 1]}


def test_a_group_after_mutation(orders, tmp_path, monkeypatch):
    """R_rank + R_format of each: in `OWN`'s list 2, 1, 3 one of three pairs is wrong."""
    texts = [OWN, TIED, NOTHING, PARTIAL, OWN, OWN, OWN, OWN]
    monkeypatch.setattr(
        GRPOTrainer,
        "_generate_single_turn",
        lambda self, prompts, *rest, **more: ([ids_of(text) for text in texts], None),
    )
    trainer = ours(orders, tmp_path, {"probability": 1.0, "k": 2}, max_completion_length=96)
    trainer.model.train()
    inputs = [orders[0]] * 4 + [orders[1]] * 4
    trainer._generate_and_score_completions(inputs)
    after = [completion[-1]["content"] for completion in trainer._logs["completion"]]
    # The lowest of the first group are TIED and NOTHING:
    #   OWN      1 + 1 + 2/3 + 1 = 3 2/3
    #   TIED     1 + 1/2 + 1/3 + 1 = 2 5/6: listed 1, 2, 3 against 2, 3, 1 has one of three pairs right
    #   NOTHING  0
    #   PARTIAL  2/3 + 2/3 + 2/3 + 1 = 3: the pair 2, 1 is right and two pairs count 0
    assert after[:4] == [OWN, REFERENCES[TIED][0], REFERENCES[NOTHING][0], PARTIAL]
    # In the second the true order is 1, 2, 3; all are replaced alike, so two of the four.
    assert after[4:] == [
        *["<think>Picture 1: 2. Picture 2: 5. Picture 3: 9.</think>\n" + answer((1, 2), (2, 5), (3, 9))] * 2,
        *[OWN] * 2,
    ]
    rewards = trainer._logs["rewards"]["ranking_reward"]
    assert list(rewards)[:4] == pytest.approx([8 / 3, 2.5, 3, 2])
    assert trainer._metrics["train"]["policy/reward"][-1] == pytest.approx(
        (11 / 3 + 17 / 6 + 0 + 3 + 4 * 11 / 3) / 8, abs=1e-5
    )


@pytest.mark.parametrize("order", [[0], [1, 1]])
def test_a_prompt_with_nothing_to_rank_has_no_reference(orders, tmp_path, order):
    """The midpoint was injected: a value that nobody knows."""
    row = {**orders[0], "order": order}
    for probability in (0.0, 1.0):
        trainer = ours(orders, tmp_path, {"probability": probability}, max_completion_length=96)
        trainer._inputs = [row]
        if probability == 0:
            trainer._reference_ids([ids_of(NOTHING)], [])
            continue
        with pytest.raises(ConfigError, match=r"column 'order': \[.*\] has nothing to rank"):
            trainer._reference_ids([ids_of(NOTHING)], [])


def test_where_values_are_known_too_they_are_the_references(prompts_of, tmp_path):
    """As they are for the rewards."""
    dataset = prompts_of([3, 7]).add_column("order", [[1, 0]])
    trainer = ours(dataset, tmp_path, {"probability": 1.0, "reasoning": "empty"})
    trainer._inputs = [dataset[0]]
    assert trainer._has_references()
    [ids] = trainer._reference_ids([ids_of(OWN)], [])
    written = TOKENIZER.decode(ids, skip_special_tokens=True)
    assert written == "<think></think>\n" + answer((1, 3), (2, 7))


@pytest.mark.parametrize("column", ["range", "step"])
def test_mutation_names_the_column_that_is_missing(orders, tmp_path, column):
    trainer = ours(orders, tmp_path, {"probability": 1.0})
    trainer._inputs = [{key: value for key, value in orders[0].items() if key != column}]
    with pytest.raises(ConfigError, match=rf"or 'order', 'range' and 'step'; missing: {column}$"):
        trainer._has_references()


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────


def configuration(collection, output, **changes):
    stage = {
        "name": "ranking",
        "images": [2, 4],
        "weights": {"regression": 0, "ranking": 1, "format": 1},
        "max_steps": 2,
        "mutation": {"probability": 1.0, "when": "stagnant", "reasoning": "keep"},
    }
    sections = {"stages": [stage], "evaluation": {"images": [2, 4], "lists": 5}} | changes
    return run_config(collection.root, output, **sections)


def run(config):
    return stages.train_and_evaluate(config, resume=False, console=quiet())


def test_a_run_from_orders_to_its_numbers(collection_of, tmp_path):
    config = configuration(collection_of("train", "test"), tmp_path / "run")
    metrics = run(config)
    assert list(metrics["arms"]) == ["base", "ranking"]
    for entries in metrics["arms"].values():
        of_lists = {f"{kind}{count}" for kind in ("tau", "agreement", "position_bias") for count in (2, 4)}
        lenient = {f"{name}_lenient" for name in ("tau2", "tau4", "parsed", "valid")}
        assert entries.keys() == of_lists | lenient | {"tau2_values", "tau4_values", "parsed", "valid"}
    assert "1-img" not in markdown_table(metrics, DIGITS)
    lines = log(config.output / "ranking")
    assert {"policy/r_acc", "mutation/stagnant_before", "rewards/ranking_reward/mean"} <= lines[0].keys()
    assert not any("regression" in key for key in lines[0])
    assert not (config.output / "checkpoints").exists()


def test_trained_on_orders_and_tested_on_values(collection_of, tmp_path):
    evaluation = {"images": [1, 2], "lists": 5}
    config = configuration(collection_of("train"), tmp_path / "run", evaluation=evaluation)
    metrics = run(config)
    for entries in metrics["arms"].values():
        assert {"mae", "accuracy", "srcc", "tau2"} <= entries.keys()
        assert entries["mae"]["n"] == 20
