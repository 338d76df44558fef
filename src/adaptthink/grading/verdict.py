"""The records of grading: kinds of answer, verdicts, rules and grades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from adaptthink.errors import UserError


class AnswerKind(StrEnum):
    """How an answer is compared with its reference answer."""

    MATH = "math"
    CHOICE = "choice"  # the reference answer is the letter of an option
    REASONING_GYM = "reasoning_gym"  # it is the JSON of a reasoning-gym entry, scored by its own family


class Verdict(StrEnum):
    r"""The outcome of grading a response.

    >>> import adaptthink as at
    >>> at.grade(r"\boxed{5}", "4").verdict is at.Verdict.WRONG
    True
    """

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # there is an answer, but it could not be found or parsed
    TRUNCATED = "truncated"  # the response reached max_tokens before its end
    UNCLOSED = "unclosed"  # the response ended by itself, inside its thinking
    TIMEOUT = "timeout"  # the comparison used up its processor time
    ERROR = "error"  # the comparison failed, for example for lack of memory
    UNKNOWN = "unknown"  # grading was cut off by something else than the answer; another try may succeed
    REFERENCE_UNPARSABLE = "reference_unparsable"  # no response to the problem can be graded

    @property
    def has_reward(self) -> bool:
        """Whether it says something about the response; one that does not is neither right nor wrong."""
        return self not in (Verdict.UNKNOWN, Verdict.REFERENCE_UNPARSABLE)


FAILED = (Verdict.TIMEOUT, Verdict.ERROR, Verdict.UNKNOWN)  # what `max_failed_grades` bounds


class Rule(StrEnum):
    """Which rule decided a grade."""

    EXACT = "exact"  # the same text, up to notation
    NUMBER = "number"  # two numbers, compared exactly
    STRUCTURE = "structure"  # tuples, sets, intervals, matrices: compared part by part
    WORDS = "words"  # answers in words, compared as text
    SYMBOLIC = "symbolic"  # math-verify
    CHOICE = "choice"  # the letter of an option
    SCORER = "scorer"  # the scorer that belongs to a reasoning-gym family
    REWARD = "reward"  # a reward function of the user's own
    FORM = "form"  # never compared: truncated, unclosed, no answer found, no parsable reference


@dataclass(frozen=True, slots=True)
class Grade:
    r"""One graded response.

    >>> import adaptthink as at
    >>> grade = at.grade(r"it is \boxed{4}", "4")
    >>> grade.extracted, grade.reward
    ('4', 1.0)
    """

    verdict: Verdict
    extracted: str | None  # the answer as written in the response
    rule: Rule
    own_reward: float | None = None  # what a reward function of the user's own returned as a number

    @property
    def reward(self) -> float:
        """R(x, y), or the number from a reward function; raises ValueError for a verdict without a reward."""
        return compute_reward(self.verdict) if self.own_reward is None else self.own_reward


def compute_reward(verdict: Verdict) -> float:
    """Return R(x, y) of the paper: 1 for a correct answer, else 0; raises ValueError for a verdict without a reward."""
    if verdict is Verdict.REFERENCE_UNPARSABLE:
        raise ValueError("a problem whose reference answer cannot be parsed has no reward; leave it out")
    if verdict is Verdict.UNKNOWN:
        raise ValueError("a response that could not be graded has no reward; leave it out")
    return 1.0 if verdict is Verdict.CORRECT else 0.0


def compute_mean_reward(verdicts: Iterable[Verdict]) -> float | None:
    """Return the mean reward of what could be graded; None if nothing could."""
    total, count = 0.0, 0
    for verdict in verdicts:
        if verdict.has_reward:
            total, count = total + compute_reward(verdict), count + 1
    return total / count if count else None


def compute_failed_share(verdicts: Iterable[Verdict]) -> float:
    """Return the share of verdicts that are TIMEOUT, ERROR or UNKNOWN, in [0, 1]; 0 if there are none."""
    failed = [verdict in FAILED for verdict in verdicts]
    return sum(failed) / len(failed) if failed else 0.0


def check_failed_grades(verdicts: Iterable[Verdict], limit: float, *, where: str = "") -> None:
    """Raise UserError if TIMEOUT, ERROR and UNKNOWN make up more than `limit` of the verdicts.

    `where` begins the message, such as "step 3: ".
    """
    counts = Counter(verdicts)
    share = compute_failed_share(counts.elements())
    if share > limit:
        listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in FAILED if counts[verdict])
        again = "run the command again, which grades the unknown ones again, " if counts[Verdict.UNKNOWN] else ""
        slow = counts[Verdict.TIMEOUT] or counts[Verdict.UNKNOWN]
        longer = "raise grading_seconds (reward_seconds for a reward function of your own), " if slow else ""
        raise UserError(
            f"{where}grading timed out or failed on {share:.1%} of the last responses ({listed} of {counts.total()}), "
            f"more than max_failed_grades = {limit:g}; {again}{longer}or raise max_failed_grades: timeouts and errors "
            "count as wrong, unknown ones nowhere"
        )
