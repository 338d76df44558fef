"""Who grades a response: the comparison with the problem's reference answer, or a reward function of the user's own.

Pre-sampling, training, evaluation, verl and TRL all grade by the `Grader` that their sampler has.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from adaptthink.config.schema import ProblemsConfig
from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind, Grade, Limits, Rule, Submission, Verdict, grade_all
from adaptthink.grading.identity import describe_grader
from adaptthink.problems import Problem
from adaptthink.sampling.reading import Response

Graded = tuple[Problem, Response]  # what is graded
OnGraded = Callable[[int], None]  # called with how many more are graded
Reward = float | bool | Verdict | Grade
RewardFunction = Callable[[Problem, Response], Reward | Awaitable[Reward]]

CORRECT_FROM = 0.5  # own rewards from here on are reported as correct answers
CONCURRENT = 16  # calls of a reward function at a time
TRIES = 3  # of a call that takes too long or raises

logger = logging.getLogger(__name__)


class Grader(Protocol):
    """Grades responses, in order and as they come; may be called from any thread."""

    def describe(self, kinds: Collection[AnswerKind]) -> dict[str, Any]:
        """Return what grades of such kinds of answers depend on besides the response; kept beside stored grades."""
        ...

    def grade(self, responses: Iterable[Graded], *, on_graded: OnGraded | None = None) -> list[Grade]:
        """Return the grade of each response."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerGrader:
    """Compares the answer with the reference answer, by the problem's kind of answer (`grading`)."""

    limits: Limits = field(default_factory=Limits)
    boxed_only: bool = True

    def describe(self, kinds: Collection[AnswerKind]) -> dict[str, Any]:
        """Return the version of the rules, the settings, and the libraries that decide on these kinds."""
        return asdict(describe_grader(kinds, boxed_only=self.boxed_only, seconds=self.limits.seconds))

    def grade(self, responses: Iterable[Graded], *, on_graded: OnGraded | None = None) -> list[Grade]:
        """Return the grade of each response; one that was cut has no answer."""
        submissions = (
            Submission(response.final_answer, problem.answer, problem.kind, self.boxed_only, finished=response.finished)
            for problem, response in responses
        )
        return grade_all(submissions, limits=self.limits, on_finish=on_graded)


@dataclass(frozen=True, slots=True)
class RewardGrader:
    """Calls a reward function, which may be async, with a time-out of `seconds` for each response.

    It returns a number from 0 (wrong) to 1 (right), a bool, a `Verdict` or a `Grade`. It is not called for a response
    without an answer: that is `Verdict.TRUNCATED` or `Verdict.UNCLOSED`, reward 0. A call that takes too long or raises
    is tried again, `TRIES` times in all, and then is `Verdict.UNKNOWN`, without a reward: a judge that cannot be
    reached says nothing about the response. Raises UserError if the function returns anything else.
    """

    function: RewardFunction
    seconds: float = 10.0

    @property
    def name(self) -> str:
        """The function, as `module:function`."""
        function = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{function.__module__}:{function.__qualname__}"

    def describe(self, kinds: Collection[AnswerKind]) -> dict[str, Any]:
        """Return the function's name and the time-out; a function that changes should change its name."""
        return {"reward": self.name, "seconds": self.seconds}

    def grade(self, responses: Iterable[Graded], *, on_graded: OnGraded | None = None) -> list[Grade]:
        """Return the grade of each response."""

        def work(problem: Problem, response: Response) -> Grade:
            grade = self._grade_one(problem, response)
            if on_graded:
                on_graded(1)
            return grade

        with ThreadPoolExecutor(CONCURRENT) as threads:
            pending = [threads.submit(work, *pair) for pair in responses]
            return [one.result() for one in pending]

    def _grade_one(self, problem: Problem, response: Response) -> Grade:
        if response.final_answer is None:
            return Grade(Verdict.UNCLOSED if response.finished else Verdict.TRUNCATED, None, Rule.FORM)
        fault: Exception | None = None
        for _ in range(TRIES):
            result = self._call(problem, response)
            if not isinstance(result, Exception):
                return self._read(result)
            fault = result
        logger.warning("%s failed on problem %s", self.name, problem.id, exc_info=fault)
        return Grade(Verdict.UNKNOWN, None, Rule.REWARD)

    def _call(self, problem: Problem, response: Response) -> Reward | Exception:
        """Return what the function returned or raised; TimeoutError if it takes too long."""
        results: list[Reward | Exception] = []

        def call() -> None:
            try:
                result = self.function(problem, response)
                results.append(asyncio.run(wait_for(result)) if inspect.isawaitable(result) else result)
            except Exception as error:  # noqa: BLE001  (a user's code may raise anything)
                results.append(error)

        # A thread of its own for each call, as one that never returns cannot be stopped, only left behind.
        thread = Thread(target=call, daemon=True, name="adaptthink-reward")
        thread.start()
        thread.join(self.seconds)
        return results[0] if results else TimeoutError(f"no result within reward_seconds = {self.seconds:g}")

    def _read(self, result: Reward) -> Grade:
        if isinstance(result, Grade):
            return result
        if isinstance(result, Verdict):
            return Grade(result, None, Rule.REWARD)
        try:
            value = float(result)
        except (TypeError, ValueError):
            value = math.nan
        if isinstance(result, str) or not 0 <= value <= 1:  # NaN is not
            raise UserError(
                f"the reward function {self.name} returned {result!r}; return a number from 0 to 1, a bool or a Verdict"
            )
        return Grade(Verdict.CORRECT if value >= CORRECT_FROM else Verdict.WRONG, None, Rule.REWARD, value)


async def wait_for(result: Awaitable[Reward]) -> Reward:
    """Await a reward, as `asyncio.run` takes coroutines only."""
    return await result


def make_grader(config: ProblemsConfig, *, workers: int | None = None) -> Grader:
    """Return the grader that a config describes, with so many worker processes of its own.

    Raises UserError if its reward function cannot be imported.
    """
    if config.reward:
        return RewardGrader(load_reward(config.reward), config.reward_seconds)
    limits = Limits(config.grading_seconds) if workers is None else Limits(config.grading_seconds, workers=workers)
    return AnswerGrader(limits, config.boxed_only)


def load_reward(name: str) -> RewardFunction:
    """Import a reward function given as `module:function`, also from the current folder; UserError if there is none."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise UserError(f"reward = '{name}' names no function; give MODULE:FUNCTION, such as my_rewards:score")
    here = str(Path.cwd())  # where a script's own modules lie, but not those of an installed command
    if here not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(import_module(module_name), attribute)
    except ImportError as error:
        raise UserError(f"reward = '{name}': cannot import {module_name} ({error}); is it on PYTHONPATH?") from None
    except AttributeError:
        raise UserError(f"reward = '{name}': the module {module_name} has no {attribute}") from None
    if not callable(function):
        raise UserError(f"reward = '{name}' is no function, but {type(function).__name__}")
    return function
