"""How large the images of a collection are, and what they and whole prompts cost a model in tokens. No image
is opened here: the sizes are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rarl.data.duplicate_checks import listed
from rarl.errors import DataError

Size = tuple[int, int]
"""Width and height in pixels."""
ImageTokens = Callable[[int, int], int]
"""Width and height in pixels to the number of tokens; a `DataError` for a shape that the model can't read."""
PromptTokens = Callable[[str, str, int], int]
"""Rule, value range and number of images to the number of tokens of the prompt's text."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the image with the fewest pixels, of the middle one and of that with the most."""

    smallest: Size
    median: Size
    largest: Size


@dataclass(frozen=True)
class PromptCost:
    """The tokens of a prompt, text and images: of images of the median cost, and of the costliest images with
    the longest rule."""

    median: int
    largest: int


@dataclass(frozen=True)
class Tokens:
    """What a model is given for an image, from the least to the most, and for a prompt by its number of
    images."""

    smallest: int
    median: int
    largest: int
    prompts: dict[int, PromptCost]


def sizes_of(sizes: Sequence[Size]) -> Sizes | None:
    """The spread of the sizes by the number of pixels; None for no images."""
    ranked = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return Sizes(ranked[0], ranked[len(ranked) // 2], ranked[-1]) if ranked else None


def costs_of(sizes: Mapping[str, Size], image_tokens: ImageTokens) -> tuple[list[int], list[str]]:
    """The tokens of each image, ascending, and a fault for the files that the model can't read, if any."""
    costs: dict[Size, int] = {}
    refused: dict[Size, str] = {}
    for size in sorted(set(sizes.values())):
        try:
            costs[size] = image_tokens(*size)
        except DataError as error:
            refused[size] = str(error)
    files = [name for name, size in sizes.items() if size in refused]
    faults = (
        [f"images that the model can't read: {listed(files)}; {next(iter(refused.values()))}"]
        if files
        else []
    )
    return sorted(costs[size] for size in sizes.values() if size in costs), faults


def tokens_of(
    costs: Sequence[int],
    prompt_tokens: PromptTokens | None,
    rules: Sequence[str],
    value_range: str,
    counts: Sequence[int],
) -> Tokens | None:
    """What images and prompts cost; None for no images.

    Args:
        costs: the tokens of each image, ascending.
        rules: every rule of the collection; at least one.
        counts: numbers of images in a prompt; one that is more than there are images is left out.
    """
    if not costs:
        return None
    median = costs[len(costs) // 2]
    prompts = {}
    if prompt_tokens is not None:
        for count in (count for count in counts if count <= len(costs)):
            texts = sorted(prompt_tokens(rule, value_range, count) for rule in rules)
            typical, most = texts[len(texts) // 2] + count * median, texts[-1] + sum(costs[-count:])
            prompts[count] = PromptCost(typical, most)
    return Tokens(costs[0], median, costs[-1], prompts)
