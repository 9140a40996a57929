"""Images with values: collections on disk, their sources, and the groups of images that prompts carry. This
file has the names of the splits, and the shares of the images that they get if no list assigns them."""

from collections.abc import Mapping
from typing import Literal, get_args

from rarl.errors import ConfigError

SPLITS = ("train", "validation", "test")
SHARES: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The words that lists, folders and options have for a split, each with its name here."""

Several = Literal["mean", "median", "first"]
SEVERAL: tuple[Several, ...] = get_args(Several)
"""What may become of several values of one image."""


def shares_text(shares: Mapping[str, float]) -> str:
    """The shares as `parse_shares` reads them, such as "train=0.8,validation=0.1,test=0.1"."""
    return ",".join(f"{name}={share:g}" for name, share in shares.items())


def parse_shares(text: str) -> dict[str, float]:
    """The share of each split, from a text such as "train=0.8,validation=0.1,test=0.1". Splits may have other
    names than these three.

    Raises:
        ConfigError: if the text has another form, train is missing, or the shares don't add up to 1.
    """
    wanted = f"must be shares that add up to 1, such as {shares_text(SHARES)}"
    shares: dict[str, float] = {}
    for word in text.split(","):
        name, _, share = (piece.strip() for piece in word.partition("="))
        name = SPLIT_NAMES.get(name.lower(), name)
        try:
            number = float(share)
        except ValueError:
            raise ConfigError(f"--parts {text}: {word.strip()!r} is no share; {wanted}") from None
        if not (name.isidentifier() and 0 < number <= 1) or name.lower() in map(str.lower, shares):
            raise ConfigError(f"--parts {text}: {word.strip()!r} is no share of a new split; {wanted}")
        shares[name] = number
    if "train" not in shares or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--parts {text}: {wanted}, with train among them")
    return shares
