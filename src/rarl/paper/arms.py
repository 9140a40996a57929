"""The arms of the paper's Tables 2-6, and further ones, one row each: what an arm is called, its colour in
plots, and how it is trained from a recipe of two stages (sections 3 and 4). The rows train nothing; `grid`
makes runs of them."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class PaperStage:
    """A stage of an arm, as a change of a stage of the recipe.

    Attributes:
        of: the stage of the recipe it is taken from.
        mutation: whether it keeps the recipe's mutation (RMO).
        regression: whether it keeps the reward for regression; without it, single images are left out too.
        alone: whether it is the only stage, so that it trains on as many prompts as both stages together.
        from_sft: whether it starts from the model of SFT.
        again: whether the arm has this stage already, so that it draws further prompts under another name.
        options: of the recipe's mutation that are changed, with their values.
        resample: whether it draws other prompts for groups without variance (dynamic sampling); then there is
            no mutation.
    """

    of: Literal["first", "second"]
    mutation: bool = True
    regression: bool = True
    alone: bool = False
    from_sft: bool = False
    again: bool = False
    options: tuple[tuple[str, str], ...] = ()
    resample: bool = False


FIRST_STAGE = PaperStage("first")
SECOND_STAGE = PaperStage("second")
WITHOUT_MUTATION = replace(SECOND_STAGE, mutation=False)
ALL_REWARDS_AT_ONCE = replace(WITHOUT_MUTATION, alone=True)
RANKING_ALONE = replace(ALL_REWARDS_AT_ONCE, regression=False)
SECOND_STAGE_FROM_SFT = replace(SECOND_STAGE, from_sft=True)
SECOND_STAGE_AGAIN = replace(SECOND_STAGE, again=True)
RESAMPLED = replace(WITHOUT_MUTATION, resample=True)
SHAPED = replace(SECOND_STAGE, options=(("weight", "shaped"),))
OWN_STATISTICS = replace(SECOND_STAGE, options=(("statistics", "own"),))


@dataclass(frozen=True)
class PaperArm:
    """One arm.

    Attributes:
        name: in files and options.
        label: in tables and plots; None for the base, which is called what its model is.
        colour: its place in the palette of `report/page.css`, where it is the variable `--arm-COLOUR`.
        stages: what it is trained with. For SFT they are the stages whose prompts it imitates.
        sft: the reasoning in the reference replies of an arm that imitates them; None for one that does not.
        trained: whether it is trained at all; the base is not.
        begins_with: the arm whose model it starts from, and trains its last stage; None for the base's.
    """

    name: str
    label: str | None
    colour: int
    stages: tuple[PaperStage, ...] = (FIRST_STAGE, SECOND_STAGE)
    sft: Literal["template", "empty"] | None = None
    trained: bool = True
    _: KW_ONLY
    begins_with: str | None = None


SHARED_STAGE = "regression"
"""The arm whose model is the first stage of those with two."""

PAPER_ARMS: dict[str, PaperArm] = {
    arm.name: arm
    for arm in (
        PaperArm("base", None, 0, trained=False),
        PaperArm("sft", "+ SFT", 1, sft="template"),
        PaperArm("sft_answer_only", "+ SFT, answer only", 2, sft="empty"),
        PaperArm("sft_long", "+ SFT, longer", 8, (FIRST_STAGE, SECOND_STAGE, SECOND_STAGE_AGAIN), "template"),
        PaperArm("sft_rarl", "+ SFT, then RARL", 9, (FIRST_STAGE, SECOND_STAGE_FROM_SFT), begins_with="sft"),
        PaperArm("regression", "+ Regression", 3, (FIRST_STAGE,)),
        PaperArm("ranking", "+ Ranking", 4, (RANKING_ALONE,)),
        PaperArm("joint", "+ Joint", 5, (ALL_REWARDS_AT_ONCE,)),
        PaperArm(
            *("rarl_no_mutation", "+ RARL, no RMO", 6),
            stages=(FIRST_STAGE, WITHOUT_MUTATION),
            begins_with=SHARED_STAGE,
        ),
        PaperArm(
            *("dynamic_sampling", "+ RARL, dynamic sampling, no RMO", 10),
            stages=(FIRST_STAGE, RESAMPLED),
            begins_with=SHARED_STAGE,
        ),
        PaperArm(
            *("rarl_shaped", "+ RARL, RMO shaped", 11),
            stages=(FIRST_STAGE, SHAPED),
            begins_with=SHARED_STAGE,
        ),
        PaperArm(
            *("rarl_own_statistics", "+ RARL, RMO by own statistics", 12),
            stages=(FIRST_STAGE, OWN_STATISTICS),
            begins_with=SHARED_STAGE,
        ),
        PaperArm("rarl", "+ RARL", 7, begins_with=SHARED_STAGE),
    )
}
"""NAME -> arm, in the order in which tables show them; an arm comes after the one it begins with."""
