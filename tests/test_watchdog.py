"""A command that hangs is ended with status 75 and the stacks of its threads; one that moves, or is stopped, is not."""

import subprocess
import sys

import pytest
from waiting import WAIT_SECONDS

from adaptthink.callbacks import Progress
from adaptthink.cli import watchdog
from adaptthink.cli.console import Terminal

HANGING = """
import signal, sys, threading
from adaptthink.cli import watchdog
from adaptthink.processes import Interruption, interrupt_on_signals
watchdog.POLL_SECONDS, watchdog.GRACE_SECONDS = 0.05, 0.2

def wait_forever():
    if sys.argv[1] == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Event().wait()

try:
    with interrupt_on_signals(), watchdog.end_when_stuck(0.005):
        wait_forever()
except Interruption as interruption:
    print(f"saved at signal {interruption.number}")
"""


@pytest.mark.parametrize(("kind", "status", "printed"), [("listening", 0, "saved at signal 15\n"), ("deaf", 75, "")])
def test_a_hanging_program_is_told_to_end_and_then_ended(kind, status, printed):
    words = [sys.executable, "-c", HANGING, kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (status, printed)
    assert "wait_forever" in done.stderr
    assert "adaptthink: nothing has moved for 0.005 minutes" in done.stderr


class Clock:
    """An event that is never set, in whose waits time passes as a script has it."""

    def __init__(self, script):
        self.now, self.script = 0.0, iter(script)

    def monotonic(self):
        return self.now

    def wait(self, _):
        step = next(self.script, None)
        if step is None:
            return True
        seconds, action = step
        self.now += seconds
        if action:
            action()
        return False


def report_progress():
    Terminal().on_progress(Progress("sampling", 1, 2, 0))


@pytest.mark.parametrize(
    ("script", "killed"),
    [
        ([(1.0, None)] * 10, True),
        ([(1.0, None)] * 9, False),
        ([*[(1.0, None)] * 8, (1.0, report_progress), *[(1.0, None)] * 9], False),
        ([*[(1.0, None)] * 8, (1.0, report_progress), *[(1.0, None)] * 10], True),
        ([*[(1.0, None)] * 5, (9999.0, None), (1.0, None)], False),  # the program was stopped meanwhile
    ],
)
def test_only_time_without_progress_counts(monkeypatch, capfd, script, killed):
    clock, signals = Clock([*script]), []
    monkeypatch.setattr(watchdog.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(watchdog.os, "kill", lambda *words: signals.append(words))
    clock.script = iter([*script, None, None])
    watchdog._watch(10.0, clock)
    assert bool(signals) is killed
    assert ("nothing has moved" in capfd.readouterr().err) is killed


def test_without_a_limit_there_is_no_watchdog():
    before = {thread.name for thread in watchdog.threading.enumerate()}
    with watchdog.end_when_stuck(0):
        assert {thread.name for thread in watchdog.threading.enumerate()} == before
