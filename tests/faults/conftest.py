"""What each command leaves if nothing happens to it."""

import pytest
from commands import CASES, read_tree, run_alone


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """What a command leaves if nothing happens, by its name."""
    trees = {}

    def find(name):
        if name not in trees:
            folder = tmp_path_factory.mktemp(name)
            run_alone(CASES[name].list_words(folder, again=False))
            trees[name] = read_tree(folder)
        return trees[name]

    return find
