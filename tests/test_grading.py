r"""Grading by hand: what is read, what counts as equal, what is not an answer at all."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import WAIT_SECONDS

from adaptthink.errors import UserError
from adaptthink.grading import (
    AnswerKind,
    Grade,
    Limits,
    Rule,
    Submission,
    Verdict,
    check_failed_grades,
    compute_failed_share,
    compute_mean_reward,
    compute_reward,
    drop_thinking,
    find_last_boxed,
    find_parsable,
    grade,
    grade_all,
)
from adaptthink.grading.choice import find_letter
from adaptthink.grading.extract import find_answer, find_reference_answer
from adaptthink.grading.lines import Tally, grade_rows
from adaptthink.storage.rows import read_json_lines


@pytest.mark.parametrize(
    ("response", "after"),
    [
        ("a</think>b", "b"),
        ("a</think>b</think>c", "b</think>c"),
        ("<think>a</think>b", "b"),
        ("</think>", ""),
        ("<think>a, so 5", None),
        ("no thought", "no thought"),
        ("", ""),
    ],
)
def test_drop_thinking(response, after):
    assert drop_thinking(response) == after


def test_a_boxed_answer_in_the_thinking_does_not_count():
    assert grade(drop_thinking("\\boxed{55}</think>so it is done"), "55").verdict is Verdict.UNPARSED
    assert grade(drop_thinking("\\boxed{54}</think>\\boxed{55}"), "55").verdict is Verdict.CORRECT
    assert grade(drop_thinking("<think>\\boxed{55}"), "55") == Grade(Verdict.TRUNCATED, None, Rule.FORM)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So \\boxed{7}, not 8.", "7"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("The answer is 5. I am sure of 6.", "5"),
        ("the answer is $\\frac{1}{2}$.", "\\frac{1}{2}"),
        ("**Answer:** 12", "12"),
        ("Final answer: 12 apples\n", "12 apples"),
        ("Answer: 3\nNo.\nAnswer: 4", "4"),
        ("She has <<2+3=5>>5.\nA: 5", "5"),
        ("blah\n#### 1,234", "1,234"),
        ("42", "42"),
        ("$x^2$", "$x^2$"),
        ("So she makes $18 every day.", "$18"),
        ("First 3, then 4 of 1,200 in all", "1,200"),
        ("We get \\(x+1\\) in the end.", "x+1"),
        ("I do not know that.", None),
        ("", None),
        ("  \n ", None),
    ],
)
def test_find_answer(text, found):
    assert find_answer(text) == found


@pytest.mark.parametrize(
    ("reference_answer", "found"),
    [
        ("72", "72"),
        ("Natalia sold 48/2.\n#### 72", "72"),
        ("so \\boxed{3}", "3"),
        ("a is 1\nb\nA: 18", "18"),
        ("A, B", "A, B"),
    ],
)
def test_a_reference_may_be_a_whole_solution(reference_answer, found):
    assert find_reference_answer(reference_answer) == found


SAME = [
    ("7", "7.0", Rule.NUMBER),
    (" 7 ", "7", Rule.EXACT),
    ("14/2", "7", Rule.NUMBER),
    ("-0", "0", Rule.NUMBER),
    ("+5", "5", Rule.NUMBER),
    ("1e2", "100", Rule.NUMBER),
    ("1.2 \\times 10^3", "1200", Rule.NUMBER),
    ("0.1", "1/10", Rule.NUMBER),
    ("10000000000000000001", "10000000000000000001.0", Rule.NUMBER),
    ("0.\\overline{3}", "\\frac13", Rule.NUMBER),
    ("1\\frac{1}{2}", "1.5", Rule.NUMBER),
    ("1 1/2", "3/2", Rule.NUMBER),
    ("1,234,567", "1234567", Rule.NUMBER),
    ("1{,}234", "1234", Rule.EXACT),
    ("10,\\!080", "10080", Rule.EXACT),
    ("(0,\\! 100)", "(0, 100)", Rule.EXACT),
    ("50\\%", "50", Rule.EXACT),
    ("50\\%", "0.5", Rule.NUMBER),
    ("\\$32.50", "32.5", Rule.NUMBER),
    ("5\\text{ cm}", "5", Rule.EXACT),
    ("5 cm", "5\\text{ centimeters}", Rule.EXACT),
    ("18 dollars", "\\$18", Rule.EXACT),
    ("90^\\circ", "90", Rule.EXACT),
    ("90°", "90^{\\circ}", Rule.EXACT),
    ("four", "4", Rule.NUMBER),
    ("٣", "3", Rule.EXACT),
    ("\\dfrac{1}{2}", "\\frac12", Rule.EXACT),
    ("-\\frac{17}7", "\\frac{-17}{7}", Rule.NUMBER),
    ("−5", "-5", Rule.EXACT),
    ("x = 5", "5", Rule.EXACT),
    ("x \\in [0, 1)", "[0,1)", Rule.EXACT),
    ("y=2x+3", "2x+3", Rule.EXACT),
    ("\\frac{1}{2} = 0.5", "\\frac{1}{2}", Rule.NUMBER),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})", Rule.EXACT),
    ("(0.5, 3)", "(\\frac12,3)", Rule.STRUCTURE),
    ("1,2", "2,1", Rule.STRUCTURE),
    ("\\{1,2\\}", "2, 1", Rule.STRUCTURE),
    ("2 \\text{ or } 1", "1,2", Rule.STRUCTURE),
    ("1\\pm\\sqrt{2}", "1-\\sqrt{2},1+\\sqrt{2}", Rule.STRUCTURE),
    ("(2,3)\\cup(-\\infty,1)", "(-\\infty,1)\\cup(2,3)", Rule.STRUCTURE),
    ("\\varnothing", "\\emptyset", Rule.EXACT),
    ("\\begin{bmatrix}1\\\\0.5\\end{bmatrix}", "\\begin{pmatrix} 1 \\\\ \\frac{1}{2} \\end{pmatrix}", Rule.STRUCTURE),
    ("evelyn", "\\text{Evelyn}", Rule.WORDS),
    ("\\textbf{(A)}", "\\text{A}", Rule.WORDS),
    ("B and A", "\\text{A, B}", Rule.WORDS),
    ("2516", "2516_8", Rule.NUMBER),
    ("2516_{8}", "2516_8", Rule.EXACT),
    ("(x-2)(x-5)", "x^2-7x+10", Rule.SYMBOLIC),
    ("\\sqrt{40}", "2\\sqrt{10}", Rule.SYMBOLIC),
    ("4^{1002}", "2^{2004}", Rule.SYMBOLIC),
    ("\\sqrt{2}/2", "\\frac{1}{\\sqrt{2}}", Rule.SYMBOLIC),
    ("(\\sqrt{8}, 1)", "(2\\sqrt{2}, 1)", Rule.STRUCTURE),
    ("\\sin^2 t", "1-\\cos^2 t", Rule.SYMBOLIC),
]


@pytest.mark.parametrize(("found", "reference_answer", "rule"), SAME)
def test_same_answers_and_the_rule_that_finds_it(found, reference_answer, rule):
    assert grade(f"\\boxed{{{found}}}", reference_answer) == Grade(Verdict.CORRECT, found, rule)
    assert grade(f"\\boxed{{{reference_answer}}}", found).verdict is Verdict.CORRECT


DIFFERENT = [
    ("7", "8"),
    ("7", "7.0000001"),
    ("1/3", "0.333333"),
    ("10000000000000000001", "10000000000000000000"),
    ("-5", "5"),
    ("1e999999999", "7"),
    ("1e-999999999", "7"),
    ("7", "1E+999999999"),
    ("61/6", "6\\frac{1}{6}"),
    ("1,2", "12"),
    ("1,2", "1.2"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "\\{1,2\\}"),
    ("(1,2)", "[1,2]"),
    ("[0,1)", "[0,1]"),
    ("1,2", "1,2,3"),
    ("\\{1,1\\}", "\\{1,2\\}"),
    ("(0,1)\\cup(2,3)", "(0,1)"),
    ("5\\text{ cm}", "5\\text{ m}"),
    ("5 cents", "5 dollars"),
    ("8:34 \\text{ a.m.}", "8\\!:\\!34 \\text{ p.m.}"),
    ("3:2", "3:1"),
    ("\\text{even}", "\\text{odd}"),
    ("\\text{seat}", "\\text{east}"),
    ("A,B", "\\text{A, C}"),
    ("2516_9", "2516_8"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
    ("2^{-97}", "2^{-98}"),
    ("x^2", "x^3"),
    ("\\sqrt{2}", "\\sqrt{3}"),
    ("1.41", "\\sqrt{2}"),
    ("(\\sqrt{8}, 2)", "(2\\sqrt{2}, 1)"),
    ("i", "-i"),
    ("2x", "2"),
    ("x", "5"),
    ("\\pi", "3.14"),
]


@pytest.mark.parametrize(("found", "reference_answer"), DIFFERENT)
def test_different_answers(found, reference_answer):
    assert grade(f"\\boxed{{{found}}}", reference_answer).verdict is Verdict.WRONG
    assert grade(f"\\boxed{{{reference_answer}}}", found).verdict is Verdict.WRONG


@pytest.mark.parametrize("reference_answer", ["", "  ", "{", "\\frac{1}{", "x" * 2_000, "}{", "$$"])
def test_a_reference_that_cannot_be_parsed_is_never_scored(reference_answer):
    for answer in ("\\boxed{5}", "nothing", None):
        assert grade(answer, reference_answer) == Grade(Verdict.REFERENCE_UNPARSABLE, None, Rule.FORM)
    with pytest.raises(ValueError, match="leave it out"):
        compute_reward(Verdict.REFERENCE_UNPARSABLE)


def test_a_reference_that_only_the_symbolic_rule_finds_unparsable():
    reference_answer = "\\frac{}{}+\\int"
    assert grade("\\boxed{y+1}", reference_answer).verdict is Verdict.REFERENCE_UNPARSABLE
    kinds = [
        (reference_answer, AnswerKind.MATH),
        ("\\sin^2 t", AnswerKind.MATH),
        ("5", AnswerKind.MATH),
        ("", AnswerKind.MATH),
        ("C", AnswerKind.CHOICE),
        ("Paris", AnswerKind.CHOICE),
        ("{", AnswerKind.CHOICE),
    ]
    assert find_parsable(kinds) == [False, True, True, False, True, False, False]


@pytest.mark.parametrize("answer", ["\\boxed{}", "\\boxed{\\frac{1}{}+}", "\\boxed{ }", "\\boxed{" + "x+" * 800 + "x}"])
def test_an_answer_that_cannot_be_read(answer):
    assert grade(answer, "y+1").verdict is Verdict.UNPARSED


def test_an_overrun_is_a_timeout():
    assert grade("\\boxed{9^{9^{9^{9}}}+x}", "y", limits=Limits(seconds=0.5)).verdict is Verdict.TIMEOUT


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{C}", "C"),
        ("\\boxed{(c)}", "C"),
        ("\\boxed{\\text{C}}", "C"),
        ("\\boxed{\\textbf{(C)}\\ 42}", "C"),
        ("\\boxed{C. Paris}", "C"),
        ("$\\boxed{\\mathrm{B}}$.", "B"),
        ("\\boxed{A} or rather \\boxed{B}", "B"),
        ("\\boxed{42}", None),
        ("\\boxed{CD}", None),
        ("\\boxed{Paris}", None),
        ("\\boxed{}", None),
        ("The answer is (B).", "B"),
        ("The answer is B", "B"),
        ("Answer: D", "D"),
        ("the correct answer is **C**.", "C"),
        ("The correct option is (b)", "B"),
        ("Option C is tempting. The answer is A.", "A"),
        ("C", "C"),
        ("(C)", "C"),
        ("Long reasons.\nC.", "C"),
        ("C. Paris", "C"),
        ("The answer is a dog", None),
        ("A dog barks", None),
        ("I choose none", None),
        ("", None),
    ],
)
def test_find_letter(text, letter):
    assert find_letter(text) == letter


def test_choices_are_graded_by_their_letter():
    def verdict(answer, reference_answer):
        return grade(answer, reference_answer, AnswerKind.CHOICE)

    assert verdict("\\boxed{C}", "C") == Grade(Verdict.CORRECT, "C", Rule.CHOICE)
    assert verdict("\\boxed{C}", "(c)").verdict is Verdict.CORRECT
    assert verdict("\\boxed{D}", "C").verdict is Verdict.WRONG
    assert verdict("\\boxed{42}", "C").verdict is Verdict.UNPARSED
    assert verdict(None, "C").verdict is Verdict.TRUNCATED
    assert verdict("\\boxed{C}", "Paris").verdict is Verdict.REFERENCE_UNPARSABLE


@pytest.mark.parametrize("kind", [AnswerKind.MATH, AnswerKind.CHOICE])
def test_boxed_only(kind):
    def verdict(answer):
        return grade_all([Submission(answer, "C", kind, boxed_only=True)])[0].verdict

    assert verdict("\\boxed{C}") is Verdict.CORRECT
    assert verdict("The answer is (C).") is Verdict.UNPARSED
    assert verdict("\\boxed{C") is Verdict.UNPARSED
    assert grade_all([Submission("The answer is C.", "C", kind)])[0].verdict is Verdict.CORRECT


def test_reward_maps_every_verdict():
    without = {Verdict.REFERENCE_UNPARSABLE, Verdict.UNKNOWN}
    gradable = [verdict for verdict in Verdict if verdict not in without]
    assert {verdict for verdict in Verdict if not verdict.has_reward} == without
    for verdict in without:
        with pytest.raises(ValueError, match="no reward; leave it out"):
            compute_reward(verdict)
    assert [verdict for verdict in gradable if compute_reward(verdict) == 1.0] == [Verdict.CORRECT]
    assert {compute_reward(verdict) for verdict in gradable} == {0.0, 1.0}


def test_means_leave_out_what_cannot_be_graded():
    verdicts = [Verdict.CORRECT, Verdict.REFERENCE_UNPARSABLE, Verdict.TIMEOUT, Verdict.WRONG, Verdict.CORRECT]
    assert compute_mean_reward(verdicts) == 0.5
    assert compute_mean_reward([*verdicts, Verdict.UNKNOWN]) == 0.5
    assert compute_mean_reward([Verdict.REFERENCE_UNPARSABLE, Verdict.UNKNOWN]) is None
    assert compute_failed_share([*verdicts, Verdict.ERROR, *[Verdict.WRONG] * 2]) == 0.25
    assert compute_failed_share([*verdicts, Verdict.UNKNOWN, *[Verdict.WRONG] * 2]) == 0.25
    assert compute_failed_share([]) == 0.0


def test_too_many_failed_grades_are_refused_with_their_counts():
    verdicts = [Verdict.TIMEOUT, Verdict.UNKNOWN, Verdict.UNKNOWN, *[Verdict.CORRECT] * 7]
    check_failed_grades(verdicts, 0.3)
    check_failed_grades([], 0.0)
    with pytest.raises(UserError, match=r"^step 3: .* failed on 30\.0% .*\(1 timeout, 2 unknown of 10\).* = 0\.29"):
        check_failed_grades(verdicts, 0.29, where="step 3: ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{7}", "7"),
        ("a \\boxed{7} b", "7"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{{a}{b{c}}}", "{a}{b{c}}"),
        ("\\boxed{x^{2}+1} {y}", "x^{2}+1"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{[0,1\\}}", "[0,1\\}"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed 7 $", "7"),
        ("\\boxed{}", ""),
        ("\\boxed{7", None),
        ("\\boxed{{7}", None),
        ("boxed{7}", None),
        ("", None),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{\\boxed{3}", "3"),  # the outer one never closes, the inner one does
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{4}} \\boxed{", "4"),
    ],
)
def test_last_boxed(text, found):
    assert find_last_boxed(text) == found


@given(
    st.text(alphabet="\\boxed{}{} 17a", max_size=60)
    | st.lists(st.sampled_from(["\\boxed{", "}", "{", "x"])).map("".join)
)
def test_last_boxed_never_raises(text):
    found = find_last_boxed(text)
    assert found is None or found in text


balanced = st.recursive(
    st.text(alphabet=st.characters(exclude_characters="{}\\")),
    lambda inner: st.lists(st.one_of(inner, inner.map(lambda text: "{" + text + "}")), max_size=4).map("".join),
    max_leaves=12,
)


@given(
    before=st.text(alphabet=st.characters(exclude_characters="\\")), inside=balanced, after=st.text(alphabet="ab }{")
)
def test_boxing_balanced_text_returns_it(before, inside, after):
    assert find_last_boxed(f"{before}\\boxed{{{inside}}}{after}") == inside


def graded(*lines):
    tally = Tally()
    rows = list(grade_rows(read_json_lines((line.encode() for line in lines), "r.jsonl"), Limits(), tally))
    return rows, tally


def test_lines_are_graded_in_order_and_bad_ones_are_named():
    rows, tally = graded(
        json.dumps({"response": "hm</think>\\boxed{\\frac12}", "gold": "0.5"}),
        "not json",
        json.dumps({"response": "The answer is (C).", "gold": "C", "kind": "choice"}),
        json.dumps({"response": "18", "reference_answer": 18, "source": "gsm8k"}),
        json.dumps({"response": "\\boxed{18}", "gold": 18, "finished": False}),
        json.dumps({"response": "18", "gold": 18, "kind": "maths"}),
        json.dumps({"response": "18", "solution": "18"}),
        "[1]",
        json.dumps({"response": "18", "answer": "So it is 18.\n#### 18"}),
        json.dumps({"response": "18", "answer": "17", "gold": 19, "reference_answer": "18"}),
        json.dumps({"response": "18", "answer": "17", "gold": 18, "reference_answer": None}),
        json.dumps({"response": "18", "gold": {"value": 18}}),
        json.dumps({"completion": "18", "gold": 18}),
        "{}",
    )
    assert [(row["line"], row["verdict"], row["extracted"], row["rule"]) for row in rows] == [
        (1, "correct", "\\frac12", "number"),
        (2, "error", None, "form"),
        (3, "correct", "C", "choice"),
        (4, "correct", "18", "exact"),
        (5, "truncated", None, "form"),
        (6, "error", None, "form"),
        (7, "error", None, "form"),
        (8, "error", None, "form"),
        (9, "correct", "18", "exact"),
        (10, "correct", "18", "exact"),
        (11, "correct", "18", "exact"),
        (12, "error", None, "form"),
        (13, "error", None, "form"),
        (14, "error", None, "form"),
    ]
    assert tally.verdicts == {"correct": 6, "truncated": 1}
    assert tally.bad_rows == [
        "r.jsonl, line 2: not valid JSON: Expecting value (column 1)",
        "r.jsonl, line 6: unknown kind 'maths'; choose math, choice, reasoning_gym",
        "r.jsonl, line 7: 'reference_answer' is missing (so are 'gold' and 'answer'); fields here: response, solution",
        "r.jsonl, line 8: expected a JSON object, found list",
        "r.jsonl, line 12: 'gold' is an object with value; one text or number is needed: give what is inside",
        "r.jsonl, line 13: 'response' is missing or no text; fields here: completion, gold",
        "r.jsonl, line 14: 'response' is missing or no text; fields here: none",
    ]


def run_grade(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "adaptthink", "grade", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_command_writes_a_verdict_a_line_and_names_bad_lines(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "new/out.jsonl"
    source.write_bytes(
        b'{"response": "\\\\boxed{x(x+1)}", "reference_answer": "x^2+x"}\n\n\xff\n{"response": "4", "gold": "5"}'
    )
    done = run_grade(source, "--json", target, "--seconds", WAIT_SECONDS)
    assert (done.returncode, done.stderr) == (
        0,
        f"{source}, line 3: not UTF-8 text (invalid start byte at byte 0 of the line)\n",
    )
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["line"], row["verdict"], row["rule"]) for row in rows] == [
        (1, "correct", "symbolic"),
        (3, "error", "form"),
        (4, "wrong", "number"),
    ]


def test_the_command_refuses_to_overwrite_its_input_or_to_grade_nothing(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("5\n")
    for arguments, complaint in (
        ((source, "--json", source), "is the file to be graded"),
        ((source,), "line 1: expected a JSON object, found int); expected objects with"),
        ((tmp_path / "none.jsonl",), "no file"),
        ((source, "--seconds", "0"), "Must be > 0"),
    ):
        done = run_grade(*arguments)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert run_grade(source, "--json", tmp_path / "out.jsonl").returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert source.read_text() == "5\n"
