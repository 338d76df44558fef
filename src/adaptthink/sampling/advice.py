"""Advice where one verdict dominates: one line, from how many responses got each verdict.

Nothing can be measured or learnt from responses that fail for the same reason, which their mean reward does not show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from adaptthink.config.schema import MAX_FAILED_GRADES, EngineConfig, ProblemsConfig
from adaptthink.grading import Verdict
from adaptthink.modes import Mode

DOMINANT = 0.5  # share of the responses above which a verdict is named
NONE_CORRECT = 30  # responses from which on it is named that none is correct: at an accuracy of 10% a probability of 4%

Verdicts = Mapping[Any, int]  # how many responses got each verdict, by its text or itself


def count_graded(verdicts: Verdicts) -> int:
    """Return how many responses have a reward: those that could not be graded count nowhere."""
    return sum(count for verdict, count in verdicts.items() if Verdict(verdict).has_reward)


def write_shares(verdicts: Verdicts) -> str:
    """Return the share of each verdict that there is, the largest first: 62% correct, 38% truncated."""
    total = sum(verdicts.values())
    ranked = sorted(verdicts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count / total:.0%} {verdict}" for verdict, count in ranked if count)


def find_problem(verdicts: Verdicts) -> Verdict | None:
    """Return the verdict that is to be named: a dominant one without an answer, a failure of grading, or WRONG.

    WRONG stands for many responses of which none is correct. That most are wrong is a matter of the problems.
    """
    total = count_graded(verdicts)
    for verdict in (Verdict.UNPARSED, Verdict.TRUNCATED, Verdict.UNCLOSED):
        if verdicts.get(verdict, 0) > DOMINANT * total:
            return verdict
    failed = [verdicts.get(verdict, 0) for verdict in (Verdict.TIMEOUT, Verdict.ERROR)]
    if sum(failed) > MAX_FAILED_GRADES * total:  # they hide correct answers
        return Verdict.TIMEOUT if failed[0] >= failed[1] else Verdict.ERROR
    return Verdict.WRONG if total >= NONE_CORRECT and not verdicts.get(Verdict.CORRECT) else None


def name_limit(config: ProblemsConfig, mode: Mode | None) -> str:
    """Return the setting that limits responses in a mode, None being the model's choice, with its value."""
    larger = config.max_no_think_tokens > config.max_think_tokens
    key = "max_no_think_tokens" if larger or mode is Mode.NO_THINK else "max_think_tokens"
    return f"{key} = {getattr(config, key)}"


def advise(verdicts: Verdicts, config: ProblemsConfig, modes: Iterable[Mode | None] = (None,)) -> str | None:
    """Return one line on what keeps responses in these requested modes from being correct; None where nothing does."""
    total, problem = count_graded(verdicts), find_problem(verdicts)
    if problem is None:
        return None
    count = verdicts.get(problem, 0)
    share = f"{count} of {total} responses ({count / total:.0%})"
    local = isinstance(config, EngineConfig)  # its tokenizer is at hand, so that `doctor` can look at it
    if problem is Verdict.UNPARSED:
        if config.reward:
            return f"{share} are unparsed by the reward function {config.reward}, and so have reward 0"
        if config.boxed_only:
            return (
                f"{share} are unparsed, and so not correct: they have no answer in \\boxed{{}} that can be read; ask "
                "for a box with --instruction, or read other answers too with --no-boxed-only"
            )
        return (
            f"{share} are unparsed, and so not correct: no answer was found; ask for a \\boxed{{}} with --instruction"
        )
    if problem is Verdict.TRUNCATED:
        limits = list(dict.fromkeys(name_limit(config, mode) for mode in modes))
        ends = "; if they go on behind their answers, see its end tokens in adaptthink doctor" if local else ""
        return (
            f"{share} are truncated, and so not correct: they reached {' or '.join(limits)} before their end; "
            f"raise {'it' if len(limits) == 1 else 'them'}{ends}"
        )
    if problem is Verdict.UNCLOSED:
        closes = "; see in adaptthink doctor how its template closes the thinking" if local else ""
        return f"{share} are unclosed, and so not correct: they ended inside their thinking, without an answer{closes}"
    if problem in (Verdict.TIMEOUT, Verdict.ERROR) and config.reward:  # such a verdict is what the function returned
        return f"the reward function {config.reward} failed on {share}, which count as not correct; see its messages"
    if problem is Verdict.TIMEOUT:
        seconds = f"grading_seconds = {config.grading_seconds:g}"
        return f"grading timed out on {share}, which count as not correct; raise {seconds}"
    if problem is Verdict.ERROR:
        return f"grading failed on {share}, which count as not correct; free memory"
    if config.reward:
        return None  # rewards below that of a correct answer are no fault
    return (
        f"none of {total} responses is correct; unless the problems are that hard, compare a few answers with their "
        "reference answers (adaptthink data show)"
    )


def advise_by_mode(
    verdicts: Mapping[str, Verdicts], modes: Mapping[str, Mode | None], config: ProblemsConfig
) -> list[str]:
    """Return one line for each reason by which responses in some of the requested modes are not correct."""
    groups: dict[Verdict, list[str]] = {}
    for name, counts in verdicts.items():
        problem = find_problem(counts)
        if problem:
            groups.setdefault(problem, []).append(name)
    lines = []
    for names in groups.values():
        together: Counter[str] = Counter()
        for name in names:
            together.update(verdicts[name])
        line = advise(together, config, [modes[name] for name in names])
        where = "" if len(names) == len(verdicts) else f"{', '.join(names)}: "
        lines += [f"{where}{line}"] if line else []
    return lines
