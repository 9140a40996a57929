"""The reference of a stage's KL (Eq. 1) where it is not the model that the stage starts from, such as with
`reference: base` in a stage. TRL 1.16 loads the reference from where the policy came from, or switches the
adapter off; here another model takes that place. A reference that nobody names is TRL's own."""

import copy
from pathlib import Path
from typing import Any

from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head, create_model_from_path, disable_dropout_in_model

from rarl.errors import ConfigError
from rarl.training.trainer_keys import UNREFERENCED


class OtherReference:
    """Goes before GRPOTrainer among the bases of a class, and lets it take the KL's reference as `reference`:
    a folder or a hub name; None is TRL's own, the model that training starts from.

    Raises:
        ConfigError: for another reference with one of `UNREFERENCED`.
    """

    args: Any
    model: Any
    accelerator: Any
    temperature: float
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def __init__(
        self, model: Any, rewards: Any, args: Any, *, reference: str | Path | None = None, **named: Any
    ) -> None:
        if reference is None or args.beta == 0.0:
            super().__init__(model, rewards, args, **named)  # type: ignore[call-arg]
            return
        if given := [key for key in UNREFERENCED if getattr(args, key)]:
            raise ConfigError(f"another reference is not possible with {' and '.join(given)}")
        without = copy.copy(args)
        without.beta = 0.0  # so that TRL doesn't load the policy's start as well
        super().__init__(model, rewards, without, **named)  # type: ignore[call-arg]
        self.beta = self.args.beta = args.beta
        self.ref_model = self._made_ready(reference)

    def _made_ready(self, reference: str | Path) -> Any:
        """The model, as TRL's GRPOTrainer makes its own reference ready."""
        args, policy = self.args, self.model
        how: dict[str, Any] = {
            "dtype": policy.dtype,
            "attn_implementation": policy.config._attn_implementation,
            "trust_remote_code": args.trust_remote_code,
        }
        if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
            how["device_map"] = None
        model: Any = create_model_from_path(str(reference), **how)
        if args.disable_dropout:
            disable_dropout_in_model(model)
        add_fused_lm_head(model, temperature=self.temperature)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(model, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(model, self.accelerator)
        return self.accelerator.prepare_model(model, evaluation_mode=True)
