"""Tries of token sequences, worked by hand, against the probabilities of whole sequences."""

import numpy as np
import pytest

from rarl.scoring.trie import Trie, most_beyond, with_rests

# 1, 2, 10, 12 as digits, and 9 for the end of a reply.
NUMBERS = [[1, 9], [2, 9], [1, 0, 9], [1, 2, 9]]


def test_a_tree_has_a_row_for_each_way_to_its_last_choice():
    """After 1 there are three ways on; 2 is decided at once."""
    trie = Trie.of(NUMBERS)
    assert trie.rows == [[1, 9]]
    assert trie.tokens == [[[1, 2], [9, 0, 2]]]
    assert trie.steps == [
        [(0, 0, 0), (0, 1, 0)],
        [(0, 0, 1)],
        [(0, 0, 0), (0, 1, 1)],
        [(0, 0, 0), (0, 1, 2)],
    ]


def test_a_node_of_several_rows_is_asked_once():
    trie = Trie.of([[1, 1, 9], [1, 2, 9], [2, 1, 9], [2, 2, 9]])
    assert [row[:1] for row in trie.rows] == [[1], [2]]
    assert trie.tokens == [[[1, 2], [1, 2]], [[], [1, 2]]]


def test_the_probability_of_a_way_is_the_product_of_its_choices():
    chances = np.log([[[[[0.75, 0.25, 1], [0.5, 0.125, 0.375]]]]])[0]
    assert np.exp(Trie.of(NUMBERS).log_probs(chances)) == pytest.approx(
        np.array([[0.375, 0.25, 0.09375, 0.28125]])
    )


def test_the_rests_of_the_likeliest_stand_for_those_of_the_others():
    """Rests of .5 and .25, weighted .6 to .2: .35 / .8 = .4375 for the third."""
    decided = np.log([[0.6, 0.2, 0.1]])
    known = np.array([[0, 1]])
    whole = np.log([[0.3, 0.05]])
    assert np.exp(with_rests(decided, known, whole)) == pytest.approx(np.array([[0.3, 0.05, 0.1 * 0.4375]]))
    # At most, its rest is certain: .1 of .1 + .3 + .05.
    assert most_beyond(decided, known, whole) == pytest.approx(0.1 / 0.45)


def test_nothing_is_beyond_all():
    decided = np.log([[0.6, 0.4]])
    assert most_beyond(decided, np.array([[1, 0]]), decided[:, ::-1]) == 0
