"""Which images a model is asked about in one pass: as many as a pass may have, of about as many tokens, so
that little is padded. The image that has waited longest is always among them. Nothing here opens or measures
one."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Waiting:
    """An opened image that is still to be measured.

    Attributes:
        place: among all images of the call, from 0.
        tokens: that the image costs in a prompt.
    """

    place: int
    image: Image.Image
    tokens: int


class Pool:
    """Images that wait, the oldest first."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self._tokens = 0

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def add(self, entry: Waiting) -> None:
        """Puts an image behind the others."""
        self.waiting.append(entry)
        self._tokens += entry.tokens

    def has(self, most: int, most_tokens: int) -> bool:
        """Whether `most` images wait, or more than `most_tokens` tokens."""
        return len(self.waiting) >= most or self._tokens > most_tokens

    def take(self, most: int, most_tokens: int) -> list[Waiting]:
        """Takes the images to measure next out of the pool: the oldest, and those that cost about as much.

        Args:
            most: images of the batch; there must be one.
            most_tokens: of its images, each padded to the longest; a single image may have more.
        """
        like = self.waiting[0].tokens
        batch: list[Waiting] = []
        longest = 0
        for entry in sorted(self.waiting, key=lambda entry: abs(entry.tokens - like))[:most]:
            longest = max(longest, entry.tokens)
            if batch and (len(batch) + 1) * longest > most_tokens:
                break
            batch.append(entry)
        taken = {entry.place for entry in batch}
        self.waiting = [entry for entry in self.waiting if entry.place not in taken]
        self._tokens -= sum(entry.tokens for entry in batch)
        return batch
