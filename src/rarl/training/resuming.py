"""Continuing from a checkpoint with the weights that are in it. transformers 5.23 writes Qwen2.5-VL's weights
under the names of the hub's files and, when a Trainer resumes, looks for them under the model's own: no name
matches, a warning is logged, and training goes on from the start's weights (huggingface/transformers issue
43701)."""

from typing import Any

from transformers import PreTrainedModel

from rarl.errors import ModelError


class Resuming:
    """Put before a transformers Trainer among the bases of a class: what it resumes from is read as
    `from_pretrained` reads it. Adapters and sharded training are left to the Trainer, which has them
    right."""

    model: Any
    is_fsdp_enabled: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        policy = self.model if model is None else model
        if self.is_fsdp_enabled or not isinstance(policy, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        loaded: Any = type(policy).from_pretrained(
            resume_from_checkpoint, dtype=policy.dtype, output_loading_info=True
        )
        saved, report = loaded
        if report["missing_keys"]:
            raise ModelError(
                f"{resume_from_checkpoint} lacks weights: {', '.join(sorted(report['missing_keys']))}"
            )
        policy.load_state_dict(saved.state_dict())
