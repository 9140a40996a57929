"""The settings that decide the method, each with the value that it has where nobody gives one, and whose
value that is: the paper's (section 4.1 and its equations), or ours, because the paper names none. A run
begins with them, and so does `RARLConfig`. Whatever is not here is TRL's."""

from dataclasses import dataclass
from typing import Any, Literal

from rarl.errors import ConfigError

PAPER_BATCH = 64
"""Responses of a step, over all processes: the paper's "batch size of 64". It doesn't say of what."""


@dataclass(frozen=True)
class Default:
    """One setting.

    Attributes:
        key: its name in `trainer:`, which is that of TRL's field, but for `prompts_per_step`.
        of: `paper`, or `ours`.
        why: where the paper says it; or why we chose it, which the paper doesn't say.
    """

    key: str
    value: Any
    of: Literal["paper", "ours"]
    why: str


DEFAULTS = (
    Default("learning_rate", 1e-6, "paper", "section 4.1: that of AdamW"),
    Default("temperature", 1.0, "paper", "section 4.1"),
    Default("beta", 0.01, "paper", "section 4.1: the weight of the KL in Eq. 1"),
    Default("use_bias_correction_kl", True, "paper", "Eq. 1: the gradient is that of KL(policy ‖ reference)"),
    Default("scale_rewards", "group", "paper", "Eq. 2"),
    Default(
        "prompts_per_step", 8, "ours", "a step has 8 x 8 responses: so we read the paper's batch size of 64"
    ),
    Default("num_generations", 8, "ours", "G"),
    Default("lr_scheduler_type", "constant", "ours", "the paper names one rate, and no schedule"),
    Default("warmup_steps", 0, "ours", "a constant rate has no warm-up"),
    Default("weight_decay", 0.0, "ours", "Eq. 1 holds the policy by its KL alone"),
    Default("max_grad_norm", 1.0, "ours", "TRL's"),
    Default(
        "loss_type", "grpo", "ours", "GRPO as first published: the mean over tokens, then over responses"
    ),
    Default("num_iterations", 1, "ours", "each response serves once"),
    Default("epsilon", 0.2, "ours", "GRPO's clip; without effect while each response serves once"),
    Default("max_completion_length", 512, "ours", "TRL's is the same"),
)

MUTATION_DEFAULTS = (
    Default("mutation.k", 2, "paper", "section 4.1"),
    Default("mutation.probability", 0.5, "ours", 'RMO\'s p: the paper says "probabilistically"'),
    Default("mutation.when", "always", "ours", 'the paper says "in each training batch"'),
    Default("mutation.reference", "ground_truth", "paper", "section 3.2, one of its two"),
    Default("mutation.reasoning", "template", "ours", "the paper does not say what a reference reasons"),
)
"""Of a stage's `mutation`; of `RARLConfig` too, but for a probability of 0: the first stage has no RMO."""

# Of a run alone: one that is interrupted loses at most 50 steps.
_CHECKPOINTS = {"save_steps": 50, "save_total_limit": 2}

RUN_DEFAULTS: dict[str, Any] = {row.key: row.value for row in DEFAULTS} | _CHECKPOINTS
"""What `trainer:` begins with."""

DEFAULTS_BEFORE = {"lr_scheduler_type": "linear"}
"""What an earlier version took where its `config.yaml` says nothing and `DEFAULTS` differ now."""


def share_of_the_batch(parts: int) -> int:
    """The responses of a micro-batch, if a step has `PAPER_BATCH` of them.

    Args:
        parts: the micro-batches of a step, over all processes.

    Raises:
        ConfigError: if the batch can't be divided so.
    """
    if PAPER_BATCH % parts:
        raise ConfigError(
            f"a batch of {PAPER_BATCH} responses can't be divided by gradient_accumulation_steps x processes "
            f"({parts}): give per_device_train_batch_size"
        )
    return PAPER_BATCH // parts
