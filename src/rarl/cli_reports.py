"""The command `rarl report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from rarl.errors import DataError


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or that of a grid of rarl reproduce.")
    ],
) -> None:
    """Write report.html and report.md into a run's folder: tables, curves, rankings, replies, configuration.

    The page needs nothing else: it can be sent, printed, and read on a phone.
    """
    from rarl.report.grid import grid_tables_in, write_grid_report
    from rarl.report.page import write_report

    if not run.is_dir():
        raise DataError(f"{run}: no such folder; give that of a run, such as runs/demo")
    pages = [write_grid_report(folder) for folder in grid_tables_in(run)] or [write_report(run)]
    for page in pages:
        print(f"wrote {page} and {page.with_suffix('.md').name}")
