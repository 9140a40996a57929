"""The whole method on handwritten digits, on a laptop CPU, with one command: `rarl demo`. It builds the
collection, takes the embedded base, and hands the configuration in `demo.yaml` to the same stages that
`rarl train` runs."""

from pathlib import Path
from typing import Any

from rich.console import Console

from rarl.data.sources.digits import prepare_digits
from rarl.files import locked, read_yaml_mapping
from rarl.models.pretraining import copy_base, make_base, settle
from rarl.report.page import write_report
from rarl.report.tables import results_table
from rarl.training.checkpoints import is_finished
from rarl.training.config import config_from
from rarl.training.run import begin, run

CONFIG = Path(__file__).with_name("demo.yaml")


def run_demo(out: Path, seed: int, console: Console | None = None) -> dict[str, Any]:
    """Trains SFT, stage 1 and stage 2 with mutation, evaluates each beside the base, prints the table.

    A demo that was interrupted goes on where it stopped; one that is complete prints its table again.

    Args:
        out: the run's folder.
        seed: of the base (0 is shipped, another is built first), the groups and the training.
        console: where the progress and the table go.

    Returns:
        What `metrics.json` holds.

    Raises:
        ConfigError: if `out` holds a run with another configuration, or another demo is at work in it.
    """
    settle()
    console = console or Console()
    base = out / "base"
    given = {"model": str(base), "data": str(out / "data"), "output": str(out), "seed": seed}
    config = config_from(read_yaml_mapping(CONFIG) | given, CONFIG.name)
    begin(config, resume=True)  # first of all: a base must not be taken for that of another seed
    with locked(out, "preparing"):
        if not is_finished(base):
            if seed == 0:
                console.print("taking the embedded base")
                copy_base(base)
            else:
                console.print(f"building the embedded base of seed {seed}")
                make_base(base, seed, console)
        prepare_digits(out / "data")
    metrics = run(config, resume=True, console=console)
    console.print(results_table(metrics, config.task, model_name="embedded base"))
    write_report(out)
    console.print(
        f"report.html, report.md, models, config.yaml and metrics.json are in {out}", highlight=False
    )
    return metrics
