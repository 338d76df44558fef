r"""Grade answers: a `Verdict`, not a number, from a cascade of rules of which most answers need only the first ones.

Same text up to notation → exact numbers → structures part by part → math-verify, in workers that can be killed. The
letters of multiple choice and the scorers of reasoning-gym have rules of their own. Everything here may be called from
any thread (`asyncio.to_thread` in async code) and from any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from adaptthink.errors import UserError
from adaptthink.grading.choice import find_letter, read_reference_letter
from adaptthink.grading.compare import compare, find_leaves
from adaptthink.grading.extract import (
    count_boxes,
    drop_thinking,
    find_answer,
    find_boxed,
    find_last_boxed,
    find_reference_answer,
    find_tagged_answer,
    says_nothing,
)
from adaptthink.grading.notation import MAX_ANSWER
from adaptthink.grading.pool import PATIENCE, BreakdownError, Limits, LostError, OverrunError, get_pool
from adaptthink.grading.verdict import (
    AnswerKind,
    Grade,
    Rule,
    Verdict,
    check_failed_grades,
    compute_failed_share,
    compute_mean_reward,
    compute_reward,
)

__all__ = [
    "AnswerKind",
    "Grade",
    "Limits",
    "Rule",
    "Submission",
    "Verdict",
    "check_failed_grades",
    "compute_failed_share",
    "compute_mean_reward",
    "compute_reward",
    "drop_thinking",
    "find_last_boxed",
    "find_parsable",
    "grade",
    "grade_all",
]  # fmt: skip

FULL_SCORE = 1 - 1e-9  # of a reasoning-gym scorer


@dataclass(frozen=True, slots=True)
class Submission:
    """One answer to grade, with its reference answer."""

    answer: str | None  # the response without its thinking (`drop_thinking`); None if it has no answer
    reference_answer: str
    kind: AnswerKind = AnswerKind.MATH
    boxed_only: bool = False  # an answer outside of a box (or of the tags of reasoning-gym) counts as none
    finished: bool = False  # the response ended by itself: without an answer it never closed its thinking


@dataclass(frozen=True, slots=True)
class Task:
    """A submission that the fast rules leave to a worker."""

    arguments: tuple[str, ...]
    extracted: str


def grade(
    answer: str | None, reference_answer: str, kind: AnswerKind = AnswerKind.MATH, *, limits: Limits | None = None
) -> Grade:
    """Return the grade of one answer; takes at most `limits.seconds` of a processor, once the workers have started."""
    return grade_all([Submission(answer, reference_answer, kind)], limits=limits)[0]


def grade_all(
    submissions: Iterable[Submission], *, limits: Limits | None = None, on_finish: Callable[[int], None] | None = None
) -> list[Grade]:
    """Return the grades of many answers, in order; those that need a worker share all workers of the pool.

    Submissions are taken as they come; `on_finish` is called with 1 after each grade, from any thread.
    """
    chosen = limits or Limits()

    def work(task: Task) -> Grade:
        result = grade_slow(task, chosen)
        if on_finish:
            on_finish(1)
        return result

    def begin(threads: ThreadPoolExecutor, submission: Submission) -> Grade | Future[Grade]:
        outcome = grade_fast(submission)
        if isinstance(outcome, Task):
            return threads.submit(work, outcome)
        if on_finish:
            on_finish(1)
        return outcome

    with ThreadPoolExecutor(chosen.workers) as threads:
        begun = [begin(threads, submission) for submission in submissions]
        return [one if isinstance(one, Grade) else one.result() for one in begun]


def grade_fast(submission: Submission) -> Grade | Task:
    """Return a grade without sympy, or else the task for a worker."""
    answer, reference_answer, kind = submission.answer, submission.reference_answer, submission.kind
    if check_reference(reference_answer, kind) is False:
        return Grade(Verdict.REFERENCE_UNPARSABLE, None, Rule.FORM)
    if answer is None:
        return Grade(Verdict.UNCLOSED if submission.finished else Verdict.TRUNCATED, None, Rule.FORM)
    if submission.boxed_only and not has_box(answer):
        return Grade(Verdict.UNPARSED, None, Rule.FORM)
    if kind is AnswerKind.CHOICE:
        letter = find_letter(answer)
        if letter is None:
            return Grade(Verdict.UNPARSED, None, Rule.FORM)
        return Grade(_verdict(letter == read_reference_letter(reference_answer)), letter, Rule.CHOICE)
    found = find_tagged_answer(answer) if kind is AnswerKind.REASONING_GYM else None
    if kind is AnswerKind.MATH and not submission.boxed_only and answer.strip() == reference_answer.strip():
        return Grade(Verdict.CORRECT, answer.strip()[:MAX_ANSWER], Rule.EXACT)
    found = found or find_answer(answer, count_boxes(reference_answer))
    if not found:
        return Grade(Verdict.UNPARSED, None, Rule.FORM)
    if kind is AnswerKind.REASONING_GYM:
        return Task(("score", found, reference_answer), found)
    boxed = find_boxed(answer) if found != answer else []
    reference_answer = find_reference_answer(reference_answer)
    try:
        if len(boxed) > 1 and all(compare(one, reference_answer).same for one in boxed):
            found = boxed[-1]  # one value in several forms
        result = compare(found, reference_answer)
    except ValueError:
        return Grade(Verdict.UNPARSED, found[:MAX_ANSWER], Rule.FORM)
    if result.same is None:
        return Task(("judge", found, reference_answer), found)
    return Grade(_verdict(result.same), found, result.rule)


def has_box(answer: str) -> bool:
    """Return whether a text has an answer in a box, or in the tags that reasoning-gym's prompts require."""
    return find_last_boxed(answer) is not None or find_tagged_answer(answer) is not None


def grade_slow(task: Task, limits: Limits) -> Grade:
    """Return the grade of a task, by a worker."""
    try:
        reply = perform(limits, *task.arguments)
    except OverrunError:
        return Grade(Verdict.TIMEOUT, task.extracted, Rule.SYMBOLIC)
    except BreakdownError:
        return Grade(Verdict.ERROR, task.extracted, Rule.SYMBOLIC)
    except LostError:
        return Grade(Verdict.UNKNOWN, task.extracted, Rule.SYMBOLIC)
    if task.arguments[0] == "score":
        return Grade(_verdict(float(reply[0]) >= FULL_SCORE), task.extracted, Rule.SCORER)
    return Grade(Verdict(reply[0]), task.extracted, Rule(reply[1]))


@lru_cache(maxsize=65_536)
def perform(limits: Limits, *task: str) -> tuple[str, ...]:
    """Return a worker's reply to a task. Replies are cached, as the samples of a problem often have the same answer.

    Failures are not cached: raises OverrunError, BreakdownError or LostError.
    """
    reply = get_pool(limits).perform(*task)
    if reply[0] == "error":
        raise BreakdownError(reply[1])
    return tuple(reply)


@lru_cache(maxsize=65_536)
def check_reference(reference_answer: str, kind: AnswerKind) -> bool | None:
    """Return whether a reference answer can be parsed; None if only a worker with sympy can decide that."""
    if kind is AnswerKind.CHOICE:
        return read_reference_letter(reference_answer) is not None
    if kind is AnswerKind.REASONING_GYM:
        return None if reference_answer.strip() else False
    if says_nothing(reference_answer):
        return False
    try:
        return None if find_leaves(find_reference_answer(reference_answer)) else True
    except ValueError:
        return False


def find_parsable(reference_answers: Sequence[tuple[str, AnswerKind]], *, limits: Limits | None = None) -> list[bool]:
    """Return for each reference answer whether it can be parsed, that is whether responses can be graded.

    One whose parsing uses up its processor time or memory cannot. Raises UserError if one could not be checked: a set
    of problems must not depend on what happens to a worker.
    """
    chosen = limits or Limits()
    statuses = [check_reference(reference_answer, kind) for reference_answer, kind in reference_answers]
    undecided = [item for item, status in zip(reference_answers, statuses, strict=True) if status is None]
    if not undecided:
        return [bool(status) for status in statuses]

    def is_parsable(item: tuple[str, AnswerKind]) -> bool:
        reference_answer, kind = item
        task = (
            ("parsable", find_reference_answer(reference_answer))
            if kind is AnswerKind.MATH
            else ("score_reference", reference_answer)
        )
        try:
            return perform(chosen, *task)[0] == "yes"
        except (OverrunError, BreakdownError):
            return False
        except LostError as error:
            raise UserError(
                f"the reference answer {reference_answer[:60]!r} could not be checked in {len(PATIENCE)} tries "
                f"({error}); is the machine out of memory? Run the command again: no problem is left out for this"
            ) from None

    with ThreadPoolExecutor(chosen.workers) as threads:
        found = threads.map(is_parsable, undecided)
        return [next(found) if status is None else status for status in statuses]


def _verdict(same: bool) -> Verdict:
    return Verdict.CORRECT if same else Verdict.WRONG
