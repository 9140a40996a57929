"""The supervised baseline (Tables 2, 4, 5): TRL's SFTTrainer imitates the reference reply of every group that
the stages see, in the same order and once each. Only the reply is learned from, not the prompt."""

from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset
from trl import SFTTrainer

from rarl.errors import ConfigError
from rarl.replies import reference_reply
from rarl.training.resuming import Resuming

SFTReasoning = Literal["template", "empty"]


@dataclass(frozen=True)
class WithReference:
    """A dataset transform that adds the column `completion`, the reference reply, to what `rows` makes of a
    batch.

    Args:
        rows: the transform of `rarl.data.dataset.to_dataset`.
        reasoning: `template` spells the values inside `<think>`; `empty` leaves the reply its answer alone.
    """

    rows: Any
    reasoning: SFTReasoning

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        batch = self.rows(batch)
        replies = [
            reference_reply(values, step, reasoned=self.reasoning == "template")
            for values, step in zip(batch["values"], batch["step"], strict=True)
        ]
        batch["completion"] = [[{"role": "assistant", "content": reply}] for reply in replies]
        return batch


def sft_dataset(groups: Dataset, reasoning: SFTReasoning) -> Dataset:
    """The rows of `to_dataset` with a `completion` column, as SFTTrainer takes them.

    Raises:
        ConfigError: if the rows have orders alone.
    """
    if "values" not in groups.column_names:
        raise ConfigError("the dataset has no column 'values': SFT imitates values, and orders have none")
    return groups.with_transform(WithReference(groups.format["format_kwargs"]["transform"], reasoning))


class _Baseline(Resuming, SFTTrainer):
    """TRL's SFTTrainer, which can be continued."""


def sft_trainer(
    model: Any, processor: Any, dataset: Dataset, args: Any, callbacks: list[Any], peft_config: Any = None
) -> SFTTrainer:
    """The trainer of the baseline; `dataset` is what `sft_dataset` made."""
    return _Baseline(
        model=model,
        args=args,
        train_dataset=dataset,
        processing_class=processor,
        callbacks=callbacks,
        peft_config=peft_config,
    )
