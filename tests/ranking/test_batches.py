"""Which images share a pass: the oldest is always in it, with those that cost about as much."""

import pytest
from PIL import Image

from rarl.ranking.batches import Pool, Waiting


def pool_of(*tokens):
    pool = Pool()
    for place, count in enumerate(tokens):
        pool.add(Waiting(place, Image.new("RGB", (1, 1)), count))
    return pool


@pytest.mark.parametrize(
    ("tokens", "most", "most_tokens", "taken"),
    [
        ((4, 100, 5, 90, 4), 3, 1000, [0, 4, 2]),  # the nearest to the oldest
        ((100, 4, 90, 5), 2, 1000, [0, 2]),
        ((10, 10, 10, 10), 9, 35, [0, 1, 2]),  # at most 35 tokens
        ((10, 20, 20), 9, 59, [0, 1]),  # all are padded to 20
        ((99, 1), 9, 35, [0]),  # an image that is too large is alone
    ],
)
def test_a_batch(tokens, most, most_tokens, taken):
    pool = pool_of(*tokens)
    assert [entry.place for entry in pool.take(most, most_tokens)] == taken
    assert [entry.place for entry in pool.waiting] == [n for n in range(len(tokens)) if n not in taken]


def test_every_image_is_taken_once():
    pool, taken = pool_of(*(n * 37 % 50 + 1 for n in range(40))), []
    while pool:
        taken += [entry.place for entry in pool.take(7, 200)]
    assert sorted(taken) == list(range(40))
    assert not pool.has(1, 0)


def test_when_there_are_enough():
    pool = pool_of(10, 20)
    assert [pool.has(2, 99), pool.has(3, 29), pool.has(3, 30)] == [True, True, False]
