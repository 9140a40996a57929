"""A grid of many values by its digits. Replies that begin alike share what they begin with, so a tree of
tokens has far fewer places than all replies together: 91 rows of three tokens for 901 values. Up to where it
differs from all others, each reply is known exactly; only of the likeliest the rest is read, too."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Trie:
    """V sequences of tokens, as far as each takes to differ from all others.

    Attributes:
        rows: sequences that pass every node of the tree where a token is to be chosen.
        tokens: for each place of each row the tokens that can follow there; none where another row has the
            node.
        steps: for each of the V sequences the tokens of its way: (row, place, which of `tokens` there).
    """

    rows: list[list[int]]
    tokens: list[list[list[int]]]
    steps: list[list[tuple[int, int, int]]]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "Trie":
        """Builds the tree of distinct sequences of which none begins another."""
        children: dict[tuple[int, ...], list[int]] = {}
        ways = []
        lengths = _decided(sequences)
        for sequence, length in zip(sequences, lengths, strict=True):
            way = [(tuple(sequence[:place]), sequence[place]) for place in range(length)]
            for node, token in way:
                following = children.setdefault(node, [])
                if token not in following:
                    following.append(token)
            ways.append(way)
        inner = {node[:-1] for node in children if node}
        rows: list[list[int]] = []
        tokens: list[list[list[int]]] = []
        place_of: dict[tuple[int, ...], tuple[int, int]] = {}
        for node in children:
            if node in inner:
                continue
            row = [*node, children[node][0]]  # the last token is never read, only what could stand there
            mine = []
            for place in range(len(row)):
                here = tuple(row[:place])
                new = place_of.setdefault(here, (len(rows), place)) == (len(rows), place)
                mine.append(children[here] if new else [])
            rows.append(row)
            tokens.append(mine)
        steps = [[(*place_of[node], children[node].index(token)) for node, token in way] for way in ways]
        return cls(rows, tokens, steps)

    def log_probs(self, found: np.ndarray) -> np.ndarray:
        """The log-prob of each sequence up to where it is decided, float[N, V].

        Args:
            found: float[N, R, C, K], those of `tokens`, padded, for N prompts.
        """
        return np.stack(
            [sum(found[:, row, place, which] for row, place, which in way) for way in self.steps], axis=1
        )


def _decided(sequences: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens of each sequence tell it from all others."""
    order = sorted(range(len(sequences)), key=lambda place: list(sequences[place]))
    lengths = [1] * len(sequences)
    for one, other in pairwise(order):  # its nearest are beside it
        pairs = zip(sequences[one], sequences[other], strict=False)
        alike = next(place for place, (first, second) in enumerate(pairs) if first != second)
        lengths[one] = max(lengths[one], alike + 1)
        lengths[other] = max(lengths[other], alike + 1)
    return lengths


def with_rests(decided: np.ndarray, likeliest: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Log-probs of whole sequences, float[N, V], from those up to where each is decided and the exact ones of
    a few. The rest of any other sequence counts as the mean of the rests that are known, weighted by how
    likely they are to be read.

    Args:
        decided: float[N, V].
        likeliest: int[N, T], which sequences are known.
        whole: float[N, T], their log-probs.
    """
    known = np.take_along_axis(decided, likeliest, axis=1)
    weights = np.exp(known - known.max(axis=1, keepdims=True))
    rests = whole - known
    top = rests.max(axis=1, keepdims=True)
    mean = np.log((weights * np.exp(rests - top)).sum(axis=1) / weights.sum(axis=1))[:, None] + top
    found = decided + mean
    np.put_along_axis(found, likeliest, whole, axis=1)
    return found


def most_beyond(decided: np.ndarray, known: np.ndarray, whole: np.ndarray) -> float:
    """The most probability that the sequences which are not known can have together, in any row; arguments as
    for `with_rests`. A rest has a log-prob of 0 at most."""
    unknown = decided.copy()
    np.put_along_axis(unknown, known, -np.inf, axis=1)
    top = whole.max(axis=1, keepdims=True)
    beyond, inside = np.exp(unknown - top).sum(axis=1), np.exp(whole - top).sum(axis=1)
    return float((beyond / (beyond + inside)).max())
