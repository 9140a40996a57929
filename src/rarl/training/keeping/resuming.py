"""What every trainer of this library does otherwise than transformers and TRL: how it reads a checkpoint's
weights when it resumes, and that it tells nobody of it. Which checkpoint that is, is decided in
`checkpoints`."""

from typing import Any

from transformers import PreTrainedModel

from rarl.errors import ModelError


class Resuming:
    """Goes before a transformers Trainer among the bases of a class, and makes it read a checkpoint's weights
    the way `from_pretrained` does. Adapters and sharded training are left to the Trainer, which reads them
    correctly.

    Raises:
        ModelError: when training resumes from a checkpoint that lacks weights.
    """

    model: Any
    is_fsdp_enabled: bool

    def _send_telemetry(self) -> None:
        """TRL 1.16 tells huggingface.co of each trainer that is made, unless the environment forbids it."""

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
