"""RMO's decisions over tables worked by hand, and the splice of `keep` over every text a tokenizer can
spell."""

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rarl.errors import ConfigError
from rarl.method.mutation import (
    Mutation,
    choose,
    is_stagnant,
    keep_reasoning,
    stagnant_switch,
    values_in_order,
)
from rarl.method.tasks import DIGITS
from rarl.models.tiny import build_tokenizer

NAN = math.nan


def chosen(rewards, reference, k=2, when="always", probability=1.0, seed=0):
    """What is replaced in a group where every response has the same reference."""
    references = reference if isinstance(reference, list) else [reference] * len(rewards)
    return choose(rewards, references, Mutation(k=k, probability=probability, when=when), random.Random(seed))


# ── which ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "k", "expected"),
    [
        ([5, 3, 1, 4, 0, 2], 2, [2, 4]),  # the lowest two are 0 and 1
        ([5, 3, 1, 4, 0, 2], 1, [4]),
        ([5, 3, 1, 4, 0, 2], 3, [2, 4, 5]),
        ([0, 0, 0, 0], 2, [0, 1]),  # ties go to the earlier
        ([1, 0, 1, 0], 3, [0, 1, 3]),  # both zeros, and the earlier of the ones
        ([5, 5, 2, 0], 1, [3]),
        ([0, 4.9], 1, [0]),
        ([-1, -2, 0, 0], 2, [0, 1]),  # a reward may be negative with a negative weight
    ],
)
def test_the_k_lowest_are_replaced(rewards, k, expected):
    assert chosen(rewards, 5, k) == expected


@pytest.mark.parametrize(
    ("rewards", "reference", "k", "expected"),
    [
        (
            [5, 5, 5, 2, 1],
            5,
            3,
            [],
        ),  # the two below it are candidates, and replacing them would leave all at 5
        ([5, 6, 5, 2, 1], 5, 3, [3, 4]),  # k would allow a third: the others are as good as the reference
        ([4, 4, 4, 4], 4, 2, []),
        ([7, 6, 5], 4, 2, []),  # all better than the reference
        ([4, 4 - 1e-8, 4 + 1e-8], 4, 2, []),  # float32's noise is no difference
        ([1, 2, 3, 4], [5, 1, 9, 4], 3, [0, 2]),  # each has its own reference: 1 < 5, 2 > 1, 3 < 9, 4 = 4
        ([1, 1, 1, 1], [1, 1, 2, 1], 2, [2]),
    ],
)
def test_candidates_score_strictly_below_the_reference(rewards, reference, k, expected):
    assert chosen(rewards, reference, k) == expected


def test_a_response_as_good_as_the_reference_is_never_replaced():
    for k in (1, 2, 3):
        assert 1 not in chosen([2, 5, 3, 0], 5, k)


@pytest.mark.parametrize(
    ("rewards", "k", "expected"),
    [
        ([5] * 6 + [3] * 2, 2, []),  # 6 perfect, 2 wrong: after it all would be perfect
        ([5] * 6 + [3] * 2, 1, [6]),  # one wrong one is left
        ([5] * 5 + [3] * 3, 2, [5, 6]),
        ([5, 3], 1, []),
        ([3, 3], 1, [0]),  # here it makes the variance
        ([5, 5, NAN, 3], 1, []),  # one that has no score makes no variance
    ],
)
def test_a_mutation_that_would_kill_the_variance_is_not_made(rewards, k, expected):
    assert chosen(rewards, 5, k) == expected


@pytest.mark.parametrize("place", range(4))
def test_a_response_that_could_not_be_scored_is_never_replaced_and_blocks_nothing(place):
    rewards = [1.0, 2.0, 3.0]
    rewards.insert(place, NAN)
    lowest = [index for index, reward in enumerate(rewards) if reward in (1, 2)]
    assert chosen(rewards, 5) == lowest
    assert chosen([NAN] * 4, 5) == []
    assert chosen([1, 2, 3, 4], NAN) == []
    assert chosen(rewards, [NAN if reward == 1 else 5 for reward in rewards], k=1) == [lowest[1]]


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "references", "stagnant"),
    [
        ([3, 3, 3, 3], [5, 5, 5, 5], True),
        ([0, 0], [0, 1], True),  # one of them could do better
        ([3, 3, 3, 2], [5, 5, 5, 5], False),  # there is a gradient
        ([5, 5, 5, 5], [5, 5, 5, 5], False),  # perfect throughout: nothing to learn
        ([6, 6], [5, 5], False),  # better than the reference
        ([3, 3 + 1e-8, 3 - 1e-8], [5, 5, 5], True),
        ([5, 5], [5 + 1e-8, 5], False),
        ([NAN, 3, 3], [5, 5, 5], True),
        ([3, NAN, 3], [5, 5, 5], True),
        ([3, NAN, 4], [5, 5, 5], False),
        ([NAN, NAN], [5, 5], False),  # what has no score can't be worse than a reference
        ([3, 3], [NAN, NAN], False),
    ],
)
def test_stagnant_needs_equal_rewards_and_a_better_reference(rewards, references, stagnant):
    assert is_stagnant(rewards, references) is stagnant
    assert bool(chosen(rewards, references, k=1, when="stagnant")) is stagnant


def test_when_stagnant_replaces_k_like_always():
    assert chosen([3, 3, 3, 3], 5, k=2, when="stagnant") == [0, 1]
    assert chosen([3, 3, 3, 2], 5, k=2, when="always") == [0, 3]


def test_probability_0_never_and_1_always():
    for seed in range(200):
        assert chosen([0, 1, 2], 5, probability=0.0, seed=seed) == []
        assert chosen([0, 1, 2], 5, probability=1.0, seed=seed) == [0, 1]


def test_a_probability_between_is_that_share_of_groups():
    made = sum(bool(chosen([0, 1, 2], 5, probability=0.3, seed=seed)) for seed in range(2000))
    assert 0.27 < made / 2000 < 0.33


def test_the_same_generator_makes_the_same_choice():
    picks = [chosen([0, 1, 2], 5, probability=0.5, seed="0:3:8") for _ in range(20)]
    assert all(pick == picks[0] for pick in picks)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 3.0, 5.0, NAN]), st.sampled_from([0.0, 3.0, 5.0, NAN])),
        min_size=2,
    ),
    st.integers(1, 10),
    st.sampled_from(["always", "stagnant"]),
)
def test_whatever_is_replaced_gets_better_and_leaves_variance(pairs, k, when):
    rewards, references = map(list, zip(*pairs, strict=True))
    picked = chosen(rewards, references, k, when)
    assert picked == sorted(set(picked))
    assert len(picked) <= k
    assert all(references[index] > rewards[index] for index in picked)
    after = [references[i] if i in picked else reward for i, reward in enumerate(rewards)]
    assert not picked or len({reward for reward in after if not math.isnan(reward)}) > 1
    left = [i for i, reward in enumerate(rewards) if i not in picked and references[i] > reward]
    assert not picked or len(picked) == k or not left
    assert all(rewards[i] >= rewards[j] for i in left for j in picked)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────


def test_best_reference_with_stagnant_is_refused():
    with pytest.raises(ConfigError, match=r"reference: 'best' with `when: stagnant` does nothing"):
        Mutation.of(when="stagnant", reference="best")
    Mutation(when="always", reference="best")
    Mutation(when="stagnant", reference="ground_truth")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k: must be greater than or equal to 1, not 0"),
        ({"probability": -0.1}, "probability: must be greater than or equal to 0, not -0.1"),
        ({"probability": 1.1}, "probability: must be less than or equal to 1, not 1.1"),
        ({"probability": NAN}, "probability: must be a finite number, not nan"),
        ({"when": "sometimes"}, "when: must be 'always' or 'stagnant', not 'sometimes'"),
        ({"reference": "truth"}, "reference: must be 'ground_truth', 'best' or 'replay', not 'truth'"),
        ({"reasoning": None}, "reasoning: must be 'template', 'keep' or 'empty', not null"),
        (
            {"kk": 1},
            "kk: unknown key; did you mean 'k'? the keys are k, probability, when, reference, reasoning, "
            "statistics, weight, gamma, kl, decay, k_end, probability_end",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused(fields, message):
    with pytest.raises(ConfigError) as error:
        Mutation.of(**fields)
    assert str(error.value) == f"mutation.{message}"


# ── where only orders are known ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "order", "expected"),
    [
        # The smallest own value goes to place 0, which is picture 2's, the next to picture 3, the last to 1.
        ([5, 2, 9], [2, 0, 1], [9, 2, 5]),
        ([5, 2, 9], [1, 0, 2], [5, 2, 9]),  # right already
        ([9, 2], [0, 1], [2, 9]),
        ([0, 9], [1, 0], [9, 0]),  # the ends belong to the range
        ([4, 4, 7], [2, 1, 0], [7, 4, 4]),
        # Moved to the grid, halves up.
        ([0.4, 2.6, 8.5], [2, 0, 1], [9, 0, 3]),
        # Not a value within 0-9 for every picture: (9 - 0) times 1/4, 2/4, 3/4 is 2.25, 4.5, 6.75.
        ([5, None, 9], [2, 0, 1], [7, 2, 5]),
        ([5, 2, 9.1], [2, 0, 1], [7, 2, 5]),
        ([5, -0.1, 9], [2, 0, 1], [7, 2, 5]),
        ([5, math.inf, NAN], [2, 0, 1], [7, 2, 5]),
        ([None] * 3, [0, 1, 2], [2, 5, 7]),
        ([None], [0], [5]),
        # Places may begin anywhere, and be shared.
        ([5, 2, 9], [3, 1, 2], [9, 2, 5]),
        ([5, 2, 9], [0, -1, 7], [5, 2, 9]),
        ([5, 2, 9], [1, 0, 1], [5, 2, 5]),
        ([5, 2, 9], [2.0, 0.0, 1.0], [9, 2, 5]),
    ],
)
def test_own_values_are_sorted_into_the_true_order(given, order, expected):
    assert values_in_order(given, order, (0, 9), 1) == expected


def test_values_in_order_keep_to_the_grid_and_the_range():
    # The grid is 1, 1.5, ..., 10; of the range 1-10.2 the end is no point of it.
    assert values_in_order([1.2, 9.8], [1, 0], (1, 10), 0.5) == [10, 1]
    assert values_in_order([1.25, 10.2], [0, 1], (1, 10.2), 0.5) == [1.5, 10]
    assert values_in_order([1, 10.9], [0, 1], (1, 10.9), 0.5) == [1, 10.9]
    assert values_in_order([-3, -7], [0, 1], (-10, -1), 3) == [-7, -4]


# ── keep ─────────────────────────────────────────────────────────────────────────────────────────────────


class Tokens:
    """A tokenizer of the given words, and of single bytes for what they don't spell; the longest word
    counts."""

    def __init__(self, *words):
        self.words = [word.encode() for word in words] + [bytes([byte]) for byte in range(256)]

    def encode(self, text):
        data, ids = text.encode(), []
        while data:
            ids.append(
                max(
                    range(len(self.words)), key=lambda i: (data.startswith(self.words[i]), len(self.words[i]))
                )
            )
            data = data[len(self.words[ids[-1]]) :]
        return ids

    def decode(self, ids):
        return b"".join(self.words[index] for index in ids).decode(errors="replace")


class Tiny:
    """The embedded model's own tokenizer, as the trainer calls it."""

    def __init__(self):
        self.tokenizer = build_tokenizer(DIGITS)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


TINY = Tiny()
ANSWER = '\n<answer>[{"image_id": 2, "value": 1}, {"image_id": 1, "value": 4}]</answer>'
OWN = '<think>Picture 1: 3. Picture 2: 7.</think>\n<answer>[{"image_id": 1, "value": 3}]</answer>'


def keep(tokens, own, answer=ANSWER, room=10_000):
    return keep_reasoning(own, answer, tokens.encode, tokens.decode, room)


def untouched(tokens, own):
    """How many leading tokens end at or before `</think>`, counted one by one."""
    text = tokens.decode(own)
    reasoning = text[: text.find("</think>")]
    heads = [tokens.decode(own[:count]) for count in range(len(own) + 1)]
    return max(count for count, head in enumerate(heads) if reasoning.startswith(head))


def test_keep_changes_only_the_answer():
    own = TINY.encode(OWN)
    ids = keep(TINY, own)
    assert TINY.decode(ids) == "<think>Picture 1: 3. Picture 2: 7.</think>" + ANSWER
    kept = untouched(TINY, own)
    assert kept > 0
    assert ids[:kept] == own[:kept]


def test_keep_splits_a_token_that_runs_from_the_reasoning_into_the_answer():
    own = TINY.encode(OWN)
    pieces = [TINY.decode([index]) for index in own]
    straddling = [piece for piece in pieces if "</think>" in piece and not piece.startswith("</think>")]
    assert straddling, f"the tokenizer has no such token any more: {pieces}"
    kept = untouched(TINY, own)
    assert pieces[kept] in straddling
    ids = keep(TINY, own, "!")
    assert ids == [*own[:kept], *TINY.encode(".</think>!")]
    assert TINY.decode(ids) == "<think>Picture 1: 3. Picture 2: 7.</think>!"


@pytest.mark.parametrize(
    ("words", "head"),
    [
        ([], "<think>ab"),  # one token a byte
        (["<think>", "ab", "</think>"], "<think>ab"),
        (["b</think>"], "<think>a"),  # straddles: its `b` is encoded anew
        (["ab</think>\n<answer>"], "<think>"),
        (["<think>ab</think>"], ""),
        (["</think>\n"], "<think>ab"),
    ],
)
def test_keep_leaves_the_tokens_that_end_at_or_before_the_end_of_reasoning(words, head):
    tokens = Tokens(*words)
    own = tokens.encode("<think>ab</think>\n<answer>[]</answer>")
    kept = untouched(tokens, own)
    assert tokens.decode(own[:kept]) == head
    ids = keep(tokens, own, "<answer>1</answer>")
    assert ids[:kept] == own[:kept]
    assert tokens.decode(ids) == "<think>ab</think><answer>1</answer>"


def test_keep_leaves_tokens_as_they_were_sampled_even_if_the_text_has_shorter_ones():
    tokens = Tokens("abc", "</think>")
    own = [2 + byte for byte in b"abc</think>x"]  # byte by byte, where `abc` is one word
    assert tokens.decode(own) == "abc</think>x"
    ids = keep(tokens, own, "y")
    assert ids == [*own[:3], *tokens.encode("</think>y")]


def test_keep_needs_an_end_of_reasoning():
    for text in ("", "no reasoning", "<think>and no end", "<answer>[]</answer>", "</think"):
        assert keep(TINY, TINY.encode(text)) is None


def test_keep_takes_the_first_end_of_reasoning():
    ids = keep(TINY, TINY.encode("<think>a</think>b</think>c"))
    assert TINY.decode(ids) == "<think>a</think>" + ANSWER


@pytest.mark.parametrize("text", ["é", "日本", "a🙂", "🙂🙂", "�", "é日🙂�"])
def test_keep_never_breaks_a_character_of_several_bytes(text):
    for tokens in (Tokens(), Tokens("🙂</think>", "\u00e9</th"), TINY):
        own = tokens.encode(f"<think>{text}</think>x")
        ids = keep(tokens, own)
        assert tokens.decode(ids) == f"<think>{text}</think>{ANSWER}"


def test_keep_splits_a_token_that_ends_within_a_character():
    tokens = Tokens()
    first, second = "é".encode()
    tokens.words.append(bytes([second]) + b"</think>")
    own = [ord("a"), first, len(tokens.words) - 1]
    assert tokens.decode(own) == "aé</think>"
    ids = keep(tokens, own, "!")
    assert tokens.decode(ids) == "aé</think>!"
    assert ids[0] == own[0]


@given(st.text(max_size=30), st.text(max_size=30))
@example("<|im_end|>", "")  # special tokens are no text
def test_keep_spells_the_own_reasoning_and_the_new_answer(reasoning, rest):
    reasoning = reasoning.replace("</think>", "")
    own = TINY.encode(f"<think>{reasoning}</think>{rest}")
    ids = keep(TINY, own)
    assert TINY.decode(ids) == TINY.decode(own).partition("</think>")[0] + "</think>" + ANSWER
    kept = untouched(TINY, own)
    assert ids[:kept] == own[:kept]


@given(
    st.lists(st.integers(0, len(TINY.tokenizer) - 1), max_size=40),
    st.lists(st.integers(0, len(TINY.tokenizer) - 1), max_size=10),
)
def test_keep_takes_any_tokens_that_a_model_may_sample(reasoning, rest):
    """Special tokens and bytes that are no text included."""
    own = [*reasoning, *TINY.encode("</think>"), *rest]
    text = TINY.decode(own)
    ids = keep(TINY, own)
    assert TINY.decode(ids) == text[: text.find("</think>")] + "</think>" + ANSWER
    kept = untouched(TINY, own)
    assert ids[:kept] == own[:kept]


def test_keep_cuts_reasoning_that_is_too_long_at_its_end():
    tokens = Tokens()
    own = tokens.encode("<think>abcdef</think>x")
    tail = len("</think>!")
    for room in range(tail + len("<think>"), tail + len("<think>abcdef") + 3):
        ids = keep(tokens, own, "!", room)
        head = "<think>abcdef"[: room - tail]
        assert tokens.decode(ids) == f"{head}</think>!"
        assert ids[: len(head)] == own[: len(head)]
        assert len(ids) <= room
    assert keep(tokens, own, "!", room=tail + len("<think>") - 1) is None  # it would be no reply any more
    assert keep(tokens, own, "!", room=0) is None


@given(st.text(max_size=60), st.integers(0, 60))
def test_keep_never_takes_more_than_its_room(reasoning, spare):
    own = TINY.encode(f"<think>{reasoning.replace('</think>', '')}</think>x")
    end = TINY.encode("</think>" + ANSWER)
    ids = keep(TINY, own, room=len(end) + spare)
    if ids is not None:
        assert len(ids) <= len(end) + spare
        assert TINY.decode(ids).startswith("<think>")
        assert TINY.decode(ids).endswith("</think>" + ANSWER)
    else:
        assert spare < len(TINY.encode("<think>")) + 1


# ── over the stage ───────────────────────────────────────────────────────────────────────────────────────


def test_a_decay_goes_from_the_beginning_to_the_end():
    mutation = Mutation(k=4, probability=0.8, decay="linear", k_end=1, probability_end=0.2)
    points = [mutation.at(progress) for progress in (0, 1 / 3, 0.5, 1, 1.5)]
    assert [point.k for point in points] == [4, 3, 3, 1, 1]  # 4, 3, 2.5, 1
    assert [point.probability for point in points] == pytest.approx([0.8, 0.6, 0.5, 0.2, 0.2])
    cosine = mutation.model_copy(update={"decay": "cosine"})
    # (1 + cos(pi / 4)) / 2 = 0.8536 of the way down is left at a quarter of the steps.
    assert cosine.at(0.25).probability == pytest.approx(0.2 + 0.6 * 0.853553, abs=1e-6)
    assert [cosine.at(progress).k for progress in (0, 0.5, 1)] == [4, 3, 1]
    assert Mutation(k=4).at(1) == Mutation(k=4)


def test_a_decay_does_not_go_up():
    with pytest.raises(ConfigError, match=r"mutation.k_end: must not be above k \(2\)"):
        Mutation.of(k=2, decay="linear", k_end=3)
    with pytest.raises(ConfigError, match=r"mutation.probability_end: must not be above probability \(0.5\)"):
        Mutation.of(probability=0.5, decay="cosine", probability_end=0.6)


@pytest.mark.parametrize(
    ("given", "probability", "expected"),
    [
        *((None, 0.5, "mutate"), (None, 0.0, "keep"), ("mutate", 0.5, "mutate")),
        *(("keep", 0.0, "keep"), ("resample", 0.0, "resample")),
    ],
)
def test_the_switch_of_stagnant_groups(given, probability, expected):
    assert stagnant_switch(given, probability) == expected


@pytest.mark.parametrize(
    ("given", "probability", "said"),
    [
        (
            "resample",
            0.5,
            "'resample' leaves responses as they are, and there is a mutation with probability",
        ),
        ("keep", 0.1, "'keep' leaves responses as they are"),
        ("mutate", 0.0, "'mutate' needs a mutation with a probability above 0"),
        ("drop", 0.0, "keep, mutate or resample, not 'drop'"),
    ],
)
def test_a_switch_that_the_mutation_contradicts_is_refused(given, probability, said):
    with pytest.raises(ConfigError, match=said):
        stagnant_switch(given, probability)


def test_what_is_left_is_judged_by_what_the_group_becomes():
    """Where sums depend on the group, a replacement is judged by those of the group after it."""
    mutation, draw = Mutation(k=1, probability=1), random.Random(0)
    assert choose([0.0, 1.0], [2.0, 2.0], mutation, draw, lambda picked: [2.0, 1.0]) == [0]
    assert choose([0.0, 1.0], [2.0, 2.0], mutation, draw, lambda picked: [0.0, 0.0]) == []
