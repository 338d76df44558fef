"""Outcomes and evaluation folders made by hand, for the tests of what reads them."""

from adaptthink.engines.base import Finish
from adaptthink.evaluation.store import (
    Decision,
    Outcome,
    Sample,
    Setting,
    grade_folder,
    open_folder,
    open_samples,
    write_decisions,
)
from adaptthink.grading import Verdict
from adaptthink.modes import Mode
from adaptthink.problems import make_problem

SETTING = Setting("m", "weights", 0.6, 0.95, 128, 16, 0)


def outcome(problem, right, *, requested="auto", index=0, mode=Mode.THINK, tokens=10, level="1"):
    verdict = Verdict.CORRECT if right else Verdict.WRONG
    return Outcome(problem, level, requested, index, mode, verdict, tokens, None)


def outcomes(rights, *, requested="auto", mode=Mode.THINK, tokens=10, level="1"):
    """Outcomes from {"p": [1, 0]}: one for each response, all alike but for being right."""
    return [
        outcome(problem, right, requested=requested, index=index, mode=mode, tokens=tokens, level=level)
        for problem, values in rights.items()
        for index, right in enumerate(values)
    ]


def make_folder(path, rows, *, setting=SETTING, problems=None, decisions=None):
    """Write and grade an evaluation folder.

    `rows` maps requested modes to {index of a problem: [answer, …]}; "thought:" before one begins its thinking.
    Problems are "0+1=?", "1+1=?" and so on, of level 1, unless given.
    """
    problems = problems or [make_problem(f"{n}+1=?", str(n + 1), level=1, source="sums/test") for n in range(6)]
    open_folder(path, setting, problems)
    with open_samples(path) as write:
        for requested, answers in rows.items():
            for number, texts in answers.items():
                for index, text in enumerate(texts):
                    thinking, _, answer = text.rpartition("thought:")
                    mode = Mode.THINK if text.startswith("thought:") else Mode.NO_THINK
                    write(
                        Sample(
                            problem_id=problems[number].id,
                            requested=requested,
                            index=index,
                            mode=mode,
                            thinking=thinking or None,
                            answer=answer,
                            finish=Finish.STOP,
                            tokens=20 if mode is Mode.THINK else 5,
                            thinking_tokens=15 if mode is Mode.THINK else 0,
                            seed=0,
                        )
                    )
    write_decisions(path, {problems[number].id: Decision(*pair) for number, pair in (decisions or {}).items()})
    grade_folder(path)
    return problems
