"""Locks between processes that are really two."""

import errno
import subprocess
import sys

import filelock
import pytest
from lock_holder import another_holds

from adaptthink.errors import UserError
from adaptthink.storage.locks import locked


def test_a_second_process_is_refused_in_one_line(tmp_path):
    path = tmp_path / "ref.jsonl"
    refused = pytest.raises(UserError, match=r"store 'ref' is in use by another process")
    with another_holds(path), refused as caught, locked(path, "store 'ref'"):
        pytest.fail("both hold it")
    assert str(tmp_path / "ref.jsonl.lock") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lock_ends_with_the_process_that_held_it_however_it_ended(tmp_path):
    path = tmp_path / "new" / "ref.jsonl"  # the folder is made
    with another_holds(path) as process:
        process.kill()
        process.wait()
        with locked(path, "it"):
            assert (tmp_path / "new" / "ref.jsonl.lock").is_file()


def test_a_lock_ends_with_its_block_an_error_included(tmp_path):
    path = tmp_path / "ref.jsonl"
    with pytest.raises(ZeroDivisionError), locked(path, "it"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with locked(path, "it"), another_holds(tmp_path / "other.jsonl"):
        pass


TAKE_TURNS = """
import os, sys
from pathlib import Path
from adaptthink.errors import UserError
from adaptthink.storage.locks import locked
path, turns = Path(sys.argv[1]), 0
while turns < 50:
    try:
        with locked(path, "it"):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # an error if another is in here
            path.unlink()
            turns += 1
    except UserError:
        pass
"""


def test_never_two_in_many_turns_though_the_file_goes_with_each(tmp_path):
    command = [sys.executable, "-W", "error", "-c", TAKE_TURNS, str(tmp_path / "ref.jsonl")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 3
    assert list(tmp_path.iterdir()) == []


def fault(monkeypatch, code):
    """Let every attempt to lock fail with an error of the operating system."""

    def flock(*_):
        raise OSError(code, "no")

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.skipif(not hasattr(filelock, "UnixFileLock"), reason="no flock here")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_used_with_a_warning_and_without_a_lock_that_would_stay(
    tmp_path, monkeypatch, code
):
    fault(monkeypatch, code)
    for _ in range(2):
        with pytest.warns(UserWarning, match="no locks on the file system of it"), locked(tmp_path / "ref.jsonl", "it"):
            pass


def test_one_thing_has_one_lock_by_all_of_its_names(tmp_path):
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "parent").symlink_to("real")
    (tmp_path / "run").symlink_to("real/run")
    for name in ("parent/run", "run"):
        refused = pytest.raises(UserError, match="in use by another process")
        with another_holds(tmp_path / "real" / "run"), refused, locked(tmp_path / name, "it"):
            pytest.fail("both hold it")
