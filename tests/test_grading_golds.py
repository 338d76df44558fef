r"""Every reference answer of MATH, MATH-500 and AIME: equal to itself and rewritings, not to near misses."""

import json

import pytest
from rewritings import near_misses, rewritings, symbolic_rewritings

from adaptthink.grading import AnswerKind, Submission, Verdict, drop_thinking, find_parsable, grade_all

OWN_GOLDS = [
    "0",
    "7",
    "-12",
    "1000",
    "2500000",
    "0.56",
    "-3.25",
    ".5",
    "\\frac{3}{4}",
    "-\\frac{7}{3}",
    "\\frac{13}{204}",
    "\\dfrac{9}{7}",
    "\\sqrt{2}",
    "2\\sqrt{10}",
    "\\frac{1+\\sqrt{5}}{2}",
    "8\\pi",
    "3-2i",
    "2^{4181}",
    "5x^2+3x-1",
    "(x+1)(x-2)",
    "y=2x+3",
    "(3,5)",
    "(0,-\\frac{1}{2})",
    "\\left( 3, \\frac{\\pi}{2} \\right)",
    "[0,1)",
    "(-\\infty,2]",
    "(-\\infty,1)\\cup(2,\\infty)",
    "1,-2",
    "\\frac{1}{2}, 3, -5",
    "1,-1,i,-i",
    "3 \\pm 2 \\sqrt{2}",
    "\\begin{pmatrix} 1 & 0 \\\\ 2018 & 1 \\end{pmatrix}",
    "\\text{Evelyn}",
    "\\text{two lines}",
    "\\text{A, B}",
    "\\text{(C)}",
    "90^\\circ",
    "7.5^{\\circ}",
    "32 \\%",
    "\\$32.50",
    "10,\\!080",
    "24{,}000",
    "31,250",
    "5\\text{ cm}",
    "12\\sqrt{13}\\text{ feet}",
    "8\\!:\\!34 \\text{ p.m.}",
    "2516_8",
    "3:1",
    "-15\\frac{3}{5}",
    "6\\frac{1}{6}\\text{ feet}",
    "x^2 \\leq 4",
    "\\tan \\frac{x}{2}",
    "120a^{10}",
    "\\emptyset",
]


def check_rewritings(reference_answers):
    pairs = [
        (reference_answer, other)
        for reference_answer in reference_answers
        for other in (reference_answer, *rewritings(reference_answer))
    ]
    assert all(len(rewritings(reference_answer)) >= 5 for reference_answer in reference_answers)
    grades = grade_all([Submission(f"so \\boxed{{{other}}}.", reference_answer) for reference_answer, other in pairs])
    return [(*pair, grade) for pair, grade in zip(pairs, grades, strict=True) if grade.verdict is not Verdict.CORRECT]


def check_near_misses(reference_answers):
    pairs = [
        (reference_answer, other) for reference_answer in reference_answers for other in near_misses(reference_answer)
    ]
    grades = grade_all([Submission(f"so \\boxed{{{other}}}.", reference_answer) for reference_answer, other in pairs])
    wrong = (Verdict.WRONG, Verdict.TIMEOUT)  # stopping is allowed, saying yes is not
    return [(*pair, grade) for pair, grade in zip(pairs, grades, strict=True) if grade.verdict not in wrong]


def test_own_references():
    assert check_rewritings(OWN_GOLDS) == []
    assert check_near_misses(OWN_GOLDS) == []
    assert all(find_parsable([(reference_answer, AnswerKind.MATH) for reference_answer in OWN_GOLDS]))


@pytest.fixture(scope="module")
def reference_answers(data_folder):
    """Every different reference answer of the three sets; two rows of MATH train have none at all, two an empty one."""
    math = [row["answer"] for row in json.loads((data_folder / "math_train_answers.json").read_text("utf-8"))]
    math500 = [json.loads(line)["answer"] for line in (data_folder / "math500_test.jsonl").open(encoding="utf-8")]
    aime = [
        str(row["answer"])
        for name in ("aime2024.json", "aime_1983_2023.json")
        for row in json.loads((data_folder / name).read_text("utf-8"))
    ]
    assert (len(math), math.count(None), math.count(""), len(math500), len(aime)) == (7474, 2, 2, 500, 1005)
    return sorted({reference_answer for reference_answer in (*math, *math500, *aime) if reference_answer})


def test_every_reference_of_math_and_aime_can_be_parsed(reference_answers):
    parsable = find_parsable([(reference_answer, AnswerKind.MATH) for reference_answer in reference_answers])
    assert [
        reference_answer for reference_answer, yes in zip(reference_answers, parsable, strict=True) if not yes
    ] == []


def test_every_reference_of_math_and_aime_equals_its_rewritings(reference_answers):
    assert check_rewritings(reference_answers) == []


def test_every_formula_of_math_equals_itself_written_as_a_sum(reference_answers):
    pairs = [
        (reference_answer, other)
        for reference_answer in reference_answers
        for other in symbolic_rewritings(reference_answer)
    ]
    assert len(pairs) > 500
    grades = grade_all([Submission(f"\\boxed{{{other}}}", reference_answer) for reference_answer, other in pairs])
    failed = [(*pair, grade) for pair, grade in zip(pairs, grades, strict=True) if grade.verdict is not Verdict.CORRECT]
    assert failed == []


def test_every_reference_of_math_and_aime_differs_from_near_misses(reference_answers):
    assert check_near_misses(reference_answers) == []


def test_agreement_with_recorded_grades(data_folder):
    """Four models' solutions of GSM8K test with a recorded grade each: precision ≥ 99.5%, recall ≥ 99%."""
    rows = [json.loads(line) for line in (data_folder / "gsm8k_graded_solutions.jsonl").open(encoding="utf-8")]
    models = [name for name in rows[0] if name not in ("question", "ground_truth")]
    solutions = [(row[model], row["ground_truth"]) for row in rows for model in models]
    assert len(solutions) == 4 * 1319
    grades = grade_all(
        [Submission(drop_thinking(item["solution"]), reference_answer) for item, reference_answer in solutions]
    )
    outcomes = [
        (item["is_correct"], grade.verdict is Verdict.CORRECT)
        for (item, _), grade in zip(solutions, grades, strict=True)
    ]
    agreed, ours, theirs = (
        outcomes.count((True, True)), sum(mine for _, mine in outcomes), sum(recorded for recorded, _ in outcomes)
    )  # fmt: skip
    assert agreed / ours >= 0.995
    assert agreed / theirs >= 0.99
