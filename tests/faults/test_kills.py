"""SIGKILL at random instants: what the repeated command leaves is what it would have left undisturbed, to the byte."""

import itertools
import random
import time

import pytest
from commands import CASES, name_differences, read_tree, run_alone, start
from waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow
KILLS = 25


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_or_changed_by_kills(name, tmp_path):
    case, instants = CASES[name], random.Random(name)
    run_alone(case.list_words(tmp_path / "whole", again=False))
    wanted = read_tree(tmp_path / "whole")

    def attempt(folder, again, seconds) -> bool:
        """Let the command run for so long; return whether it ended, and ended well."""
        started = start(case.list_words(folder, again=again))
        if (status := started.wait(seconds)) is None:
            started.kill()
            return False
        assert status == 0, f"after {kills} kills: {started.read_output()}"
        assert name_differences(read_tree(folder), wanted) == [], f"after {kills} kills"
        return True

    kills, begin = 0, time.monotonic()
    assert attempt(tmp_path / "forked", again=False, seconds=WAIT_SECONDS)
    length = time.monotonic() - begin
    folders = (tmp_path / f"killed-{number}" for number in itertools.count())
    folder, again = next(folders), False
    while kills < KILLS or again:
        if attempt(folder, again, instants.uniform(0, length) if kills < KILLS else WAIT_SECONDS):
            folder, again = next(folders), False
        else:
            kills, again = kills + 1, True
