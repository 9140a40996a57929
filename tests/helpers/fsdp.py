"""The command `rarl` under FSDP2 on the CPU: `python fsdp.py train CONFIG.yaml`, in each of several
processes. accelerate 1.15 ignores FSDP where there is no accelerator; here it doesn't. The weights of every
trainer are seen to be spread over the processes, or the command fails."""

import os
import sys
from functools import wraps

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType


def allow_on_cpu() -> None:
    """Makes accelerate take its FSDP plugin on a CPU, too, as it does on accelerators."""
    original = AcceleratorState.__init__

    @wraps(original)
    def patched(self, *args, fsdp_plugin=None, **named):
        original(self, *args, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = patched


def watch_weights() -> None:
    """Every arm's training ends in an error unless its weights were spread over the processes."""
    from torch.distributed.tensor import DTensor
    from transformers import TrainerCallback

    from rarl.training import arms

    class Spread(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            assert all(isinstance(weight, DTensor) for weight in model.parameters())

    fit = arms._fit

    def watched(trainer, *rest):
        trainer.add_callback(Spread())
        fit(trainer, *rest)

    arms._fit = watched


if __name__ == "__main__":
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
    allow_on_cpu()
    watch_weights()
    from rarl.cli import main

    main(sys.argv[1:])
