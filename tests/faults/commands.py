"""The commands that the fault tests disturb, as a user gives them, in miniature; and what their folders hold.

An undisturbed command is a program of its own. The others, some hundreds, are forked from a process that has imported
the libraries already, and most of their reports have blank pictures: each would need seconds for that, in which nothing
can be lost.
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from waiting import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
LOGS = tempfile.TemporaryDirectory(prefix="adaptthink-logs-")  # what the commands print
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("adaptthink.cli.app", "adaptthink.cli.jobs", "adaptthink.api", "adaptthink.report"),
        "transformers.models.qwen2.modeling_qwen2",
    ]
)
SHORT = ("--max-think-tokens", "48")
TRAINING = (
    *("--steps", "6", "--problems-per-step", "8", "--problems-per-level", "20", "--seed", "3", *SHORT),
    *("--checkpoint-every", "2", "--probe-every", "3", "--probe-samples", "1"),
)
TIMES = re.compile(
    r"seconds|per_second$|_at$|^(started|attempts|peak_memory_mb|date|command|git_commit|version|metrics\.json)$"
)
TIMED = {"report.html", "report.md", "metrics.json", "timings.jsonl"}  # say seconds, or have digests of what does


@dataclass(frozen=True, slots=True)
class Case:
    """One command: its arguments before and after the folder, and those of every attempt after the first."""

    name: str
    arguments: tuple[str, ...]
    flag: str = "--output"
    later: tuple[str, ...] = ()

    def list_words(self, folder: Path, *, again: bool) -> list[str]:
        """Return the arguments; `again` for an attempt that goes on with what is in the folder."""
        path = folder / "store.jsonl" if self.name == "presample" else folder / "out"
        return [*self.arguments, self.flag, str(path), *(self.later if again else ())]


RECIPE = ROOT / "tests" / "faults" / "small.toml"
CASES = {
    case.name: case
    for case in (
        Case(  # few at once, so that rows are stored on the way
            "presample",
            (
                *("presample", "toy_cpu", "--problems-per-level", "16", "--all-problems", *SHORT),
                *("--max-concurrent-sequences", "16"),
            ),
        ),
        Case("train", ("train", "toy_cpu", *TRAINING), later=("--resume",)),
        Case("evaluate", ("evaluate", "tiny", "--problems-per-level", "12", "--samples-per-problem", "2", *SHORT)),
        Case("calibrate", ("calibrate", "tiny", "--problems-per-level", "12", "--tolerance", "20")),
        Case("run", ("demo", "--recipe", "toy_cpu", str(RECIPE)), later=("--resume",)),
    )
}


def run_alone(words: list[str]) -> None:
    """Run a command to its end as a program of its own."""
    command, environment = [sys.executable, "-m", "adaptthink", *words], os.environ | ENVIRONMENT
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@dataclass(frozen=True, slots=True)
class Started:
    """A command that runs in a forked process, as the head of its own process group."""

    process: BaseProcess
    log: Path

    def wait(self, seconds: float = WAIT_SECONDS) -> int | None:
        """Wait for the end; return the status, None if it still runs."""
        self.process.join(seconds)
        return self.process.exitcode

    def read_output(self) -> str:
        """Return what the command printed so far, both streams."""
        return self.log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """Kill the process and those that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # not yet a group, or gone
            self.process.kill()
        self.process.join()


def start(words: list[str], fault: str | None = None, *, draws: bool = False) -> Started:
    """Start a command; with a fault, `KIND@NUMBER` of inject.py, that disturbs it; with pictures only if it `draws`."""
    handle, name = tempfile.mkstemp(dir=LOGS.name)
    os.close(handle)
    log = Path(name)
    arguments = words, log, fault, draws
    process = FORKS.Process(target=run_forked, args=arguments, daemon=True)  # ends with a test that fails
    process.start()
    return Started(process, log)


def run_forked(words: list[str], log: Path, fault: str | None, draws: bool) -> None:
    """Be the program, in the forked process."""
    os.setpgid(0, 0)
    os.environ.update(ENVIRONMENT)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if not draws:
        from adaptthink import report

        report.draw_picture = lambda plot: report.Picture(plot, "", b"", b"", bytes(24))
    if fault:
        from inject import inject

        inject(fault, words)
    from adaptthink.cli.app import main

    sys.argv = ["adaptthink", *words]
    main()


def read_tree(folder: Path) -> dict[str, object]:
    """Return the content of every file in a folder, by its path, without times."""
    return {
        str(path.relative_to(folder)): read_content(path, folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in TIMED and path.suffix != ".lock"
    }


def read_content(path: Path, root: Path) -> object:
    """Return a file's bytes; of JSON what it says, without times and where it lies."""
    if path.suffix == ".json":
        return drop_times(json.loads(path.read_text(encoding="utf-8").replace(str(root), "")))
    if path.suffix == ".jsonl":
        return [drop_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return path.read_bytes()


def drop_times(value: object) -> object:
    """Return JSON without what differs between two runs that are the same."""
    if isinstance(value, dict):
        return {key: drop_times(one) for key, one in value.items() if not TIMES.search(key)}
    return [drop_times(one) for one in value] if isinstance(value, list) else value


def name_differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """Return the paths whose content is not as it should be."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
