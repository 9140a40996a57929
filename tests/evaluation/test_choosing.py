"""What is chosen on validation, by models that are functions: values, orders, temperature, and when nothing
can be chosen."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import rarl.evaluation.choosing.choose
import rarl.evaluation.evaluate
from helpers.asking import TASK, image, right
from rarl.data.writing import write_collection
from rarl.evaluation.choosing.choose import Answers, best_method, choose, temperature_for
from rarl.method.replies import reference_reply
from rarl.scoring.distribution import Distributions
from rarl.scoring.scoring import Scoring
from rarl.scoring.values import Scored

TRUTHS = [float(value) for value in range(11)] * 4


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    entries = [(f"v{i}", value, image(value)) for i, value in enumerate(TRUTHS)]
    return write_collection(tmp_path_factory.mktemp("data") / "greys", TASK, {"validation": entries})


@pytest.fixture
def chosen(greys, monkeypatch):
    """`chosen(alone, listed, mean, fast)`: what is chosen for a model whose replies and whose likeliest
    values are these functions of what it is shown; of `sampled`, after several reasonings."""

    def run(alone, listed, mean, fast, sampled=None, **options):
        def values_in(images):
            return [round(picture.getpixel((0, 0))[0] / 20) for picture in images]

        def replies(model, processor, prompts, images, **more):
            groups = [values_in(group) for group in images]
            return [alone(group[0]) if len(group) == 1 else listed(group) for group in groups]

        def scored(model, processor, images, task, scoring, **more):
            how = fast if scoring.method == "mean-fast" else sampled if scoring.sampled else mean
            found = np.full((len(images), 11), 0.01)
            for row, value in zip(found, values_in(images), strict=True):
                row[how(value)] += 0.89
            own = Distributions(np.arange(11.0), found)
            return Scored(own.median.tolist(), None, own)

        monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", replies)
        monkeypatch.setattr("rarl.evaluation.expected.values_of", scored)
        processor = SimpleNamespace()
        options = {"lengths": [4], "seed": 0, "batch_size": 16, "max_new_tokens": 8, **options}
        return choose(None, processor, greys, options.pop("split", "validation"), **options)

    return run


def said(value):
    return reference_reply([value], 1)


def half(value):
    """The neighbour below of odd values: many images tie."""
    return value - value % 2


def backwards(values):
    """The right values, listed in the reverse order."""
    entries = json.loads(right(values).split("<answer>")[1].split("</answer>")[0])
    return f"<answer>{json.dumps(entries[::-1])}</answer>"


def reverse(values):
    return reference_reply([10 - value for value in values], 1)


@pytest.mark.parametrize(
    ("alone", "listed", "mean", "fast", "method", "lists"),
    [
        # Lists in the right order are no better than the values.
        (lambda v: said(half(v)), right, lambda v: v, half, "mean", ()),
        # They are where the values leave images tied.
        (lambda v: said(half(v)), right, half, half, "mean", (4,)),
        (lambda v: said(half(v)), reverse, lambda v: v, half, "mean", ()),
        # They are no rankings: the values decide behind them, too.
        (lambda v: said(half(v)), lambda values: "no idea", lambda v: v, half, "mean", ()),
        # What is as good as the mean does not replace it; what is better does.
        (lambda v: said(half(v)), right, lambda v: v, lambda v: v, "mean", ()),
        (lambda v: said(half(v)), right, half, lambda v: v, "mean-fast", ()),
        # A mean that is 5 too high, or in no order, has wrong values.
        (said, reverse, lambda v: (v + 5) % 11, lambda v: 10 - v, "greedy", ()),
        # The model can only rank images side by side.
        (lambda v: said(5), right, lambda v: 5, lambda v: 5, "mean", (4,)),
    ],
)
def test_what_is_better_on_validation_is_chosen(chosen, alone, listed, mean, fast, method, lists):
    scoring = chosen(alone, listed, mean, fast)
    assert (scoring.method, scoring.listed, scoring.lengths) == (method, lists, (4,))
    assert (scoring.split, scoring.images, scoring.reasoning) == ("validation", 44, "template")
    assert scoring.measured.keys() == {"greedy", "mean", "mean-fast", "listed", "windows"}


def test_the_numbers_behind_it_are_kept(chosen):
    scoring = chosen(said, reverse, lambda v: v, half)
    greedy, listed = scoring.measured["greedy"], scoring.measured["listed"]
    assert (greedy["mae"], greedy["srcc"], greedy["tau4"]) == (0, 1, 1)
    assert listed == {"tau4": -1}
    # .9 on the right value, of which nine tenths are claimed; all of them are right.
    assert scoring.measured["mean"]["coverage"] == 1


def test_a_list_too_long_for_the_split_is_not_asked(chosen):
    scoring = chosen(said, right, lambda v: v, half, lengths=[50, 2])
    assert (scoring.lengths, scoring.listed) == ((2, 50), ())
    assert scoring.measured["listed"].keys() == {"tau2"}


@pytest.mark.parametrize(
    ("after_one", "after_several", "number"),
    [
        (lambda v: v, lambda v: v, 0),  # as good: it would cost four times as much
        (half, lambda v: v, 4),
        (lambda v: v, half, 0),
    ],
)
def test_reasonings_are_sampled_where_they_are_shown_to_be_better(chosen, after_one, after_several, number):
    scoring = chosen(
        lambda v: said(v).replace("Picture 1: ", "I see "), right, after_one, lambda v: 5, after_several
    )
    assert (scoring.reasoning, scoring.sampled) == ("free", number)
    assert scoring.temperatures.keys() == {"mean", "mean-fast"}
    used = scoring.measured["mean-sampled" if number else "mean"]
    assert used["tau4"] == 1
    assert scoring.is_sampled == (scoring.method == "mean" and number > 0)


def test_reasonings_are_not_sampled_of_a_model_that_follows_the_template(chosen):
    def never(value):
        raise AssertionError("a sampled reasoning was asked for")

    assert chosen(lambda v: said(half(v)), right, lambda v: v, half, never).sampled == 0


@pytest.mark.parametrize(
    ("listed", "mean", "orders"),
    [
        # Its lists are right, and so are its values: nothing is gained by joining them.
        (right, lambda v: v, ((), (), "values")),
        # Alone it says 5 of all: what it says of them side by side orders the long list.
        (right, lambda v: 5, ((4,), (), "windows")),
        # Joined values are better than the list, but not than the values: these are kept.
        (backwards, lambda v: v, ((), (), "values")),
        # The order of its lists is wrong, and their values are right: they settle what values leave tied.
        (backwards, half, ((), (4,), "windows")),
        (reverse, lambda v: v, ((), (), "values")),
        (lambda values: "no idea", lambda v: 5, ((), (), "values")),
    ],
)
def test_windows_are_chosen_where_they_gain(chosen, listed, mean, orders):
    scoring = chosen(lambda v: said(mean(v)), listed, mean, mean)
    assert (scoring.listed, scoring.windows, scoring.others) == orders
    numbers = scoring.measured["windows"]
    assert numbers["images"] == 44
    assert (numbers["srcc"] > numbers["srcc_values"]) == (orders[2] == "windows")


def test_too_few_windows_choose_nothing(chosen, monkeypatch):
    monkeypatch.setattr(rarl.evaluation.choosing.choose, "MOST_IMAGES", 39)
    scoring = chosen(lambda v: said(5), right, lambda v: 5, lambda v: 5)
    assert scoring.others == "values"
    assert scoring.measured["windows"].keys() == {"tau4"}


def test_a_model_without_lists_is_asked_for_no_windows(chosen):
    seen = []
    scoring = chosen(
        lambda v: said(5), right, half, half, lengths=[], progress=lambda done, total: seen.append(total)
    )
    assert set(seen) == {44 * 3}
    assert (scoring.windows, scoring.others, scoring.measured["windows"]) == ((), "values", {})


def test_without_a_split_the_paper_is_followed(chosen):
    assert chosen(said, right, half, half, split=None) == Scoring("greedy", lengths=(4,), listed=(4,))


def test_progress_ends_at_its_total(chosen):
    seen = []
    chosen(said, right, half, half, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (44 * 3 + 11 + 11, 44 * 3 + 11 + 11)  # lists, and windows of 4
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_more_images_than_are_needed_are_drawn_with_the_seed(chosen, monkeypatch):
    monkeypatch.setattr(rarl.evaluation.choosing.choose, "MOST_IMAGES", 9)
    first, again, other = (chosen(lambda v: said(half(v)), right, half, half, seed=n) for n in (0, 0, 1))
    assert first == again
    assert first.images == 9
    assert first.measured != other.measured


UP = [float(value) for value in range(10)] * 5


@pytest.mark.parametrize(
    ("greedy", "mean", "best"),
    [
        (UP, UP, "mean"),  # equal
        (UP, [v + 0.5 for v in UP], "greedy"),  # ordered as well, and nearer
        ([v + 0.5 for v in UP], [v + 0.6 * (v % 2) for v in UP], "mean"),  # nearer, but worse in order
        ([v // 5 * 5 for v in UP], UP, "mean"),
        ([v // 5 * 5 for v in UP], None, "greedy"),  # there is no other
        ([9 - v for v in UP[:1]], UP[:1], "mean"),  # of one image little can be said
    ],
)
def test_the_mean_is_kept_unless_another_is_better(greedy, mean, best):
    answers = {"greedy": Answers(greedy, greedy)} | ({} if mean is None else {"mean": Answers(mean, mean)})
    assert best_method(answers, UP[: len(greedy)], 0) == best


def test_the_median_counts_for_the_error_and_the_mean_for_the_order():
    rough, off = [v // 2 * 2 for v in UP], [v + 0.4 for v in UP]
    assert best_method({"greedy": Answers(UP, UP), "mean": Answers(UP, off)}, UP, 0) == "mean"
    assert best_method({"greedy": Answers(UP, UP), "mean": Answers(off, UP)}, UP, 0) == "greedy"
    assert best_method({"greedy": Answers(UP, UP), "mean": Answers(UP, rough)}, UP, 0) == "greedy"


@pytest.mark.parametrize(("claimed", "right", "temperature"), [(0.9, 9, 1.0), (0.99, 9, 2.09)])
def test_a_temperature_makes_claims_true(claimed, right, temperature):
    """Of ten images nine are right. odds .99 / .01 to the power of 1 / T are .9 / .1 at T = 2.09; the nearest
    temperature that is tried is 2.18 or 2."""
    found = Distributions(np.array([0.0, 1.0]), np.array([[claimed, 1 - claimed]] * 10))
    chosen = temperature_for(found, [0] * right + [1] * (10 - right))
    assert chosen == pytest.approx(temperature, rel=0.06)
