"""Windows: every image is in one, and what it gets there is joined with its own value."""

import pytest

from rarl.method.replies import parse, reference_reply
from rarl.method.tasks import Task
from rarl.scoring.windows import joined, values_in, window_length, windows_of

TASK = Task("toy", "brightness", low=0, high=10, step=1, delta=2)


@pytest.mark.parametrize(("count", "length", "number"), [(8, 4, 2), (9, 4, 3), (2, 2, 1), (5, 1, 5)])
def test_every_image_is_in_a_window(count, length, number):
    windows = windows_of(count, length)
    assert [len(window) for window in windows] == [length] * number
    assert all(len(set(window)) == length for window in windows)
    assert {place for window in windows for place in window} == set(range(count))


@pytest.mark.parametrize(
    ("known", "count", "length"),
    [((2, 4, 8), 99, 8), ((2, 4, 8), 8, 8), ((2, 4, 8), 7, 4), ((4,), 3, 0), ((), 9, 0)],
)
def test_a_window_is_as_long_as_the_model_knows_and_the_images_suffice_for(known, count, length):
    assert window_length(known, count) == length


def test_windows_are_drawn_with_a_seed():
    assert windows_of(40, 4) == windows_of(40, 4)
    assert windows_of(40, 4) != windows_of(40, 4, seed=1)
    assert windows_of(40, 40) != [list(range(40))]


def test_a_window_larger_than_the_list_is_a_mistake():
    with pytest.raises(ValueError, match="no window of 4 in 3 images"):
        windows_of(3, 4)


def test_the_values_of_a_window_are_those_of_a_ranking_within_the_range():
    assert values_in(parse(reference_reply([7, 3], 1)), 2, TASK) == [7, 3]
    assert values_in(parse(reference_reply([12, -3], 1)), 2, TASK) == [10, 0]
    assert values_in(parse(reference_reply([7], 1)), 2, TASK) is None
    assert values_in(parse("no idea"), 2, TASK) is None


def test_a_joined_value_is_halfway_between_its_own_and_those_inside():
    windows = [[0, 2], [3, 0], [1, 4]]
    found = joined([4.0, 1.0, None, 6.0, None], windows, [[6.0, 3.0], [8.0, 10.0], None])
    # Image 0 is in two windows: between 4 and the mean of 6 and 10. Image 1's window is no ranking.
    assert found == [6.0, 1.0, 3.0, 7.0, None]
