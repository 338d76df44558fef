"""Which grader gave a verdict: a record that is kept with the verdicts; equal records give equal verdicts.

The rules have a version, which is raised by hand whenever a verdict changes; tests/test_grader_version.py holds golden
verdicts that say when. Of the libraries count those that decide on answers of the kinds that were graded: whether
reasoning-gym is installed changes nothing about mathematics.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from adaptthink.grading.verdict import AnswerKind

GRADER_VERSION = 4
# 1: the rules of docs/explanation/grading.md, with math-verify where they leave a formula open
# 2: equations, inequalities, complex numbers and matrices by value; names, case and primes count; a list of units;
#    a response that ended by itself inside its thinking is unclosed, not truncated
# 3: tautologies, prefixed numbers, nested sets, elements of named sets, decimals with an ellipsis, the case of formulas
# 4: "(0,\! 100)" is a pair, as no number begins with a group of 0
#    and of units, quantities in several units

LIBRARIES = {
    AnswerKind.MATH: ("math-verify", "latex2sympy2_extended", "sympy"),
    AnswerKind.CHOICE: (),
    AnswerKind.REASONING_GYM: ("reasoning-gym",),
}


@dataclass(frozen=True, slots=True)
class GraderRecord:
    """What verdicts depend on, beside response and reference answer."""

    version: int  # of the rules
    boxed_only: bool
    seconds: float  # until the comparison of one answer is stopped
    libraries: dict[str, str]  # that decide what is equal: name -> version


def describe_grader(kinds: Collection[AnswerKind], *, boxed_only: bool, seconds: float) -> GraderRecord:
    """Return the grader that this process is for answers of some kinds."""
    libraries = {name: installed(name) for kind in AnswerKind if kind in kinds for name in LIBRARIES[kind]}
    return GraderRecord(GRADER_VERSION, boxed_only, seconds, libraries)


def installed(library: str) -> str:
    """The version of a library, or "none"."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
