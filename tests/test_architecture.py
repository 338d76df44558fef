"""The layers of the package: a subpackage imports from the layers below its own, never sideways, never upward."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import adaptthink

SOURCE = Path(adaptthink.__file__).parent
LAYERS = (  # from the bottom to the top
    {"", "errors", "processes", "ratio", "timing"},  # "": the package itself
    {"callbacks", "objective", "storage"},  # storage: files of any content; it knows nothing of what is stored
    {"config", "grading", "modes"},
    {"engines", "problems"},
    {"chat", "models"},
    {"planning", "sampling"},
    {"evaluation", "training"},
    {"dial", "reproduction"},
    {"benchmark", "serving"},
    {"report"},
    {"api", "integrations"},
    {"cli", "__main__"},
)
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
FORBIDDEN = {  # beyond the layers
    "engines": {"modes", "grading", "config"},  # they know tokens only
    "__main__": set(LAYER_OF) - {"cli"},
}
TOP = 12  # modules and other files that may lie beside the subpackages


def subpackage_of(module):
    """The part of the package that a module is in: adaptthink.problems.files is in problems."""
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
                names = [f"{origin}.{alias.name}" for alias in node.names if alias.name in LAYER_OF]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "adaptthink")


def faults(module, source, *, is_package=False):
    """Say which imports of one module go upward, sideways, or are otherwise forbidden."""
    own = subpackage_of(module)
    if own == "":
        return []  # the package itself names everything public, for type checkers alone (tests/test_api.py)
    if own not in LAYER_OF:
        return [f"{module} is in no layer; add it to LAYERS"]
    found = []
    for name in imported_modules(module, is_package, source):
        other = subpackage_of(name)
        below = other == own or LAYER_OF.get(other, 99) < LAYER_OF[own] or (own, other) == ("__main__", "cli")
        if not below or other in FORBIDDEN.get(own, ()):
            found.append(f"{module} imports {name}")
    return found


def sources():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package


@pytest.mark.parametrize(("module", "source", "is_package"), [pytest.param(*row, id=row[0]) for row in sources()])
def test_imports_go_down_only(module, source, is_package):
    assert faults(module, source, is_package=is_package) == []


def test_every_subpackage_has_a_layer():
    found = {subpackage_of(module) for module, _, _ in sources()}
    assert found == set(LAYER_OF)


def test_few_files_lie_beside_the_subpackages():
    assert len([path for path in SOURCE.iterdir() if path.is_file()]) <= TOP


def test_no_circle_of_modules():
    graph = {}
    modules = {module for module, _, _ in sources()}
    for module, source, is_package in sources():
        named = imported_modules(module, is_package, at_the_top(source))
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in named} - {module}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle in it


def at_the_top(source):
    """The statements of a module that run when it is imported, as source; those for type checkers are not."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adaptthink.objective", "from adaptthink.sampling.sampler import Rollout"),
        ("adaptthink.objective", "import adaptthink.training.train"),
        ("adaptthink.objective", "import math, adaptthink.engines.base as base"),
        ("adaptthink.config.schema", "from adaptthink import cli"),
        ("adaptthink.config.schema", "def f():\n    from adaptthink.cli.jobs import train_job"),
        ("adaptthink.config.schema", "from adaptthink.grading import Verdict"),  # sideways
        ("adaptthink.modes", "if TYPE_CHECKING:\n    from adaptthink.models.loading import Policy"),
        ("adaptthink.problems.files", "from ..sampling.sampler import sample_rollouts"),
        ("adaptthink.problems.files", "from .. import sampling"),
        ("adaptthink.problems.files", "from adaptthink.engines.base import Engine"),  # sideways
        ("adaptthink.storage.runs", "from adaptthink.config.schema import HOW"),
        ("adaptthink.models.loading", "from adaptthink.training.reference import presample"),
        ("adaptthink.sampling.sampler", "from adaptthink.training.train import train"),
        ("adaptthink.sampling.sampler", "from adaptthink.planning.roofline import Machine"),  # sideways
        ("adaptthink.training.train", "from adaptthink.evaluation.run import summarise"),  # sideways
        ("adaptthink.training.train", "from adaptthink.report import write_report"),
        ("adaptthink.training.train", "import adaptthink.cli.jobs"),
        ("adaptthink.engines.native", "from adaptthink.modes import Mode"),
        ("adaptthink.engines.native", "from adaptthink.config.schema import TrainConfig"),
        ("adaptthink.report.tables", "from adaptthink.cli.console import console"),
        ("adaptthink.__main__", "from adaptthink.training.train import train"),
        ("adaptthink.training.train", "import adaptthink.nowhere"),
    ],
)
def test_the_checker_catches_an_injected_import(module, source):
    assert len(faults(module, f'"""Doc."""\n{source}\n')) == 1


def test_the_checker_catches_relative_imports_of_a_package():
    assert faults("adaptthink.problems", "from ..training.train import train", is_package=True)
    assert faults("adaptthink.problems", "from .arithmetic import Chain", is_package=True) == []


def test_the_checker_catches_a_module_without_a_layer():
    assert faults("adaptthink.attic", "") == ["adaptthink.attic is in no layer; add it to LAYERS"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adaptthink.training.train", "from adaptthink.sampling.sampler import Sampler"),
        ("adaptthink.training.train", "from adaptthink.training.checkpoint import save_checkpoint"),
        ("adaptthink.engines.native", "from adaptthink.engines.base import Engine\nfrom adaptthink.objective import x"),
        ("adaptthink.report.tables", "from adaptthink.errors import UserError\nfrom .folder import RunFolder"),
        ("adaptthink.cli.app", "from adaptthink import __version__\nimport torch"),
    ],
)
def test_the_checker_lets_good_imports_pass(module, source):
    assert faults(module, source) == []


def test_no_two_test_files_have_one_name():
    """They are modules of one name to pytest, which then collects neither where both can be imported."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_training_loop_is_short():
    """`train()` is read first: with its docstring at most 45 lines, and few parameters."""
    tree = ast.parse((SOURCE / "training" / "train.py").read_text(encoding="utf-8"))
    [train] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train"]
    assert train.end_lineno - train.lineno + 1 <= 45
    assert len(train.args.args) <= 6
