"""The sections of a run's YAML: stages with their weights (Eq. 8) and mutation (Eq. 9), the SFT baseline,
LoRA and evaluation. Each checks what it can see by itself; config.py checks that they fit together."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, Strict, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rarl.mutation import Reasoning, Reference, When
from rarl.training.messages import refuse, shown
from rarl.training.trainer_keys import GRPOKeys, SharedKeys

RESERVED = ("base", "sft", "sft_answer_only", "data", "checkpoints")  # folders of a run that are no stage

ImageCount = Annotated[int, Field(ge=1, le=16)]
Images = Annotated[list[ImageCount], Field(min_length=1)]
Weight = Annotated[float, Field(ge=0)]
Folder = Annotated[Path, Strict(False), PlainSerializer(str)]
# In the resolved file a trainer section holds what was given (and PAPER), not all of the defaults.
SharedSection = Annotated[SharedKeys, PlainSerializer(SharedKeys.given)]
GRPOSection = Annotated[GRPOKeys, PlainSerializer(GRPOKeys.given)]


class Section(BaseModel):
    """A mapping of the file: unknown keys and wrong types are errors, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Weights(Section):
    """The lambdas of Eq. 8."""

    regression: Weight = 1.0
    ranking: Weight = 1.0
    format: Weight = 1.0

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not any(self.in_order):
            raise PydanticCustomError("said", "must not all be 0: no response would differ from another")
        return self

    @property
    def in_order(self) -> list[float]:
        """lambda 1 to 3: regression, ranking, format."""
        return [self.regression, self.ranking, self.format]


class Mutation(Section):
    """RMO (section 3.2): `k` responses of a group are replaced, with `probability`, by a reference."""

    k: Annotated[int, Field(ge=1)] = 2
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    when: When = "always"
    reference: Reference = "ground_truth"
    reasoning: Reasoning = "template"

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.reference == "best" and self.when == "stagnant":
            refuse([("reference", "'best' with `when: stagnant` does nothing: all rewards are equal there")])
        return self


class Stage(Section):
    """One stage of GRPO. It starts from the model of the stage before and is the KL's reference to itself."""

    name: str
    images: Images  # how many images a group may have; a count named twice is drawn twice as often
    weights: Weights = Weights()
    max_steps: Annotated[int, Field(ge=1)]
    # The least difference between two values of a group, in units of the value; two of them: from the first
    # step's to the last's, a curriculum. None: distinct values.
    gap: float | list[float] | None = None
    mutation: Mutation | None = None
    trainer: GRPOSection = GRPOKeys()  # overrides the run's `trainer` for this stage

    @field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", name):
            raise PydanticCustomError("name", "must be a folder's name of letters, digits, '_' and '-'")
        if name.lower() in RESERVED:
            raise PydanticCustomError(
                "name", f"must be none of {', '.join(RESERVED)}, which a run uses itself"
            )
        return name

    @field_validator("gap", mode="before")
    @classmethod
    def _one_gap_or_two(cls, given: Any) -> Any:
        numbers = given if isinstance(given, list) and len(given) == 2 else [given]
        for number in [] if given is None else numbers:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if not is_number or not 0 <= number <= sys.float_info.max:  # false for NaN, and for 10**400
                text = "must be a finite number, 0 or more, or two of them such as [4, 1], of the first step "
                text += f"and the last; not {shown(given)}"
                raise PydanticCustomError("said", "{text}", {"text": text})
        return given

    @property
    def gaps(self) -> tuple[float, float] | None:
        """`gap` of the first and the last step."""
        if self.gap is None:
            return None
        return (self.gap[0], self.gap[1]) if isinstance(self.gap, list) else (self.gap, self.gap)

    @model_validator(mode="after")
    def _ranking_is_defined(self) -> Self:
        if self.weights.ranking > 0 and set(self.images) == {1}:
            refuse([("weights.ranking", "must be 0 where `images` is [1]: one image has no order (R_rank)")])
        return self


class SFT(Section):
    """The supervised baseline: imitation of the reference replies, from the run's model, on like groups."""

    max_steps: Annotated[int, Field(ge=1)] | None = None  # None: every group of the stages once
    reasoning: Literal["template", "empty"] = "template"  # empty: the answer only
    trainer: SharedSection = SharedKeys()

    @property
    def name(self) -> str:
        """The arm's name and folder."""
        return "sft" if self.reasoning == "template" else "sft_answer_only"


class Validation(Section):
    """Asking the model while it trains, on prompts drawn once from a part that is not trained on."""

    every: Annotated[int, Field(ge=1)] = 50  # steps; the first and the last are always asked
    split: Annotated[str, Field(min_length=1)] = "validation"
    images: Images = [1, 2, 4, 8]
    prompts: Annotated[int, Field(ge=1)] = 100  # for each number of images
    keep: Literal["best", "last"] = "last"  # best: the step with the highest mean of Eq. 8 there


class LoRA(Section):
    """Low-rank adapters instead of all weights (peft)."""

    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | Annotated[list[str], Field(min_length=1)] = "all-linear"


class Evaluation(Section):
    """How each arm is evaluated: greedily, on lists drawn with a fixed seed."""

    split: Annotated[str, Field(min_length=1)] = "test"
    images: Images = [1, 2, 4, 8]
    lists: Annotated[int, Field(ge=1)] = 200  # lists per number of images
    position_lists: Annotated[int, Field(ge=0)] = 25  # of these, asked in every rotation of their pictures
    by: list[str] | None = None  # columns to divide single images by; None: those with a few values
    batch_size: Annotated[int, Field(ge=1)] = 32
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None  # None: the trainer's max_completion_length

    @model_validator(mode="after")
    def _single_images_are_divided(self) -> Self:
        if self.by and 1 not in self.images:
            refuse([("by", "divides single images, of which there are none: `images` needs a 1")])
        return self
