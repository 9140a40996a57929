"""The sections of a run's YAML: stages with their weights (Eq. 8) and mutation (Eq. 9), the SFT baseline,
LoRA and evaluation. Each checks what it can see by itself; config.py checks that they fit together."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, Strict, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rarl.data.columns import by_problem
from rarl.errors import ConfigError, Section, refuse
from rarl.method.mutation import Mutation, Stagnant, stagnant_switch
from rarl.method.rewards import TERMS
from rarl.training.trainer_keys import GRPOKeys, SharedKeys

# What a run calls its own folders: no name for a stage.
RESERVED_NAMES = ("base", "sft", "sft_answer_only", "data", "checkpoints")

ImageCount = Annotated[int, Field(ge=1, le=16)]
Images = Annotated[list[ImageCount], Field(min_length=1)]
Weight = Annotated[float, Field(ge=0)]
FolderPath = Annotated[Path, Strict(False), PlainSerializer(str)]
# In the resolved file a trainer section holds what was given and `RUN_DEFAULTS`, not all of the defaults.
SharedSection = Annotated[SharedKeys, PlainSerializer(SharedKeys.given)]
GRPOSection = Annotated[GRPOKeys, PlainSerializer(GRPOKeys.given)]


_FIELDS: Any = {term.name: (Weight, term.weight) for term in TERMS}


class Weights(create_model("Weights", __base__=Section, **_FIELDS)):  # type: ignore[misc]
    """The lambdas of Eq. 8: a key for each of `rarl.method.rewards.TERMS`."""

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not any(self.in_order):
            raise PydanticCustomError("said", "must not all be 0: no response would differ from another")
        return self

    @property
    def in_order(self) -> list[float]:
        """In the order of `TERMS`: lambda 1 to 3 are regression, ranking and format."""
        return [getattr(self, term.name) for term in TERMS]


class Stage(Section):
    """One stage of GRPO."""

    name: str
    images: Images  # how many images a group may have; a count named twice is drawn twice as often
    weights: Weights = Weights()
    max_steps: Annotated[int, Field(ge=1)]
    start: Literal["sft"] | None = None  # None: the model of the stage before, or the run's; sft: that of SFT
    # Of the KL (Eq. 1). None: the model that the stage starts from; base: the run's `model`.
    reference: Literal["base"] | None = None
    mutation: Mutation | None = None
    # Of groups that teach nothing; None: mutate where there is a mutation, keep otherwise.
    stagnant: Stagnant | None = None
    resample_rounds: Annotated[int, Field(ge=1)] = 3  # so often at most are other prompts drawn (resample)
    trainer: GRPOSection = GRPOKeys()  # overrides the run's `trainer` for this stage

    @model_validator(mode="before")
    @classmethod
    def _without_gap(cls, given: Any) -> Any:
        """A `config.yaml` of an earlier version has a `gap: null` here."""
        if isinstance(given, dict) and given.get("gap", 0) is None:
            return {key: value for key, value in given.items() if key != "gap"}
        return given

    @field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", name):
            raise PydanticCustomError("name", "must be a folder's name of letters, digits, '_' and '-'")
        if name.lower() in RESERVED_NAMES:
            raise PydanticCustomError(
                "name", f"must be none of {', '.join(RESERVED_NAMES)}, which a run uses itself"
            )
        return name

    @model_validator(mode="after")
    def _one_way_out_of_stagnation(self) -> Self:
        try:
            stagnant_switch(self.stagnant, self.mutation.probability if self.mutation else 0.0)
        except ConfigError as error:
            refuse([("stagnant", str(error).removeprefix("stagnant: "))])
        return self

    @model_validator(mode="after")
    def _ranking_is_defined(self) -> Self:
        if self.weights.ranking > 0 and set(self.images) == {1}:
            refuse([("weights.ranking", "must be 0 where `images` is [1]: one image has no order (R_rank)")])
        return self


class SFT(Section):
    """The supervised baseline: imitation of the reference replies, from the run's model, on like groups."""

    max_steps: Annotated[int, Field(ge=1)] | None = None  # None: every group of the stages once
    reasoning: Literal["template", "empty"] = "template"  # empty: the answer only
    trainer: SharedSection = SharedKeys()  # overrides the run's `trainer`; `SFT_RATE` says its learning rate

    @property
    def name(self) -> str:
        """The arm's name and folder."""
        return "sft" if self.reasoning == "template" else "sft_answer_only"


class Validation(Section):
    """Asking the model while it trains, on prompts drawn once from a part that is not trained on."""

    every: Annotated[int, Field(ge=1)] = 50  # steps; the first and the last are always asked
    split: Annotated[str, Field(min_length=1)] = "validation"
    images: Images = Field(default=[1, 2, 4, 8])
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
    images: Images = Field(default=[1, 2, 4, 8])
    lists: Annotated[int, Field(ge=1)] = 200  # at most, per number of images; no image is in two of them
    position_lists: Annotated[int, Field(ge=0)] = 25  # of these, asked in every rotation of their pictures
    by: list[str] | None = None  # columns to divide single images by; None: those with a few values
    batch_size: Annotated[int, Field(ge=1)] = 32
    # Where every arm's reply is cut; None: the largest max_completion_length of the stages.
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _single_images_are_divided(self) -> Self:
        if problem := by_problem(self.by, self.images):
            refuse([("by", problem)])
        return self
