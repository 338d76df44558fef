"""The grader's version is raised whenever a verdict changes: golden verdicts say when that is.

    python tests/test_grader_version.py

grades all cases of the golden file anew. Do so after GRADER_VERSION was raised or cases were added, and read the diff.
"""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from adaptthink import grading
from adaptthink.evaluation.store import flatten
from adaptthink.grading import AnswerKind, Grade, Limits, Rule, Submission, Verdict, grade_all
from adaptthink.grading.compare import Comparison
from adaptthink.grading.identity import GRADER_VERSION, GraderRecord, describe_grader
from adaptthink.storage.jsonl import encode, read_lines, read_record, replace_file

GOLDEN = Path(__file__).with_name("golden_verdicts.jsonl")
LIMITS = Limits(seconds=30.0)  # none of the cases is there to overrun, and a busy machine must not change a verdict
CHANGED = "verdicts changed: raise GRADER_VERSION"


def read_golden():
    """The grader of the golden file, and its rows."""
    header, *rows = [read_record(line, dict) for line in read_lines(GOLDEN)]
    return GraderRecord(**header["grader"]), rows


def grades_of(rows):
    return grade_all(
        [
            Submission(row["answer"], row["reference_answer"], AnswerKind(row["kind"]), row["boxed_only"])
            for row in rows
        ],
        limits=LIMITS,
    )


def check(rows, golden_version, version):
    """Fail if a row is not graded as recorded, with a message that explains what to do."""
    if golden_version != version:
        pytest.fail(f"{GOLDEN.name} is of version {golden_version}: run python tests/{Path(__file__).name}")
    changed = [
        f"{json.dumps(row)} is now {json.dumps(asdict(grade))}"
        for row, grade in zip(rows, grades_of(rows), strict=True)
        if Grade(Verdict(row["verdict"]), row["extracted"], Rule(row["rule"])) != grade
    ]
    if changed:
        pytest.fail("\n".join([CHANGED, *changed]))


@pytest.fixture
def rows():
    _, rows = read_golden()
    if not find_spec("reasoning_gym"):
        rows = [row for row in rows if row["kind"] != AnswerKind.REASONING_GYM]
    return rows


def test_golden_verdicts_are_those_of_this_version(rows):
    golden, _ = read_golden()
    check(rows, golden.version, GRADER_VERSION)


def test_golden_cases_reach_every_verdict_and_rule_that_needs_no_overrun():
    """All have the answer of a response: how the response ended is no part of a case."""
    _, rows = read_golden()
    assert len(rows) >= 300
    left_out = {Verdict.TIMEOUT, Verdict.ERROR, Verdict.UNKNOWN, Verdict.UNCLOSED}
    assert {row["verdict"] for row in rows} == set(Verdict) - left_out
    assert {row["rule"] for row in rows} == set(Rule) - {Rule.REWARD}
    assert {row["kind"] for row in rows} == set(AnswerKind)


def test_a_changed_rule_is_noticed(rows, monkeypatch):
    """1/3 and 0.333 are different answers: a grader that is more generous must not keep the version."""
    original = grading.compare

    def generous(found, reference_answer):
        same = original(found, reference_answer)
        return Comparison(True, Rule.NUMBER) if (found, reference_answer) == ("1/3", "0.333333") else same

    monkeypatch.setattr(grading, "compare", generous)
    with pytest.raises(pytest.fail.Exception, match=CHANGED) as caught:
        check(rows, 1, 1)
    assert str(caught.value).count(" is now ") == 1
    assert '"reference_answer": "0.333333"' in str(caught.value)


def test_a_raised_version_asks_for_new_golden_verdicts(rows):
    with pytest.raises(pytest.fail.Exception, match=r"golden_verdicts\.jsonl is of version 1: run python tests/"):
        check(rows, 1, 2)


def test_only_libraries_that_decide_on_the_kinds_at_hand_count(monkeypatch):
    monkeypatch.setattr("adaptthink.grading.identity.installed", lambda name: f"{name} 1")
    math = describe_grader({AnswerKind.MATH}, boxed_only=True, seconds=2.0)
    assert flatten(asdict(math)) == {
        "version": GRADER_VERSION, "boxed_only": True, "seconds": 2.0, "math-verify": "math-verify 1",
        "latex2sympy2_extended": "latex2sympy2_extended 1", "sympy": "sympy 1",
    }  # fmt: skip
    assert describe_grader({AnswerKind.CHOICE}, boxed_only=True, seconds=2.0).libraries == {}
    gym = describe_grader({AnswerKind.REASONING_GYM, AnswerKind.CHOICE}, boxed_only=True, seconds=2.0)
    assert gym.libraries == {"reasoning-gym": "reasoning-gym 1"}
    both = describe_grader(set(AnswerKind), boxed_only=True, seconds=2.0)
    assert both.libraries == math.libraries | gym.libraries
    monkeypatch.setattr("adaptthink.grading.identity.installed", lambda name: "2")
    assert describe_grader({AnswerKind.MATH}, boxed_only=True, seconds=2.0) != math


def write(rows):
    """Grade rows, of which question, reference answer, kind and boxed_only count, and write the golden file."""
    grader = describe_grader(set(AnswerKind), boxed_only=False, seconds=LIMITS.seconds)
    with replace_file(GOLDEN) as file:
        file.write(encode({"grader": asdict(grader)}))
        for row, grade in zip(rows, grades_of(rows), strict=True):
            file.write(encode(row | {"verdict": grade.verdict, "extracted": grade.extracted, "rule": grade.rule}))


if __name__ == "__main__":
    write(read_golden()[1])
