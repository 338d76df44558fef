"""The commands that the fault tests disturb, as a user gives them, in miniature; and what their folders hold."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "adaptthink")
TRAINING = (
    *("--steps", "6", "--problems-per-step", "8", "--problems-per-level", "20", "--seed", "3"),
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
        """Return the command line; `again` for an attempt that goes on with what is in the folder."""
        path = folder / "store.jsonl" if self.name == "presample" else folder / "out"
        return [*PROGRAM, *self.arguments, self.flag, str(path), *(self.later if again else ())]


RECIPE = ROOT / "tests" / "faults" / "small.toml"
CASES = {
    case.name: case
    for case in (
        Case(  # few at once, so that rows are stored on the way
            "presample",
            (
                *("presample", "toy_cpu", "--problems-per-level", "40", "--all-problems"),
                *("--max-concurrent-sequences", "16"),
            ),
        ),
        Case("train", ("train", "toy_cpu", *TRAINING), later=("--resume",)),
        Case("evaluate", ("evaluate", "tiny", "--problems-per-level", "12", "--samples-per-problem", "2")),
        Case("calibrate", ("calibrate", "tiny", "--problems-per-level", "12", "--tolerance", "20")),
        Case("run", ("demo", "--recipe", "toy_cpu", str(RECIPE)), later=("--resume",)),
    )
}


def start(words, **options) -> subprocess.Popen:
    """Start a command with its output in one pipe, as the head of its own process group."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0, **options
    )


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
