"""A second look: a doubtful direct answer is followed by a thought after all, and the tokens of both are paid.

Doubtful is what a server can see without a reference answer: no answer was found in the text, it reached its token
limit, or it has words of second thoughts (`grading.implicit_thinking`). Its log-probability would be another sign, but
evaluation folders do not store it. Forced samples of both modes give the curve: nothing is sampled for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path

from adaptthink.dial.curve import Measured, Point, compute_curve
from adaptthink.evaluation.scores import select_gradable
from adaptthink.evaluation.store import Outcome, read_samples
from adaptthink.grading import Verdict
from adaptthink.grading.extract import find_answer
from adaptthink.grading.implicit_thinking import KEYWORD
from adaptthink.modes import Mode

UNREADABLE = (Verdict.UNPARSED, Verdict.TRUNCATED, Verdict.UNCLOSED)


@dataclass(frozen=True, slots=True)
class SecondLook:
    """The dial's curve if doubtful direct answers are thought about."""

    doubtful: float  # share of the forced no_think samples, in [0, 1]
    right_among_doubtful: float | None  # how many of these were right; None if there are none
    curve: tuple[Point, ...]  # as the dial's


def is_doubtful(answer: str | None, *, finished: bool) -> bool:
    """Return whether a server thinks again about a direct answer; without a reference answer to know its form by."""
    return not finished or answer is None or find_answer(answer) is None or bool(KEYWORD.search(answer))


def measure_second_look(folder: Path, problems: Sequence[Measured], outcomes: Iterable[Outcome]) -> SecondLook:
    """Compute the curve with a second look; `problems` are what `measure` made of these outcomes of the folder."""
    worded = {
        one.key
        for one in read_samples(folder)
        if one.requested == Mode.NO_THINK and one.answer is not None and KEYWORD.search(one.answer)
    }
    direct = sorted(
        (one for one in select_gradable(outcomes) if one.requested == Mode.NO_THINK), key=lambda one: one.index
    )
    flags: dict[str, list[bool]] = {}
    for one in direct:
        flags.setdefault(one.problem_id, []).append(
            one.verdict in UNREADABLE or (one.problem_id, one.requested, one.index) in worded
        )
    return look_again(problems, flags)


def look_again(problems: Sequence[Measured], doubtful: Mapping[str, Sequence[bool]]) -> SecondLook:
    """Compute the curve with a thought after each direct answer that is `doubtful`, by problem and sample.

    A second answer is any of the problem's thoughts, so it counts with their mean; its tokens come on top.
    """
    flagged = [
        correct
        for problem in problems
        for correct, doubt in zip(problem.no_think_correct, doubtful[problem.problem_id], strict=True)
        if doubt
    ]
    number = sum(len(problem.no_think_correct) for problem in problems)
    return SecondLook(
        doubtful=len(flagged) / number,
        right_among_doubtful=fsum(flagged) / len(flagged) if flagged else None,
        curve=compute_curve([think_again(problem, doubtful[problem.problem_id]) for problem in problems]),
    )


def think_again(problem: Measured, doubtful: Sequence[bool]) -> Measured:
    """Return a problem whose doubtful direct answers are followed by a thought."""
    correct = fsum(problem.think_correct) / len(problem.think_correct)
    tokens = fsum(problem.think_tokens) / len(problem.think_tokens)
    return replace(
        problem,
        no_think_correct=tuple(
            correct if doubt else own for own, doubt in zip(problem.no_think_correct, doubtful, strict=True)
        ),
        no_think_tokens=tuple(
            own + tokens if doubt else own for own, doubt in zip(problem.no_think_tokens, doubtful, strict=True)
        ),
        max_tokens=2 * problem.max_tokens,
    )
