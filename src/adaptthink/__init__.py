"""AdaptThink: reasoning models learn when to think (arXiv 2505.13417).

>>> import adaptthink as at
>>> at.grade("the answer is 4", "4").verdict
<Verdict.CORRECT: 'correct'>

Everything in `__all__` is loaded when it is first used (PEP 562): importing this package loads neither torch nor
transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {  # where each public name lives
    "adaptthink.api": (
        "EvaluationResult", "Run", "calibrate", "compare", "decide", "doctor", "evaluate", "grade", "load",
        "load_problems", "make_traces", "presample", "score", "serve", "sft", "train",
    ),
    "adaptthink.callbacks": ("Callback", "Progress"),
    "adaptthink.dial.online": ("OnlineDial",),
    "adaptthink.engines.base": ("Completion", "Engine", "Finish", "Request"),
    "adaptthink.errors": ("UserError",),
    "adaptthink.grading": ("Grade", "Verdict"),
    "adaptthink.models.loading": ("Policy",),
    "adaptthink.modes": ("Mode",),
    "adaptthink.problems": ("Problem", "make_problem"),
    "adaptthink.sampling.reading": ("Response",),
}  # fmt: skip
_MODULES = {"trackers": "adaptthink.integrations.trackers"}

__all__ = [*sorted(name for names in _HOME.values() for name in names), "trackers"]  # noqa: PLE0604

if TYPE_CHECKING:
    from adaptthink.api import EvaluationResult as EvaluationResult
    from adaptthink.api import Run as Run
    from adaptthink.api import calibrate as calibrate
    from adaptthink.api import compare as compare
    from adaptthink.api import decide as decide
    from adaptthink.api import doctor as doctor
    from adaptthink.api import evaluate as evaluate
    from adaptthink.api import grade as grade
    from adaptthink.api import load as load
    from adaptthink.api import load_problems as load_problems
    from adaptthink.api import make_traces as make_traces
    from adaptthink.api import presample as presample
    from adaptthink.api import score as score
    from adaptthink.api import serve as serve
    from adaptthink.api import sft as sft
    from adaptthink.api import train as train
    from adaptthink.callbacks import Callback as Callback
    from adaptthink.callbacks import Progress as Progress
    from adaptthink.dial.online import OnlineDial as OnlineDial
    from adaptthink.engines.base import Completion as Completion
    from adaptthink.engines.base import Engine as Engine
    from adaptthink.engines.base import Finish as Finish
    from adaptthink.engines.base import Request as Request
    from adaptthink.errors import UserError as UserError
    from adaptthink.grading import Grade as Grade
    from adaptthink.grading import Verdict as Verdict
    from adaptthink.integrations import trackers as trackers
    from adaptthink.models.loading import Policy as Policy
    from adaptthink.modes import Mode as Mode
    from adaptthink.problems import Problem as Problem
    from adaptthink.problems import make_problem as make_problem
    from adaptthink.sampling.reading import Response as Response


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name in _MODULES:
        return import_module(_MODULES[name])
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'adaptthink' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return [*__all__, "__version__"]
