"""`rarl demo`: the whole method on handwritten digits, on a laptop CPU, with one command. It prepares the
collection and the embedded base, and passes the configuration in `demo.yaml` to the code behind `rarl train`.
It trains nothing in a way of its own."""

from pathlib import Path
from typing import Any

from rich.console import Console

from rarl.data.sources.digits import prepare_digits
from rarl.files import locked
from rarl.models.machine import use_one_thread
from rarl.models.pretraining import copy_base, make_base
from rarl.report.model_card import write_model_cards
from rarl.report.page import write_report
from rarl.report.tables import results_table
from rarl.training.checking import begin_run
from rarl.training.config import config_from
from rarl.training.keeping.checkpoints import is_finished
from rarl.training.run import train_and_evaluate
from rarl.yaml_files import read_yaml_mapping

CONFIG = Path(__file__).with_name("demo.yaml")


def run_demo(out: Path, seed: int, console: Console | None = None) -> dict[str, Any]:
    """Trains SFT, stage 1, and stage 2 with mutation, evaluates them and the base, and prints the table.

    An interrupted demo goes on where it stopped. A complete one prints its table again.

    Args:
        out: the run's folder.
        seed: decides the base (0 is shipped, any other is built first), the groups and the training.
        console: where progress and table go.

    Returns:
        The contents of `metrics.json`.

    Raises:
        ConfigError: if `out` holds a run with another configuration, or another demo is working in it.
    """
    use_one_thread()
    console = console or Console()
    base = out / "base"
    given = {"model": str(base), "data": str(out / "data"), "output": str(out), "seed": seed}
    config = config_from(read_yaml_mapping(CONFIG) | given, CONFIG.name)
    begin_run(config, resume=True)  # first, so that a base is never taken for that of another seed
    with locked(out, "preparing"):
        if not is_finished(base):
            if seed == 0:
                console.print("taking the embedded base")
                copy_base(base)
            else:
                console.print(f"building the embedded base of seed {seed}")
                make_base(base, seed, console)
        prepare_digits(out / "data")
    metrics = train_and_evaluate(config, resume=True, console=console)
    console.print(results_table(metrics, config.task, model_name="embedded base"))
    write_report(out)
    write_model_cards(config, metrics)
    console.print(
        f"report.html, report.md, models, config.yaml and metrics.json are in {out}", highlight=False
    )
    return metrics
