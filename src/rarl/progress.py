"""The progress bar of what takes long, for a person at a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _SpeedColumn(ProgressColumn):
    """How many of the unit are done in a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self._unit}/s")


def progress_bar(console: Console, unit: str | None = None) -> Progress:
    """A bar that goes when it is done. None where there is no terminal: it would leave empty lines.

    Args:
        unit: what is counted, if the speed is to be shown.
    """
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn()] if unit is None else [_SpeedColumn(unit), TimeRemainingColumn()]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def counted(console: Console, label: str, unit: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, moved by a function of how much is done and of how much there is; with `unit`, it shows
    the speed."""
    with progress_bar(console, unit) as progress:
        bar = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
