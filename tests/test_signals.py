"""Signals: the first only asks, a later one stops, and afterwards everything is as before."""

import os
import signal

import pytest

from rarl import signals
from rarl.signals import AskedToStop, Stopped, stopped_by_sigterm

INTERRUPT, TERMINATE = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "code", "said"), [(2, 130, "interrupted"), (15, 143, "stopped by SIGTERM")]
)
def test_what_a_process_exits_with(number, code, said):
    assert Stopped(number).code == code
    assert str(Stopped(number)) == said
    assert str(Stopped(number, "all is saved")) == f"{said}; all is saved"


def test_sigterm_stops_what_runs_and_only_there():
    before = signal.getsignal(TERMINATE)
    with pytest.raises(Stopped) as stopped, stopped_by_sigterm():
        os.kill(os.getpid(), TERMINATE)
    assert stopped.value.code == 143
    assert signal.getsignal(TERMINATE) is before


@pytest.mark.parametrize("number", [INTERRUPT, TERMINATE])
def test_the_first_signal_asks_and_a_later_one_stops(number, monkeypatch, capfd):
    before = [signal.getsignal(each) for each in (INTERRUPT, TERMINATE)]
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with AskedToStop("it is saved") as asked:
        assert asked.number is None
        os.kill(os.getpid(), number)
        assert asked.number == number
        now[0] = 101
        os.kill(os.getpid(), INTERRUPT)  # the same request, passed on
        assert asked.number == number
        now[0] = 104
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in (INTERRUPT, TERMINATE)] == before
    assert capfd.readouterr().err.count(f"{signal.Signals(number).name}: it is saved; once more stops") == 1
