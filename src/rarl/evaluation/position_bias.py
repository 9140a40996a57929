"""Whether an answer depends on the order in which the pictures are shown: the same list is asked in every
cyclic rotation, so that each image stands once at each place, and the listed orders are compared. Numbers
from predictions alone; no truth plays a part, and which lists are rotated is `evaluation`'s."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rarl.evaluation.metrics import Entry, bootstrap_interval

RESAMPLES = 1000


def order_metrics(predictions: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Entry]:
    """`agreementN` and `position_biasN` for each N of which there are rotated lists, with 95 % bootstrap
    intervals over lists.

    A reply that is no ranking of all its pictures counts 0 in `agreementN`. `position_biasN` it says nothing
    about: it is left out there, and `n` is the number of lists with at least two other replies.

    Args:
        predictions: lines of `predictions.jsonl`, of one arm; those without `rotation` are passed over.
        seed: of the resampling.

    Returns:
        METRIC -> entry. `position_biasN` is missing unless any two places are compared by two lists or more.
    """
    metrics: dict[str, Entry] = {}
    for count in sorted({line["images"] for line in predictions if "rotation" in line}):
        places = _places(predictions, count)
        taus = _agreements(places)
        low, high = bootstrap_interval(taus, seed=seed)
        metrics[f"agreement{count}"] = {"value": float(taus.mean()), "low": low, "high": high, "n": len(taus)}
        if bias := _bias_entry(_differences(places), seed):
            metrics[f"position_bias{count}"] = bias
    return metrics


def mean_places(predictions: Sequence[Mapping[str, Any]], count: int) -> list[float]:
    """The mean listed place, from 0, of picture 1 to `count`; all are (count - 1)/2 where the place in the
    prompt decides nothing.

    With valid replies alone it is the plain mean. Where one is missing, that would be a mean of other images
    at one place than at another; so each two places are compared by the images listed from both.

    Args:
        predictions: lines of one arm, as for `order_metrics`.

    Returns:
        A number for each picture; none at all unless any two places can be compared.
    """
    differences = _differences(_places(predictions, count))
    known = ~np.isnan(differences)
    if not known.any(axis=0).all():
        return []
    between = np.where(known, differences, 0).sum(axis=0) / known.sum(axis=0)
    return [float((count - 1) / 2 + later) for later in between.mean(axis=1)]


def _places(predictions: Sequence[Mapping[str, Any]], count: int) -> np.ndarray:
    """The listed place of each image of each rotated list, by the picture that showed it: [list, image,
    picture], from 0; NaN where the reply is missing or no ranking of all pictures."""
    lines = [line for line in predictions if "rotation" in line and line["images"] == count]
    numbers = {number: index for index, number in enumerate(sorted({line["list"] for line in lines}))}
    places = np.full((len(numbers), count, count), np.nan)
    for line in lines:
        if line["valid"]:
            for picture, place in enumerate(line["positions"]):
                image = (picture + line["rotation"]) % count
                places[numbers[line["list"]], image, picture] = place
    return places


def _agreements(places: np.ndarray) -> np.ndarray:
    """For each list the mean of Kendall's tau over all pairs of its rotations."""
    count = places.shape[1]
    rotation, image = np.indices((count, count))
    listed = places[:, image, (image - rotation) % count]  # [list, rotation, image]
    first, second = np.triu_indices(count, 1)
    # +1 or -1 for each two images, in the order that a reply has them; 0 without a ranking.
    order = np.nan_to_num(np.sign(listed[:, :, second] - listed[:, :, first]))
    # The sum over all pairs of rotations, which a square of the sum has twice, beside the squares.
    products = (order.sum(axis=1) ** 2 - (order**2).sum(axis=1)) / 2
    return np.asarray(products.sum(axis=1) / len(first) ** 2)


def _differences(places: np.ndarray) -> np.ndarray:
    """How many places later an image is listed from picture p than from picture q, as a mean over the images
    of a list: [list, p, q]; NaN where none was validly listed from both.

    An image is compared with itself alone, so it does no harm that replies are missing.
    """
    apart = places[:, :, :, None] - places[:, :, None, :]  # [list, image, p, q]
    known = ~np.isnan(apart)
    sums, numbers = np.where(known, apart, 0).sum(axis=1), known.sum(axis=1)
    return np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0)


def _bias_entry(differences: np.ndarray, seed: int) -> Entry | None:
    count = differences.shape[-1]
    apart = differences[:, *np.triu_indices(count, 1)]  # [list, pair of places]
    apart = apart[~np.isnan(apart).all(axis=1)]
    lists = len(apart)
    if (~np.isnan(apart)).sum(axis=0).min() < 2:
        return None
    drawn = np.random.default_rng(seed).integers(lists, size=(RESAMPLES, lists))
    weights = np.stack([np.bincount(sample, minlength=lists) for sample in drawn])
    resampled = _biases(apart, count, weights)
    low, high = np.quantile(resampled[~np.isnan(resampled)], [0.025, 0.975])
    value = float(_biases(apart, count, np.ones((1, lists)))[0])
    # Where all lists agree the three are one number, but for the rounding of their sums.
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value), "n": lists}


def _biases(apart: np.ndarray, count: int, weights: np.ndarray) -> np.ndarray:
    """The root mean square of the differences between two places, over that of a reply which lists the
    pictures as they stand in the prompt: within [0, 1].

    The mean of a few lists is never quite 0, and its square would make a bias of chance. In place of squares
    there are products of different lists, which chance makes 0 on average; what it leaves below 0 is 0.

    Args:
        apart: [list, pair of places]; NaN where a list says nothing of a pair.
        weights: [sample, list], how often a list stands in a sample; it is never multiplied with itself.

    Returns:
        For each sample its value; NaN where no two different lists are in it.
    """
    weights = weights.astype(np.float64)
    known = (~np.isnan(apart)).astype(np.float64)
    apart = np.nan_to_num(apart)
    products = (weights @ apart) ** 2 - weights**2 @ apart**2
    numbers = (weights @ known) ** 2 - weights**2 @ known
    squares = np.divide(products, numbers, out=np.zeros(products.shape), where=numbers > 0)
    pairs = (numbers > 0).sum(axis=1)
    means = np.divide(squares.sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    # (p - q)^2 is N(N + 1)/6 on average over the pairs of N places.
    return np.asarray(np.sqrt(np.clip(means / (count * (count + 1) / 6), 0, 1)))
