"""A model that scores and ranks any images, in the way that was chosen for it on validation (`Scoring`). A
few images may go into one prompt, and the order of the reply is the ranking (Table 1); more are scored one by
one, in batches of images that cost about as many tokens. Replies are read leniently, so that a model which
was never trained on the format can be used, too. How good a model is at it is measured in `evaluation`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

from PIL import Image

from rarl.data.opening import Picture, check_picture, check_several, open_all, opened, picture_name
from rarl.errors import ConfigError, DataError, ModelError
from rarl.method.prompts import messages
from rarl.method.replies import Reply, parse, parse_leniently
from rarl.method.tasks import Task
from rarl.models.generation.replies import Message, greedy_replies_so_far
from rarl.models.limits import shape_problem
from rarl.models.loading import load_model, load_processor, trained_task
from rarl.models.processor import image_tokens, resizing_of
from rarl.models.vision import see_together
from rarl.ranking.batches import Pool, Waiting
from rarl.ranking.measured import Distribution, Measured
from rarl.ranking.table import Method, Ranked, Ranking, ranking_of
from rarl.ranking.threads import Batch, Threads
from rarl.scoring.scoring import scoring_for
from rarl.scoring.values import values_of
from rarl.scoring.windows import joined, values_in, windows_of

NO_VALUE = "the model's reply has no value"

_TOKENS = 24_576  # of the images of a batch
_WAITED_FOR = 0.9  # of a batch's replies; the longer ones are asked for together, later


class Ranker:
    """A model that scores and ranks images on a task's scale.

    Args:
        model: a model folder, a hub name, or `tiny` for the embedded base.
        task: the rule, the value range and the step that the prompt names; by default what the model was
            trained on, as its folder says.
        method: how images are scored, `greedy`, `mean` or `mean-fast`, or lists are put in order, `listed`,
            `values` or `windows` (`rarl.scoring.scoring`); by default as the model's folder says.
        batch_size: the most prompts in one pass; fewer if their images have many tokens.
        max_new_tokens: where a reply is cut that does not end by itself.
        strict: whether an image that can't be shown to the model is an error before the model runs. Otherwise
            that image alone gets no value.
        trust_remote_code: whether code that the model brings along is run.
        workers: processes that open files; by default one for each core where there are many files, and none
            where each core measures. See `rarl.data.opening.open_all`.

    Attributes:
        scoring: how images are scored, and which lists go into one prompt or several.
        problems: why images of the last call could not be shown to the model, by their place from 0.
        read_leniently: of how many replies of the last call only the lenient reading had a list; see
            `rarl.method.replies.parse_leniently`.

    Raises:
        ModelError: if there is no such model, or something is wrong with it.
        ConfigError: if `task` is not given, and the model does not say what it was trained on; or there is no
            such method.
    """

    def __init__(
        self,
        model: str | Path,
        task: Task | None = None,
        *,
        method: str | None = None,
        batch_size: int = 128,
        max_new_tokens: int = 1024,
        strict: bool = False,
        trust_remote_code: bool = False,
        workers: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        if not isinstance(task, Task | None):
            raise ConfigError(f"task must be a Task, such as rarl.AGE, not {task!r}")
        known = trained_task(model) if task is None else task
        if known is None:
            raise ConfigError(
                f"{model} does not say what it was trained on: give a task, as Ranker(model, AGE)"
            )
        self.task: Task = known
        self.scoring = scoring_for(model, known, method)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.strict = strict
        self.workers = workers
        self.read_leniently = 0
        self.problems: dict[int, str] = {}
        self._model = load_model(model, trust_remote_code=trust_remote_code)
        self._processor = load_processor(model, trust_remote_code=trust_remote_code)
        see_together(self._model)
        self._resizing = resizing_of(self._processor)

    def score(self, images: Iterable[Picture]) -> list[Measured]:
        """What the model says of each image, asked for in a prompt of its own.

        Args:
            images: paths, bytes of files, PIL images, or arrays of height x width x 3.

        Raises:
            DataError: if no image at all, or with `strict` one of them, can be shown to the model; or if
                something is none of these.
        """
        return self._scores(self._begin(images))

    def rank(self, images: Iterable[Picture], *, descending: bool = False) -> Ranking:
        """The images in ascending order of their value, or of the mean where they have a distribution.

        The model sees a list of a length in `scoring.listed` in one prompt, in the order given, and the order
        in which it lists the images is the ranking (`listed`). If its reply does not list each image exactly
        once, and for any other number of images, every image is scored alone and the values are sorted
        (`values`; where they have distributions, the means); where `scoring.window` says so, they are first
        joined with the values that the images get in lists of that length (`windows`, see
        `rarl.scoring.windows`). Equal ones then share a rank, and stay in the order given. Images without a
        value come last and have no rank.

        Args:
            images: as in `score`.
            descending: begin with the highest value.

        Raises:
            DataError: if there is no image; and as `score`.
        """
        pictures = self._begin(images)
        if not pictures:
            raise DataError("there are no images to rank: give at least one")
        if len(pictures) in self.scoring.listed:
            listed = self._listed(pictures, _names(pictures), descending)
            if listed is not None:
                return listed
        return self.rank_by_values(pictures, self._scores(pictures), descending=descending)

    def rank_by_values(
        self, pictures: Sequence[Picture], scores: Sequence[Measured], *, descending: bool = False
    ) -> Ranking:
        """The images in the order of the values that each got alone, joined where `scoring.window` says so
        with those in windows. These are asked here, in one round.

        Args:
            scores: of each picture, as in `score`.
        """
        shown = [place for place, said in enumerate(scores) if said.problem in (None, NO_VALUE)]
        length = self.scoring.window(len(shown))
        if length:
            windows = [[shown[i] for i in window] for window in windows_of(len(shown), length)]
            inside = list(self._values_in(pictures, windows))
            values = joined([said.mean for said in scores], windows, inside)
            scores = [
                said if value is None else Measured(value) for said, value in zip(scores, values, strict=True)
            ]
        measured = zip(_names(pictures), scores, strict=True)
        method: Method = "windows" if length else "values"
        return ranking_of(self.task, measured, descending=descending, method=method)

    def measure(self, images: Sequence[Image.Image], *, hasty: bool = False) -> list[Measured | None]:
        """What the model says of each image, all asked for in one batch. Every number of `score`, and of
        `rank` by values, comes from here.

        Args:
            images: that can be shown to the model; at least one.
            hasty: not to wait for the longest replies: these images are None, and may be asked for again.
        """
        if self.scoring.method != "greedy":
            return list(self._expected(images))
        question = messages(1, self.task.rule, self.task.value_range)
        replies = self._replies([question] * len(images), [[image] for image in images], hasty)
        values = [None if reply is None else reply.values(1)[0] for reply in replies]
        return [
            None if reply is None else Measured(value, problem=NO_VALUE if value is None else None)
            for reply, value in zip(replies, values, strict=True)
        ]

    def _expected(self, images: Sequence[Image.Image]) -> Iterator[Measured]:
        """What the model's distribution of each image says."""
        found = values_of(
            self._model,
            self._processor,
            images,
            self.task,
            self.scoring,
            batch_size=len(images),
            max_new_tokens=self.max_new_tokens,
        )
        assert found.distributions is not None
        assert found.intervals is not None
        grid = found.distributions.grid.tolist()
        rows = found.distributions.probabilities.tolist()
        means = found.distributions.mean.tolist()
        for value, mean, interval, probabilities in zip(
            found.values, means, found.intervals, rows, strict=True
        ):
            yield Measured(value, interval, Distribution(grid, probabilities), mean=mean)

    def measure_each(self, pictures: Sequence[Picture]) -> Iterator[list[tuple[int, Measured]]]:
        """What the model says of each picture, with its place, a batch at a time. The pictures are opened
        ahead of the model, and a batch is of images that cost about as many tokens, so they come in another
        order. A small model on a CPU measures a batch on each core at once (`rarl.ranking.threads`).

        Raises:
            DataError: if a process that opens files dies.
        """
        hasty = len(pictures) > self.batch_size  # in a single batch there is nothing to win
        late = Pool()
        done: list[tuple[int, Measured]] = []
        with Threads(self, pictures) as threads:
            for batches in (self._batches(pictures, late, done, hasty, threads), self._rest(late)):
                for batch, found in threads.measure_each(batches):
                    for entry, measured in zip(batch, found, strict=True):
                        if measured is not None:
                            done.append((entry.place, measured))
                        else:
                            late.add(entry)
                    yield [*done]
                    done.clear()
        if done:
            yield done

    def _batches(
        self,
        pictures: Sequence[Picture],
        late: Pool,
        done: list[tuple[int, Measured]],
        hasty: bool,
        threads: Threads,
    ) -> Iterator[Batch]:
        """All pictures that can be shown to the model, in batches as they are opened.

        Args:
            late: the images that were not waited for in batches before; many of them are a batch.
            done: gets the images that can't be shown.
        """
        pool = Pool()
        opening = open_all(pictures, self._resizing, self.workers, threads.opening)
        for place, image in enumerate(opening):
            problem = self._problem(image, picture_name(pictures[place], place))
            if isinstance(image, DataError) or problem is not None:
                done.append((place, Measured(None, problem=problem)))
                continue
            pool.add(Waiting(place, image, self._tokens(image)))
            # Twice as many as a batch, so that there is something to choose from.
            if pool.has(2 * self.batch_size, 2 * _TOKENS):
                yield pool.take(self.batch_size, _TOKENS), hasty
                if late.has(self.batch_size, _TOKENS):
                    yield late.take(self.batch_size, _TOKENS), False
        most = threads.share_of(len(pool.waiting), self.batch_size)
        while pool:
            yield pool.take(most, _TOKENS), hasty

    def _rest(self, late: Pool) -> Iterator[Batch]:
        while late:
            yield late.take(self.batch_size, _TOKENS), False

    def _begin(self, images: Iterable[Picture]) -> list[Picture]:
        """The images of a call, with nothing left of the last one."""
        self.read_leniently, self.problems = 0, {}
        check_several(images)
        pictures = list(images)
        for picture in pictures:
            check_picture(picture)
        if self.strict:
            for place, picture in enumerate(pictures):
                name = picture_name(picture, place)
                if problem := shape_problem(self._processor, *opened(picture, name).size):
                    raise DataError(f"{name}: {problem}")
        return pictures

    def _scores(self, pictures: Sequence[Picture]) -> list[Measured]:
        scores = [Measured(None)] * len(pictures)
        for batch in self.measure_each(pictures):
            for place, measured in batch:
                scores[place] = measured
        self.problems = {
            place: said.problem
            for place, said in enumerate(scores)
            if said.problem is not None and said.problem != NO_VALUE
        }
        if pictures and len(self.problems) == len(pictures):
            self._refuse_all(pictures)
        return scores

    def _refuse_all(self, pictures: Sequence[Picture]) -> NoReturn:
        others = f"; nor can any of the other {len(pictures) - 1:,}" if len(pictures) > 1 else ""
        raise DataError(f"{picture_name(pictures[0], 0)}: {self.problems[0]}{others}")

    def _listed(
        self, pictures: Sequence[Picture], names: Sequence[str | int], descending: bool
    ) -> Ranking | None:
        """The ranking that the model itself lists in one reply; None if it lists not each image once, or so
        few can be shown to it that it is not asked for their list."""
        shown: dict[int, Image.Image] = {}
        for place, image in enumerate(open_all(pictures, self._resizing, 0)):
            problem = self._problem(image, picture_name(pictures[place], place))
            if isinstance(image, DataError) or problem is not None:
                self.problems[place] = str(problem)
            else:
                shown[place] = image
        if len(shown) not in self.scoring.listed:
            return None  # a list of another length, which the model may not know
        question = messages(len(shown), self.task.rule, self.task.value_range)
        [reply] = self._replies([question], [list(shown.values())])
        if reply is None or reply.items is None or not reply.is_permutation(len(shown)):
            return None
        places = list(shown)
        order = list(reversed(reply.items)) if descending else reply.items
        rows = [
            Ranked(rank, names[places[item.image_id - 1]], item.value, "listed")
            for rank, item in enumerate(order, start=1)
        ]
        rows += [
            Ranked(None, names[place], None, "listed", problem) for place, problem in self.problems.items()
        ]
        return Ranking(self.task, rows, descending)

    def _values_in(
        self, pictures: Sequence[Picture], windows: Sequence[Sequence[int]]
    ) -> Iterator[list[float] | None]:
        """The values of the pictures of each window; None where its reply is no ranking of them, or a file of
        it can't be opened any more."""
        length = len(windows[0])
        question = messages(length, self.task.rule, self.task.value_range)
        images = open_all(
            [pictures[place] for some in windows for place in some], self._resizing, self.workers
        )
        waiting: list[list[Image.Image]] = []
        for number in range(1, len(windows) + 1):
            some = [image for image in islice(images, length) if not isinstance(image, DataError)]
            waiting.append(some if len(some) == length else [])
            tokens = len(waiting) * sum(map(self._tokens, waiting[-1]))
            if tokens > _TOKENS or len(waiting) == self.batch_size or number == len(windows):
                asked = [each for each in waiting if each]
                replies = iter(self._replies([question] * len(asked), asked) if asked else ())
                for each in waiting:
                    reply = next(replies) if each else None
                    yield None if reply is None else values_in(reply, length, self.task)
                waiting = []

    def _problem(self, image: Image.Image | DataError, name: str) -> str | None:
        """Why an image can't be shown to the model; None if it can."""
        if isinstance(image, DataError):
            return str(image).removeprefix(f"{name}: ")
        return shape_problem(self._processor, *image.size)

    def _tokens(self, image: Image.Image) -> int:
        """About how many tokens an image costs."""
        try:
            return image_tokens(self._processor, *image.size)
        except ModelError:
            return image.width * image.height // 28**2 + 1  # as much as with Qwen2.5-VL

    def _replies(
        self, questions: Sequence[list[Message]], groups: Sequence[Sequence[Image.Image]], hasty: bool = False
    ) -> list[Reply | None]:
        """The replies to questions about a group of images each, in one batch; None for those not waited
        for."""
        texts = greedy_replies_so_far(
            self._model,
            self._processor,
            questions,
            groups,
            max_new_tokens=self.max_new_tokens,
            batch_size=len(groups),
            share=_WAITED_FOR if hasty else 1,
        )
        replies: list[Reply | None] = []
        for group, text in zip(groups, texts, strict=True):
            reply = None if text is None else parse_leniently(text, len(group))
            self.read_leniently += text is not None and reply != parse(text)
            replies.append(reply)
        return replies


def _names(pictures: Sequence[Picture]) -> list[str | int]:
    """The path of each picture, or of one that was given in another way its place, from 0."""
    return [
        str(picture) if isinstance(picture, str | os.PathLike) else place
        for place, picture in enumerate(pictures)
    ]
