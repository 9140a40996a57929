"""FSDP2 on the CPU, in each of several processes, which the caller starts. accelerate 1.15 ignores FSDP where
there is no accelerator; here it doesn't, and a training whose weights are not spread over the processes
fails. `torchrun --nproc_per_node 2 tests/helpers/fsdp.py train CONFIG.yaml` is `rarl train` so."""

import os
import sys
from functools import wraps

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType


def use_fsdp() -> None:
    """Makes all trainings of this process go by FSDP2."""
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
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
    _watch_weights()


def _watch_weights() -> None:
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
    use_fsdp()
    from rarl.cli import main

    main(sys.argv[1:])
