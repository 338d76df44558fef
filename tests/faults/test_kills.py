"""SIGKILL at random instants: what the repeated command leaves is what it would have left undisturbed, to the byte."""

import itertools
import random
import time

import pytest
from commands import CASES, name_differences, read_tree, start
from waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow
PARTS, KILLS = 5, 5  # of each command 25 kills, in parts that several processes can share; the first draws pictures


@pytest.fixture(scope="module")
def find_seconds(tmp_path_factory):
    """How long a command takes if nothing happens, by its name."""
    found = {}

    def find(name):
        if name not in found:
            start(["--version"]).wait()  # the first fork waits until the libraries are imported
            begin = time.monotonic()
            started = start(CASES[name].list_words(tmp_path_factory.mktemp(name), again=False))
            assert started.wait() == 0, started.read_output()
            found[name] = time.monotonic() - begin
        return found[name]

    return find


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_or_changed_by_kills(name, part, tmp_path, undisturbed, find_seconds):
    case, instants = CASES[name], random.Random(f"{name} {part}")
    wanted, length, kills = undisturbed(name), find_seconds(name), 0

    def attempt(folder, again, seconds) -> bool:
        """Let the command run for so long; return whether it ended, and ended well."""
        started = start(case.list_words(folder, again=again), draws=part == 0)
        if (status := started.wait(seconds)) is None:
            started.kill()
            return False
        assert status == 0, f"after {kills} kills: {started.read_output()}"
        assert name_differences(read_tree(folder), wanted) == [], f"after {kills} kills"
        return True

    folders = (tmp_path / f"killed-{number}" for number in itertools.count())
    folder, again = next(folders), False
    while kills < KILLS or again:
        if attempt(folder, again, instants.uniform(0, length) if kills < KILLS else WAIT_SECONDS):
            folder, again = next(folders), False
        else:
            kills, again = kills + 1, True
