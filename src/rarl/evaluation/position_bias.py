"""Whether an answer depends on the order in which the pictures are shown (our measure, not the paper's): the
same list is asked in every cyclic rotation, so that each image stands once at each place, and the listed
orders are compared. No truth plays a part. Which lists are rotated is decided in `evaluate`."""

from collections.abc import Sequence

import numpy as np

from rarl.evaluation.intervals import RESAMPLES, bootstrap_interval, expanded_interval
from rarl.evaluation.metrics import MetricEntry
from rarl.evaluation.prediction import Prediction


def order_metrics(predictions: Sequence[Prediction], seed: int) -> dict[str, MetricEntry]:
    """`agreementN` and `position_biasN` for each N of which there are rotated lists, with 95 % bootstrap
    intervals over lists.

    A reply that is no ranking of all its pictures counts 0 in `agreementN`. It says nothing about
    `position_biasN` and is left out there, where `n` is the number of lists with at least two valid replies.

    Args:
        predictions: of one arm; those that are not of rotated lists are passed over.
        seed: of the resampling.

    Returns:
        METRIC -> entry. `position_biasN` is missing unless any two places are compared by two lists or more.
    """
    metrics: dict[str, MetricEntry] = {}
    for count in sorted({line.images for line in predictions if line.is_rotated}):
        places = _listed_places(predictions, count)
        taus = _agreements(places)
        low, high = bootstrap_interval(taus, seed=seed)
        metrics[f"agreement{count}"] = {"value": float(taus.mean()), "low": low, "high": high, "n": len(taus)}
        if bias := _bias_entry(_differences(places), seed):
            metrics[f"position_bias{count}"] = bias
    return metrics


def mean_places(predictions: Sequence[Prediction], count: int) -> list[float]:
    """The mean listed place, from 0, of picture 1 to `count`. All are (count - 1)/2 if the place in the
    prompt decides nothing.

    If all replies are valid it is the plain mean. If one is missing, a plain mean would be over different
    images at different places; so each two places are compared by the images that were listed from both.

    Args:
        predictions: of one arm, as for `order_metrics`.

    Returns:
        A number for each picture; an empty list unless any two places can be compared.
    """
    differences = _differences(_listed_places(predictions, count))
    known = ~np.isnan(differences)
    if not known.any(axis=0).all():
        return []
    between = np.where(known, differences, 0).sum(axis=0) / known.sum(axis=0)
    return [float((count - 1) / 2 + later) for later in between.mean(axis=1)]


def _listed_places(predictions: Sequence[Prediction], count: int) -> np.ndarray:
    """The place, from 0, at which each image of each rotated list was listed, by the picture that showed it:
    [list, image, picture]. NaN where the reply is missing or no ranking of all pictures."""
    rotated = [
        (line, line.list, line.rotation)
        for line in predictions
        if line.images == count and line.list is not None and line.rotation is not None
    ]
    index = {number: index for index, number in enumerate(sorted({number for _, number, _ in rotated}))}
    places = np.full((len(index), count, count), np.nan)
    for line, number, rotation in rotated:
        if line.valid and line.positions is not None:
            for picture, place in enumerate(line.positions):
                places[index[number], (picture + rotation) % count, picture] = place
    return places


def _agreements(places: np.ndarray) -> np.ndarray:
    """For each list the mean of Kendall's tau over all pairs of its rotations."""
    count = places.shape[1]
    rotation, image = np.indices((count, count))
    listed = places[:, image, (image - rotation) % count]  # [list, rotation, image]
    first, second = np.triu_indices(count, 1)
    # +1 or -1 for each two images, by which of them the reply lists first; 0 without a ranking.
    order = np.nan_to_num(np.sign(listed[:, :, second] - listed[:, :, first]))
    # The sum over all pairs of rotations: the square of a sum has each pair twice, and the squares.
    products = (order.sum(axis=1) ** 2 - (order**2).sum(axis=1)) / 2
    return np.asarray(products.sum(axis=1) / len(first) ** 2)


def _differences(places: np.ndarray) -> np.ndarray:
    """How many places later an image is listed when picture p shows it than when picture q does, the mean
    over the images of a list: [list, p, q]. NaN where no image was validly listed from both.

    Each image is compared with itself alone, so missing replies do no harm.
    """
    apart = places[:, :, :, None] - places[:, :, None, :]  # [list, image, p, q]
    known = ~np.isnan(apart)
    sums, numbers = np.where(known, apart, 0).sum(axis=1), known.sum(axis=1)
    return np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0)


def _bias_entry(differences: np.ndarray, seed: int) -> MetricEntry | None:
    count = differences.shape[-1]
    apart = differences[:, *np.triu_indices(count, 1)]  # [list, pair of places]
    apart = apart[~np.isnan(apart).all(axis=1)]
    lists = len(apart)
    if (~np.isnan(apart)).sum(axis=0).min() < 2:
        return None
    drawn = np.random.default_rng(seed).integers(lists, size=(RESAMPLES, lists))
    weights = np.stack([np.bincount(sample, minlength=lists) for sample in drawn])
    resampled = _biases(apart, count, weights)
    low, high = expanded_interval(resampled[~np.isnan(resampled)], lists)
    value = float(_biases(apart, count, np.ones((1, lists)))[0])
    # Where all lists agree, the three differ by the rounding of their sums alone.
    return {"value": value, "low": min(low, value), "high": max(high, value), "n": lists}


def _biases(apart: np.ndarray, count: int, weights: np.ndarray) -> np.ndarray:
    """The root mean square of the differences between two places, divided by that of a reply which lists the
    pictures as they stand in the prompt: within [0, 1].

    The mean over a few lists is never quite 0, and its square would turn chance into bias. So products of
    different lists stand in for squares: by chance alone they are 0 on average. A negative result counts 0.

    Args:
        apart: [list, pair of places]; NaN where a list says nothing about a pair.
        weights: [sample, list], how often a list is in a sample; a list is never multiplied with itself.

    Returns:
        A value for each sample; NaN for a sample without two different lists.
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
