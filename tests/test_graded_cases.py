"""A table of responses, reference answers and what a person says of them, for each kind of fault that was ever found.

`graded_cases.jsonl` holds members of every kind and near misses. Rows that are wrong are wrong the other way round too.
"""

import json
from pathlib import Path

import pytest
from waiting import WAIT_SECONDS

from adaptthink.grading import AnswerKind, Limits, Submission, Verdict, drop_thinking, find_parsable, grade, grade_all
from adaptthink.grading.lines import Tally, grade_rows
from adaptthink.grading.numbers import read_number
from adaptthink.grading.sets import Reader, read_set
from adaptthink.problems.files import read_level
from adaptthink.storage.rows import BadRow, Row, RowError, parse_line, read_rows

CASES = Path(__file__).with_name("graded_cases.jsonl")
LIMITS = Limits(seconds=WAIT_SECONDS, workers=2)


def check(cases):
    """Return the cases that are not graded as expected."""
    grades = grade_all(
        [Submission(drop_thinking(response), reference, AnswerKind(kind)) for response, reference, kind, _ in cases],
        limits=LIMITS,
    )
    return [
        (case, result.verdict)
        for case, result in zip(cases, grades, strict=True)
        if (result.verdict is Verdict.CORRECT) != (case[3] == "correct")
    ]


def read_cases():
    rows = [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]
    return [(row["response"], row["reference_answer"], row["kind"], row["expected"]) for row in rows]


def test_the_table():
    cases = read_cases()
    assert len(cases) > 400
    assert check(cases) == []


def test_what_is_wrong_is_wrong_the_other_way_round():
    turned = [
        (f"\\boxed{{{reference}}}", response.removeprefix("So $\\boxed{").removesuffix("}$."), kind, expected)
        for response, reference, kind, expected in read_cases()
        if expected == "wrong" and kind == "math" and response.startswith("So $\\boxed{")
    ]
    assert len(turned) > 100
    assert check(turned) == []


def test_faults_found_from_outside(data_folder):
    source = data_folder / "grader_faults.jsonl"
    if not source.is_file():
        pytest.skip(f"no {source.name} in the folder of local data")
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    assert check([(row["response"], row["gold"], row["kind"], row["expect"]) for row in rows]) == []


@pytest.mark.parametrize("nothing", ["proof", "notfound", "N/A", "n/a", "NaN", "None", "null", "?", r"$\text{N/A}$"])
def test_a_reference_that_says_nothing_is_unparsable(nothing):
    assert find_parsable([(nothing, AnswerKind.MATH)]) == [False]
    assert grade(nothing, nothing).verdict is Verdict.REFERENCE_UNPARSABLE


@pytest.mark.parametrize("said", [r"\text{None of these}", "no solution", r"\emptyset", "undefined", "DNE", "0"])
def test_a_reference_that_says_that_there_is_none_is_an_answer(said):
    assert find_parsable([(said, AnswerKind.MATH)]) == [True]
    assert grade(rf"\boxed{{{said}}}", said).verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    ("text", "intervals"),
    [
        ("x>3", [((3, 1), (float("inf"), 0))]),
        (r"3\leq x<5", [((3, 0), (5, 0))]),
        (r"x<1\lor x\geq4", [((float("-inf"), 1), (1, 0)), ((4, 0), (float("inf"), 0))]),
        (r"x>1,x<4", [((1, 1), (4, 0))]),
        (r"[0,1)\cup[1,2]", [((0, 0), (2, 1))]),
        (r"[0,2]\setminus\{1\}", [((0, 0), (1, 0)), ((1, 1), (2, 1))]),
        (r"(0,3)\cap[1,5]", [((1, 0), (3, 0))]),
        (r"\{x|x\neq0\}", [((float("-inf"), 1), (0, 0)), ((0, 1), (float("inf"), 0))]),
        (r"x>1\land x<0", []),
    ],
)
def test_sets_as_cuts_of_the_real_line(text, intervals):
    reader = Reader(lambda bound: float(bound.replace(r"\infty", "inf")))
    assert list(read_set(text, reader).intervals) == intervals


@pytest.mark.parametrize(
    ("words", "value"),
    [("twenty-one", 21), ("onehundredfive", 105), ("twothousandthreehundred", 2300), ("onemillion", 10**6),
     ("onetwo", None), ("twentyeleven", None), ("oneness", None), ("", None)],
)  # fmt: skip
def test_numbers_in_words(words, value):
    assert read_number(words) == value


HUGE = "7" * 5_000  # more digits than Python converts to an integer


def test_an_integer_of_thousands_of_digits_is_graded_or_named(tmp_path):
    tally = Tally()
    lines = [
        f'{{"response": "\\\\boxed{{3}}", "gold": {HUGE}}}',
        f'{{"response": "\\\\boxed{{3}}", "gold": "3", "other": [{HUGE}]}}',
        f'{{"response": "\\\\boxed{{3}}", "gold": "3", "kind": {HUGE}}}',
        f'{{"response": "\\\\boxed{{{HUGE}}}", "gold": "3"}}',
        f'{{"response": "The answer is {HUGE}", "gold": "3"}}',
        '{"response": "\\\\boxed{3,4}", "gold": ["4", 3]}',
        '{"response": "\\\\boxed{3}", "gold": ["4", 3]}',
        '{"response": "\\\\boxed{3}", "gold": [["3"]]}',
    ]
    (tmp_path / "responses.jsonl").write_text("\n".join(lines))
    rows = list(grade_rows(read_rows(tmp_path / "responses.jsonl"), LIMITS, tally))
    assert [row["verdict"] for row in rows] == [
        "reference_unparsable", "correct", "error", "unparsed", "unparsed", "correct", "wrong", "error"
    ]  # fmt: skip
    assert all(len(message) < 200 for message in tally.bad_rows)


def test_an_integer_of_thousands_of_digits_in_a_problem_file(tmp_path):
    row = parse_line(f'{{"answer": 3, "id": {HUGE}}}'.encode(), "file, line 1", 1)
    assert isinstance(row, Row)
    assert row.values["id"] == HUGE
    array = tmp_path / "rows.json"
    array.write_text(f'[{{"id": {HUGE}}}, {{"id": 4}}]', "utf-8")
    assert [isinstance(row, BadRow) or row.values["id"] for row in read_rows(array)] == [HUGE, 4]
    with pytest.raises(RowError, match="'level' has 5,000 digits"):
        read_level(HUGE)
