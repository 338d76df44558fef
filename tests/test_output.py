"""Standard output that fails: the work goes on, and the status tells where the result was on it."""

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import WAIT_SECONDS

WORK = """
import sys
from pathlib import Path
from adaptthink.cli.output import outlasting_output
with outlasting_output() as out:
    for _ in range(9):
        print("x" * 9999, flush=True)
        print("x" * 9999, file=sys.stderr, flush=True)
    Path("done").write_text(type(out.fault).__name__ if out else "closed")
"""
FULL = Path("/dev/full")


def work(folder, shell):
    command = ["sh", "-c", shell, "sh", sys.executable, WORK]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    return done, (folder / "done").read_text()


def test_a_closed_pipe_ends_nothing(tmp_path):
    done, fault = work(tmp_path, '{ "$1" -c "$2" 2>&1; echo $? > status; } | true')
    assert (tmp_path / "status").read_text() == "0\n"
    assert (done.stderr, fault) == ("", "BrokenPipeError")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_ends_nothing(tmp_path):
    done, fault = work(tmp_path, '"$1" -c "$2" > /dev/full 2> /dev/full')
    assert (done.returncode, fault) == (0, "OSError")


def test_output_that_was_closed_before_the_start(tmp_path):
    done, fault = work(tmp_path, '"$1" -c "$2" >&- 2>&-')
    assert (done.returncode, fault) == (0, "closed")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_result_that_was_lost_with_the_output_is_no_success(tmp_path):
    with FULL.open("w") as out:
        command = [sys.executable, "-m", "adaptthink", "--version"]
        done = subprocess.run(command, cwd=tmp_path, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "adaptthink: standard output: No space left on device; the result is lost\n"
