"""`Scoring`: how a model scores and ranks best, with the numbers that decided it, and `scoring.json` in the
model's folder, where it stands. It is chosen in `rarl.evaluation.choosing`; no model is asked here."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rarl.errors import ConfigError, DataError, nearest_word
from rarl.files import write_text
from rarl.method.tasks import Task
from rarl.models.loading import trained_task
from rarl.scoring.candidates import has_grid
from rarl.scoring.windows import window_length

SCORING_FILE = "scoring.json"

Method = Literal["greedy", "mean", "mean-fast"]
METHODS: tuple[Method, ...] = get_args(Method)
ORDERS = ("listed", "values", "windows")
LATER: Mapping[str, Any] = {"sampled": 0, "windows": (), "others": "values"}
"""Fields of `Scoring` that older files don't have, and what stands for them."""
UNKNOWN_LISTS = tuple(range(2, 9))
"""The lists that a model is asked for which doesn't say what it was trained on: those of the paper."""


@dataclass(frozen=True)
class Scoring:
    """How a model scores and ranks.

    Attributes:
        method: where the value of an image is from: its `greedy` reply, or the distribution over whole
            replies (`mean`) or over replies without reasoning (`mean-fast`): the value is the median, the
            order goes by the mean.
        reasoning: of the replies behind `mean`: the `template`, or `free`, which is generated first.
        sampled: of a `free` reasoning, after how many that are sampled the distributions are read, of which
            the mean is taken; 0 for the one after the greedy reasoning.
        temperatures: METHOD -> what the log-probs of that distribution are divided by for its interval; 1
            where it is missing. Means are those of the distribution as it is.
        lengths: the lists that the model was trained on, by their numbers of images; others it can't be asked
            for.
        listed: those of them for which the model is asked for the list; where its reply is no ranking of all
            images, and for all other lengths, the values decide.
        split, seed, images: what it was chosen on: so many single images of that split.
        measured: METHOD, `mean-sampled`, `listed` or `windows` -> METRIC -> number there; a tau of a METHOD
            is of its values.
    """

    method: Method = "greedy"
    reasoning: Literal["template", "free"] = "template"
    sampled: int = 0
    temperatures: Mapping[str, float] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    listed: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    others: Literal["values", "windows"] = "values"
    split: str = ""
    seed: int = 0
    images: int = 0
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def temperature(self) -> float:
        """That of the distribution which `method` uses; for `greedy`, of that beside it, of `mean`."""
        return self.temperatures.get("mean" if self.method == "greedy" else self.method, 1.0)

    @property
    def is_sampled(self) -> bool:
        """Whether distributions are the mean of those after several sampled reasonings."""
        return self.method == "mean" and self.reasoning == "free" and self.sampled > 0

    def window(self, count: int) -> int:
        """How many images the windows of a list of `count` have; 0 where its order is not by windows."""
        if count in self.windows:
            return count
        by_values = self.others == "values" or count in self.lengths
        return 0 if by_values else window_length(self.lengths, count)

    @property
    def of_values(self) -> str:
        """Where values are from, in words."""
        over = "replies without reasoning" if self.method == "mean-fast" else "whole replies"
        if self.is_sampled:
            over += f" after {self.sampled} sampled reasonings each"
        how = f"sorted by means, with intervals at temperature {self.temperature:g}"
        what = f"values are medians over {over}, {how}"
        if self.method == "greedy":
            what = "values are those of greedy replies"
        return what

    @property
    def of_windows(self) -> str:
        """What windows came to in the long list that they were chosen by, in words; empty where none was
        asked."""
        found = self.measured.get("windows", {})
        if not {"images", "srcc", "srcc_values"} <= found.keys():
            return ""
        return (
            f"a list of {found['images']:.0f} images has SRCC {found['srcc_values']:.3f} by values, and "
            f"{found['srcc']:.3f} joined with those in windows"
        )

    @property
    def chosen_on(self) -> str:
        """What it was chosen on, in words after others; empty where nothing was."""
        return f" (chosen on {self.images} images of {self.split})" if self.split else ""

    @property
    def sentence(self) -> str:
        """What was chosen, in words."""
        what = self.of_values
        if self.listed:
            what += f"; lists of {', '.join(map(str, self.listed))} images in the order of the reply"
        if by_values := [count for count in self.lengths if count not in (*self.listed, *self.windows)]:
            what += f"; lists of {', '.join(map(str, by_values))} by values"
        if self.windows:
            what += f"; lists of {', '.join(map(str, self.windows))} by values joined with those in the list"
        if self.others == "windows":
            what += f"; longer lists by values joined with those in windows of {max(self.lengths)}"
        return what + self.chosen_on


def method_named(name: str, scoring: Scoring) -> Scoring:
    """`scoring`, changed to what a person asks for.

    Args:
        name: a method of `METHODS`; or `listed`, for the order of all lists that the model knows; or `values`
            or `windows`, for that of all lists.

    Raises:
        ConfigError: for another name, or `listed` or `windows` where the model knows no lists.
    """
    if name in METHODS:
        return replace(scoring, method=name, split="")  # it was not what was chosen there
    if name in ("listed", "windows") and not scoring.lengths:
        raise ConfigError(f"method {name}: this model was trained on no lists; its images go by values")
    if name == "values":
        return replace(scoring, listed=(), windows=(), others="values")
    if name == "listed":
        return replace(scoring, listed=scoring.lengths, windows=())
    if name == "windows":
        return replace(scoring, listed=(), windows=scoring.lengths, others="windows")
    known = (*METHODS, *ORDERS)
    raise ConfigError(f"unknown method '{name}'{nearest_word(name, known)}; they are {', '.join(known)}")


def scoring_for(model: str | Path, task: Task, method: str | None = None) -> Scoring:
    """How a model is asked about images: as its folder says, if this is the task that it was trained on. Any
    other model replies greedily, and puts lists of 2 to 8 images in order itself.

    Args:
        method: what a person asks for instead, see `method_named`.

    Raises:
        ConfigError: if there is no such method, or the task has too many values for distributions over them.
        DataError: if what the folder has is no scoring.
    """
    own = read_scoring(Path(model)) if trained_task(model) == task else None
    scoring = own or Scoring("greedy", lengths=UNKNOWN_LISTS, listed=UNKNOWN_LISTS)
    if method is not None:
        scoring = method_named(method, scoring)
    if scoring.method != "greedy" and not has_grid(task):
        raise ConfigError(
            f"method {scoring.method}: {task.rule} has too many values for a distribution over them; give a "
            "larger step, or method greedy"
        )
    return scoring


def write_scoring(folder: Path, scoring: Scoring) -> None:
    """Writes `scoring.json` into a model's folder."""
    write_text(folder / SCORING_FILE, json.dumps(asdict(scoring), indent=2, allow_nan=False) + "\n")


def read_scoring(folder: Path) -> Scoring | None:
    """The scoring that stands in a model's folder; None where there is none, and for the name of a hub.

    Raises:
        DataError: if the file is no scoring.
    """
    path = folder / SCORING_FILE
    if not path.is_file():
        return None
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        found = {**LATER, **found}
        known = {key.name: found[key.name] for key in fields(Scoring)}
        for key in ("lengths", "listed", "windows"):
            known[key] = tuple(int(count) for count in known[key])
        scoring = Scoring(**known)
        right = (
            scoring.method in METHODS
            and scoring.reasoning in ("template", "free")
            and all(float(number) > 0 for number in scoring.temperatures.values())
            and type(scoring.sampled) is int
            and scoring.sampled >= 0
            and all(count > 1 for count in scoring.lengths)
            and set(scoring.listed) <= set(scoring.lengths)
            and set(scoring.windows) <= set(scoring.lengths) - set(scoring.listed)
            and scoring.others in ("values", "windows")
            and all(isinstance(numbers, dict) for numbers in scoring.measured.values())
            and all(isinstance(n, int | float) for some in scoring.measured.values() for n in some.values())
        )
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} says no scoring ({error!r}); remove it, and the model scores greedily"
        ) from error
    if not right:
        raise DataError(
            f"{path} says no scoring: it has a value that is not allowed; remove it, and the model "
            "scores greedily"
        )
    return scoring
