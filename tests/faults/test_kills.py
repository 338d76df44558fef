"""SIGKILL at random instants: what the repeated command leaves is what it would have left undisturbed, to the byte."""

import os
import random
import signal
import subprocess
import time

import pytest
from commands import CASES, name_differences, read_tree, start
from waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow
KILLS = 25


def finish(process) -> str:
    """Return the output of a command that ends well."""
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_or_changed_by_kills(name, tmp_path):
    case, instants = CASES[name], random.Random(name)
    started = time.monotonic()
    finish(start(case.list_words(tmp_path / "whole", again=False)))
    length = time.monotonic() - started
    wanted = read_tree(tmp_path / "whole")
    kills, round_number, process = 0, 0, None
    while kills < KILLS or process is not None:
        folder = tmp_path / f"killed-{round_number}"
        process = start(case.list_words(folder, again=process is not None))
        try:
            output, _ = process.communicate(timeout=instants.uniform(0, length) if kills < KILLS else WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, f"after {kills} kills: {output}"
        assert name_differences(read_tree(folder), wanted) == [], f"after {kills} kills"
        round_number, process = round_number + 1, None
