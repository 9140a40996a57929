"""A function in a process of its own that has all modules already: what it printed, how it ended, and how
long that took. Importing torch again for each of a hundred cases would take longer than the cases."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, negative for a signal; None if it had to be killed because it took too long.
        said: what it printed, on either stream.
        seconds: how long it ran.
        cpu_seconds: how long it computed.
    """

    code: int | None
    said: str
    seconds: float
    cpu_seconds: float

    @property
    def in_one_sentence(self) -> bool:
        """Whether it ended with an error of one line, and without a traceback."""
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return self.code in (1, 2) and len(errors) == 1 and "Traceback" not in self.said


class Going:
    """A copy of this process that does some work. Not to be made while other threads run."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._began = time.monotonic()
        self._child = os.fork()
        if self._child == 0:
            _child(work, self._output.fileno())

    def ended(self, *, seconds: float) -> Ended:
        """Waits for its end; after so many seconds since it began, it is killed."""
        status: int | None = None
        while time.monotonic() < self._began + seconds:
            ended, status, usage = os.wait4(self._child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.005)
        else:
            os.kill(self._child, signal.SIGKILL)
            _, _, usage = os.wait4(self._child, 0)
            status = None
        took = time.monotonic() - self._began
        with self._output:
            self._output.seek(0)
            said = self._output.read().decode(errors="replace")
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return Ended(code, said, took, usage.ru_utime + usage.ru_stime)


def forked(work: Callable[[], object], *, seconds: float) -> Ended:
    """Does some work in a copy of this process, for at most so long."""
    return Going(work).ended(seconds=seconds)


def _child(work: Callable[[], object], output: int) -> None:
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        work()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
