"""Score and rank any images with a trained model: what the method is for, once training is over. Up to 8
images go into one prompt, and the order of the reply is the ranking (Table 1); more than 8 are scored one by
one. Replies are read leniently, so that a model which was never trained on the format can be used, too. How
good a model is at it is measured in `evaluation`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.method.prompts import messages
from rarl.method.replies import Reply, parse, parse_leniently
from rarl.method.tasks import Task
from rarl.models.generation import greedy_replies
from rarl.models.limits import shape_problem
from rarl.models.loading import load_model, load_processor

LONGEST_LIST = 8
"""The most images in one prompt; the paper's models are trained and evaluated on no more."""

Picture = str | Path | Image.Image


@dataclass(frozen=True)
class Ranked:
    """One image in its place.

    Attributes:
        rank: its place in ascending order, from 1; `None` for an image that got no value.
        image: the path as given; for an image that was given opened, its place in the input, from 0.
        value: what the model wrote, in units of the task; `None` if it gave no value. It may be outside the
            task's range: a model can write any number, and none is altered here.
        method: `listed` if the model itself put all images in order in one reply; the values may then fail to
            ascend with the ranks. `values` if every image was scored alone and the values were sorted.
        problem: why the image could not be shown to the model: damaged, or of a shape that it refuses. `None`
            for every other image, also where the model gave no value.
    """

    rank: int | None
    image: str | int
    value: float | None
    method: Literal["listed", "values"]
    problem: str | None = None


class Ranker:
    """A model that scores and ranks images on a task's scale.

    Args:
        model: a model folder, a hub name, or `tiny` for the embedded base.
        task: the rule, the value range and the step that the prompt names.
        batch_size: prompts in one pass.
        max_new_tokens: where a reply is cut that does not end by itself.
        strict: whether an image that can't be shown to the model is an error before the model runs. Otherwise
            that image alone gets no value.
        trust_remote_code: whether code that the model brings along is run.

    Attributes:
        problems: why images of the last call could not be shown to the model, by their place from 0.
        read_leniently: of how many replies of the last call only the lenient reading had a list; see
            `rarl.method.replies.parse_leniently`.

    Raises:
        ModelError: if there is no such model, or something is wrong with it.
    """

    def __init__(
        self,
        model: str | Path,
        task: Task,
        *,
        batch_size: int = 8,
        max_new_tokens: int = 1024,
        strict: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self.task = task
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.strict = strict
        self.read_leniently = 0
        self.problems: dict[int, str] = {}
        self._model = load_model(model, trust_remote_code=trust_remote_code)
        self._processor = load_processor(model, trust_remote_code=trust_remote_code)

    def score(self, images: Iterable[Picture]) -> list[float | None]:
        """The value of each image, asked for in a prompt of its own; `None` if the reply gives no value, or
        the image can't be shown to the model.

        Raises:
            DataError: if no image at all, or with `strict` one of them, can be shown to the model; or if
                something is neither a path nor an image.
        """
        return self._scores(self._begin(images))

    def rank(self, images: Iterable[Picture]) -> list[Ranked]:
        """The images in ascending order of their value.

        The model sees 2 to 8 images in one prompt, in the order given, and the order in which it lists them
        is the ranking (`listed`). If its reply does not list each image exactly once, and for one image or
        more than 8, every image is scored alone and the values are sorted (`values`). Images of equal value
        stay in the order given. Images without a value come last and have no rank.

        Raises:
            DataError: if there is no image; and as `score`.
        """
        pictures = self._begin(images)
        if not pictures:
            raise DataError("there are no images to rank: give at least one")
        names = [
            place if isinstance(picture, Image.Image) else str(picture)
            for place, picture in enumerate(pictures)
        ]
        if 2 <= len(pictures) <= LONGEST_LIST:
            shown = self._shown(pictures, 0)
            places = list(shown)
            [reply] = self._ask([list(shown.values())]) if len(shown) > 1 else [None]
            if reply is not None and reply.items is not None and reply.is_permutation(len(shown)):
                listed = [
                    Ranked(rank, names[places[item.image_id - 1]], item.value, "listed")
                    for rank, item in enumerate(reply.items, start=1)
                ]
                return listed + [
                    Ranked(None, names[place], None, "listed", problem)
                    for place, problem in self.problems.items()
                ]
        return self._sorted_by_value(names, self._scores(pictures))

    def _begin(self, images: Iterable[Picture]) -> list[Picture]:
        """The images of a call, with nothing left of the last one."""
        self.read_leniently, self.problems = 0, {}
        pictures = list(images)
        for picture in pictures:
            if not isinstance(picture, str | Path | Image.Image):
                raise DataError(f"an image is a path or a PIL image, not a {type(picture).__name__}")
        if self.strict:
            for picture in pictures:
                self._image(picture)
        return pictures

    def _scores(self, pictures: Sequence[Picture]) -> list[float | None]:
        values: list[float | None] = [None] * len(pictures)
        # Images are opened a batch at a time, so that any number of them can be scored.
        for start in range(0, len(pictures), self.batch_size):
            shown = self._shown(pictures[start : start + self.batch_size], start)
            replies = self._ask([[image] for image in shown.values()]) if shown else []
            for place, reply in zip(shown, replies, strict=True):
                values[place] = reply.values(1)[0]
        if pictures and len(self.problems) == len(pictures):
            name = "" if isinstance(pictures[0], Image.Image) else f"{pictures[0]}: "
            others = f"; nor can any of the other {len(pictures) - 1:,}" if len(pictures) > 1 else ""
            raise DataError(f"{name}{self.problems[0]}{others}")
        return values

    def _shown(self, pictures: Sequence[Picture], first: int) -> dict[int, Image.Image]:
        """The images that can be shown to the model, by their place; why others can't is noted.

        Args:
            first: the place of the first picture.
        """
        shown: dict[int, Image.Image] = {}
        for place, picture in enumerate(pictures, start=first):
            try:
                shown[place] = self._image(picture)
            except DataError as error:
                self.problems[place] = str(error).removeprefix(f"{picture}: ")
        return shown

    def _image(self, picture: Picture) -> Image.Image:
        """The image, opened.

        Raises:
            DataError: if it is missing, damaged, or of a shape that the processor refuses.
        """
        image = picture.convert("RGB") if isinstance(picture, Image.Image) else open_image(Path(picture))
        problem = shape_problem(self._processor, *image.size)
        if problem is not None:
            raise DataError(problem if isinstance(picture, Image.Image) else f"{picture}: {problem}")
        return image

    def _ask(self, groups: Sequence[Sequence[Image.Image]]) -> list[Reply]:
        """Asks one prompt for each group of images; its replies, in order."""
        prompts = [messages(len(group), self.task.rule, self.task.value_range) for group in groups]
        texts = greedy_replies(
            self._model,
            self._processor,
            prompts,
            groups,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        replies = [parse_leniently(text, len(group)) for group, text in zip(groups, texts, strict=True)]
        strict = [parse(text) for text in texts]
        self.read_leniently += sum(a != b for a, b in zip(replies, strict, strict=True))
        return replies

    def _sorted_by_value(self, names: Sequence[str | int], values: Sequence[float | None]) -> list[Ranked]:
        scored = sorted(
            ((value, place) for place, value in enumerate(values) if value is not None),
            key=lambda pair: pair[0],
        )
        ranked = [
            Ranked(rank, names[place], value, "values") for rank, (value, place) in enumerate(scored, start=1)
        ]
        return ranked + [
            Ranked(None, names[place], None, "values", self.problems.get(place))
            for place, value in enumerate(values)
            if value is None
        ]
