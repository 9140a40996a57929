"""What happens when a process is asked to stop: by Ctrl-C (SIGINT), or by what schedulers and spot machines
send some seconds before they kill (SIGTERM). What is saved then is decided where the work is done."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

PATIENCE = 3
"""Seconds."""


class Stopped(BaseException):
    """The process was asked to stop, and does.

    Args:
        number: of the signal.
        done: what was brought to an end before, such as "a checkpoint of step 7 is saved".
    """

    def __init__(self, number: int, done: str = "") -> None:
        self.number, self.done = number, done
        name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{name}; {done}" if done else name)

    @property
    def code(self) -> int:
        """What the process exits with: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM raises `Stopped`, so that what is half-made is tidied up. Elsewhere than in the main
    thread, nothing changes."""
    before: Any = signal.SIG_DFL
    with suppress(ValueError):
        before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)


class AskedToStop:
    """Within, the first SIGINT or SIGTERM is only noted, and said on stderr; one that comes `PATIENCE`
    seconds later or more stops at once. Earlier ones are the same request: a terminal and torchrun both pass
    Ctrl-C on.

    Args:
        answer: what is said to the first, such as "a checkpoint is saved after this step".

    Attributes:
        number: of the signal; None as long as there was none.
    """

    def __init__(self, answer: str) -> None:
        self.number: int | None = None
        self._answer = answer
        self._before: dict[int, Any] = {}
        self._since = 0.0

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if time.monotonic() > self._since + PATIENCE:
                _stop(number, frame)
            return
        self.number, self._since = number, time.monotonic()
        said = f"\n{signal.Signals(number).name}: {self._answer}; once more stops at once\n"
        os.write(2, said.encode())  # print may be at work below, and is not made for that
