"""What each engine is given for a reply is what the rewards give, to the last bit, however the engine calls.
Where ms-swift is not installed, two lines stand in for what the plugin takes of it."""

import importlib
import math
import sys
from types import ModuleType
from typing import Any

import pytest

from rarl.errors import ConfigError, DataError
from rarl.integrations import easyr1_reward, openrlhf_reward, verl_reward
from rarl.method.labels import columns_of, label_of
from rarl.method.prompts import INSTRUCT
from rarl.method.rewards import TERMS, score

WEIGHTS = (1.0, 0.5, 0.3)


def listed(*entries: tuple[int, float]) -> str:
    items = ", ".join(f'{{"image_id": {number}, "value": {value}}}' for number, value in entries)
    return f"<think>so</think>\n<answer>[{items}]</answer>"


SEVERAL = {"values": [3.0, 7.1, 5.0], "delta": 2.0, "range": [0.0, 9.0], "step": 0.1}
ALONE = {"values": [0.1 + 0.2], "delta": 0.7, "range": [0.0, 9.0], "step": 0.1}
ORDERED = {"order": [1, 0], "delta": 2.0, "range": [0.0, 9.0], "step": 1.0}
CASES = [
    (SEVERAL, listed((1, 3), (3, 5), (2, 7.1))),
    (SEVERAL, listed((3, 4.2), (1, 4.3), (2, 4.9))),
    (SEVERAL, listed((2, 8))),
    (SEVERAL, listed((1, 3), (1, 3), (2, 7))),
    (SEVERAL, "no answer"),
    (SEVERAL, ""),
    (ALONE, listed((1, 0.4))),
    (ALONE, "<think>a</think><answer>[{'image_id': 1, 'value': 2}]</answer>"),
    (ORDERED, listed((2, 1), (1, 2))),
    (ORDERED, listed((1, 1), (2, 2))),
]


def expected(columns: dict[str, Any], reply: str) -> tuple[float, dict[str, float | None]]:
    """The reward with all weights 1, and each term as TRL would be given it."""
    batch = {name: [entry] for name, entry in columns.items()}
    terms = {
        term.name: None if "order" in columns and term.needs_values else term.function([reply], **batch)[0]
        for term in TERMS
    }
    return score(reply, columns, [1.0] * len(TERMS)), terms


def defined(terms: dict[str, float | None]) -> dict[str, float]:
    return {name: earned for name, earned in terms.items() if earned is not None}


def known(numbers: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in numbers.items() if not math.isnan(number)}


@pytest.mark.parametrize(("columns", "reply"), CASES)
def test_verl(columns: dict[str, Any], reply: str) -> None:
    given = verl_reward.compute_score(
        data_source="x/3", solution_str=reply, ground_truth=label_of(columns), extra_info={"num_turns": 2}
    )
    reward, terms = expected(columns, reply)
    assert given.pop("score") == reward
    assert list(given) == [term.name for term in TERMS]  # the same keys for every sample, as verl needs
    assert known(given) == defined(terms)


def test_weights_of_verl_and_easyr1() -> None:
    label, reply = label_of(SEVERAL), CASES[1][1]
    wanted = score(reply, SEVERAL, WEIGHTS)
    assert verl_reward.compute_score("x", reply, label, weights=WEIGHTS)["score"] == wanted
    given = easyr1_reward.compute_score([{"response": reply, "ground_truth": label}], weights=WEIGHTS)
    assert given[0]["overall"] == wanted


def test_easyr1() -> None:
    assert easyr1_reward.REWARD_TYPE == "batch"
    inputs = [
        {"response": reply, "response_length": 9, "ground_truth": label_of(columns)}
        for columns, reply in CASES
    ]
    for given, case in zip(easyr1_reward.compute_score(inputs), CASES, strict=True):
        reward, terms = expected(*case)
        assert given == {"overall": reward, **defined(terms)}


CHAT = (
    "<|im_start|>system\nIn <think> </think> and <answer> </answer>.<|im_end|>\n<|im_start|>user\nPicture 1:"
    f"<|vision_start|><|image_pad|><|vision_end|>{INSTRUCT}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("end", ["<|im_end|>", "", "<|im_end|>\n", "<|endoftext|><|endoftext|>"])
@pytest.mark.parametrize("opening", ["", "<think>"])
def test_openrlhf(end: str, opening: str) -> None:
    queries = [
        (CHAT + opening).replace("<|image_pad|>", "<|image_pad|>" * 64) + reply.removeprefix(opening) + end
        for _, reply in CASES
    ]
    labels = [label_of(columns) for columns, _ in CASES]
    given = openrlhf_reward.reward_func(queries, [CHAT + opening] * len(CASES), labels)
    assert given["scores"] == given["rewards"]
    for number, (columns, reply) in enumerate(CASES):
        # A template's `<think>` is part of the reply, also of one that has no other.
        reward, terms = expected(columns, reply if reply.startswith(opening) else opening + reply)
        assert given["rewards"][number] == reward
        assert known({name: logs[number] for name, logs in given["extra_logs"].items()}) == defined(terms)


def test_openrlhf_refuses_another_prompt() -> None:
    with pytest.raises(ConfigError, match="rarl data export openrlhf"):
        openrlhf_reward.reward_func(["What?</s>no"], ["What?"], [label_of(ALONE)])


def swift_plugin(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, dict[str, type]]:
    """The plugin, and ms-swift's table of rewards after it was loaded."""
    if importlib.util.find_spec("swift") is None:
        rewards = ModuleType("swift.rewards")
        # As in ms-swift 4.6: made with the arguments of the run.
        rewards.ORM = type("ORM", (), {"__init__": lambda self, args=None, **kwargs: None})  # type: ignore[attr-defined]
        rewards.orms = {}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "swift", ModuleType("swift"))
        monkeypatch.setitem(sys.modules, "swift.rewards", rewards)
    monkeypatch.delitem(sys.modules, "rarl.integrations.swift_plugin", raising=False)
    plugin = importlib.import_module("rarl.integrations.swift_plugin")
    return plugin, sys.modules["swift.rewards"].orms  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "cases", [[case for case in CASES if case[0] is truth] for truth in (SEVERAL, ALONE, ORDERED)]
)
def test_swift(monkeypatch: pytest.MonkeyPatch, cases: list[tuple[dict[str, Any], str]]) -> None:
    _, orms = swift_plugin(monkeypatch)
    rows = [columns for columns, _ in cases]
    batched = {name: [columns[name] for columns in rows] for name in rows[0]}
    for term in TERMS:
        if term.needs_values and "order" in batched:
            continue
        reward = orms[f"rarl_{term.name}"](args=None)
        assert type(reward).__name__ == f"rarl_{term.name}"  # what ms-swift's metrics are called
        given = reward(
            [reply for _, reply in cases], solution=["?"] * len(cases), trainer_state=None, **batched
        )
        assert given == [expected(*case)[1][term.name] for case in cases]


@pytest.mark.parametrize("columns", [SEVERAL, ALONE, ORDERED])
def test_a_label_reads_back_as_the_same_numbers(columns: dict[str, Any]) -> None:
    assert columns_of(label_of({**columns, "rule": "age", "ids": ["a"]})) == columns


@pytest.mark.parametrize("label", ["", "7", "[1]", '{"delta": 2}', None, 7, "[" * 100_000])
def test_what_is_no_label_is_told(label: object) -> None:
    with pytest.raises(DataError, match="rarl data export"):
        columns_of(label)
