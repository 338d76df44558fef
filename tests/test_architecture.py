"""The floors of the house: a module imports from its own floor and from those below, never upward."""

import ast
from pathlib import Path

import pytest

import adaptthink

SOURCE = Path(adaptthink.__file__).parent
FLOORS = {
    0: {
        "errors",
        "objective",
        "modes",
        "tasks",
        "grading",
        "config",
        "runs",
        "phases",
        "statistics",
        "web",
        "implicit",
        "hardware",
        "locks",
    },
    1: {"engines", "chat", "models", "roofline", "architecture"},
    2: {
        "rollout",
        "reference",
        "samples",
        "evaluate",
        "allocation",
        "compare",
        "quality",
        "dial",
        "start",
        "answering",
        "plan",
        "step_metrics",
    },
    3: {"train", "model_card", "checkpoint", "reproduction", "serve", "integrations"},
    4: {
        "report",
        "screen",
        "sheets",
        "jobs",
        "data_jobs",
        "compare_jobs",
        "dial_jobs",
        "reproduce_jobs",
        "serve_job",
        "plan_job",
        "verl_job",
        "commands",
        "cli",
        "__main__",
    },
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms} | {"": 0}  # "": the package itself
FORBIDDEN = {  # beyond the floors
    "engines": {"modes", "tasks", "grading", "config"},
    "report": set(FLOOR_OF) - {"errors", "report"},
    "train": {"serve", "integrations"},
    "serve": {"train", "integrations"},
    "integrations": {"train", "serve"},
}


def room_of(module):
    """The room of a module by its dotted name: adaptthink.tasks.files is in tasks."""
    return module.removeprefix("adaptthink").lstrip(".").partition(".")[0]


def imported_modules(module, is_package, source):
    """Dotted names of everything of ours that `source` imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            names = [origin]
            if origin == "adaptthink":  # from adaptthink import cli
                names = [f"{origin}.{alias.name}" for alias in node.names if alias.name in FLOOR_OF]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "adaptthink")


def faults(module, source, *, is_package=False):
    """Say which imports of one module go upward or are otherwise forbidden."""
    room = room_of(module)
    if room not in FLOOR_OF:
        return [f"{module} is on no floor; add it to FLOORS"]
    found = []
    for name in imported_modules(module, is_package, source):
        other = room_of(name)
        if FLOOR_OF.get(other, 99) > FLOOR_OF[room] or other in FORBIDDEN.get(room, ()):
            found.append(f"{module} imports {name}")
    return found


def sources():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package


@pytest.mark.parametrize(("module", "source", "is_package"), [pytest.param(*row, id=row[0]) for row in sources()])
def test_no_import_goes_upward(module, source, is_package):
    assert faults(module, source, is_package=is_package) == []


def test_every_room_is_there():
    rooms = {room_of(module) for module, _, _ in sources()}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adaptthink.objective", "from adaptthink.rollout import Rollout"),
        ("adaptthink.objective", "import adaptthink.train"),
        ("adaptthink.objective", "import math, adaptthink.engines.base as base"),
        ("adaptthink.config", "from adaptthink import cli"),
        ("adaptthink.config", "def f():\n    from adaptthink.jobs import train_job"),
        ("adaptthink.modes", "if TYPE_CHECKING:\n    from adaptthink.models import Policy"),
        ("adaptthink.tasks.files", "from ..rollout import draw"),
        ("adaptthink.tasks.files", "from .. import rollout"),
        ("adaptthink.models", "from adaptthink.reference import presample"),
        ("adaptthink.rollout", "from adaptthink.train import train"),
        ("adaptthink.train", "from adaptthink.report import write_report"),
        ("adaptthink.train", "import adaptthink.jobs"),
        ("adaptthink.train", "from adaptthink.cli import app"),
        ("adaptthink.engines.native", "from adaptthink.modes import Mode"),
        ("adaptthink.engines.native", "from adaptthink.config import TrainConfig"),
        ("adaptthink.report.tables", "from adaptthink.evaluate import Scores"),
        ("adaptthink.report.tables", "from adaptthink.runs import write_json"),
        ("adaptthink.train", "import adaptthink.nowhere"),
    ],
)
def test_the_checker_catches_an_injected_import(module, source):
    assert len(faults(module, f'"""Doc."""\n{source}\n')) == 1


def test_the_checker_catches_relative_imports_of_a_package():
    assert faults("adaptthink.tasks", "from ..train import train", is_package=True)
    assert faults("adaptthink.tasks", "from .arithmetic import Chain", is_package=True) == []


def test_the_checker_catches_a_module_without_a_floor():
    assert faults("adaptthink.attic", "") == ["adaptthink.attic is on no floor; add it to FLOORS"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "adaptthink.train",
            "from adaptthink.rollout import collect\nfrom adaptthink.checkpoint import save_checkpoint",
        ),
        ("adaptthink.engines.native", "from adaptthink.engines.base import Engine\nfrom adaptthink.objective import x"),
        ("adaptthink.report.tables", "from adaptthink.errors import UserError\nfrom .folder import RunFolder"),
        ("adaptthink.cli", "from adaptthink import __version__\nimport torch"),
    ],
)
def test_the_checker_lets_good_imports_pass(module, source):
    assert faults(module, source) == []
