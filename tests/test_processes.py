"""Signals as exceptions, work that they wait for, and children that end with their parent however it ends."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from waiting import WAIT_SECONDS

from adaptthink.processes import Interruption, interrupt_on_signals, postpone_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_exception_with_its_number_and_handlers_come_back(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Interruption) as caught, interrupt_on_signals():
            signal.raise_signal(number)
        assert caught.value.number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_what_must_be_whole_is_done_before_the_exception_comes():
    done = []

    def work():
        with postpone_interrupts():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("whole")
        done.append("after")

    with pytest.raises(Interruption) as caught, interrupt_on_signals():
        work()
    assert done == ["whole"]
    assert caught.value.number == signal.SIGTERM


PARENT = """
import subprocess, sys, time
from adaptthink.processes import end_with_parent
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, start_new_session=True, preexec_fn=end_with_parent())
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_ends_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        gone, _ = psutil.wait_procs([child], WAIT_SECONDS)
        assert gone or child.status() == psutil.STATUS_ZOMBIE
    finally:
        if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            os.kill(child.pid, signal.SIGKILL)
