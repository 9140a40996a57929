"""The command `rarl merge`. The work is in `rarl.models.folders`: `merging`, and the upload in `hub`."""

from pathlib import Path
from typing import Annotated

import typer

from rarl.cli.arguments import quiet_loading
from rarl.errors import ConfigError

PUSH = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub", metavar="OWNER/NAME", help="Upload the model; a repository that is new is private."
    ),
]


def merge(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder with adapter_config.json.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")],
    push_to_hub: PUSH = None,
) -> None:
    """Merge a LoRA adapter into its base: one folder that transformers and vLLM load like any model.

    It is computed on the CPU in float32, and saved in the precision of the base.
    """
    from rarl.models.folders.hub import check_push, push
    from rarl.models.folders.merging import merge_adapter
    from rarl.models.loading import adapter_base

    quiet_loading(adapter_base(adapter))
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another folder, or remove it")
    if push_to_hub is not None:
        check_push(push_to_hub)
    merge_adapter(adapter, out)
    print(f"wrote {out}")
    if push_to_hub is not None:
        print(f"uploaded to {push(out, push_to_hub)}")
