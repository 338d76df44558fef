r"""Answers and references that were made to break graders: none hangs, escapes as an exception or passes for correct.

The strings come from seeded generators, one per way to attack: towers of powers, deep nesting, a megabyte of one sign,
broken Unicode, text that makes a careless regular expression take forever, code.
"""

import faulthandler
import os
import random
import subprocess
import sys
import threading
from itertools import count

import psutil
import pytest
from waiting import WAIT_SECONDS

from adaptthink import grading
from adaptthink.grading import AnswerKind, Limits, Submission, Verdict, find_parsable, grade, grade_all
from adaptthink.grading import pool as pools
from adaptthink.grading.notation import read_answer

LIMITS = Limits(seconds=0.5, memory_mb=512, workers=2)
MEGABYTE = 10**6


@pytest.fixture(autouse=True)
def no_hang(capfd):
    """End the whole run with a traceback if a test hangs: a regular expression cannot be interrupted otherwise."""
    with capfd.disabled():
        stderr = os.dup(2)
    faulthandler.dump_traceback_later(WAIT_SECONDS, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


@pytest.fixture(scope="module", autouse=True)
def close_pool():
    yield
    if LIMITS in pools._pools:
        pools._pools.pop(LIMITS).close()


# --- the generators: random source → hostile string ---

SIGNS = r"\{}[]()$^_&%#,;:.!?*+-=<>/|~'\"` " + "\n\t0123456789abxyzABC"
COMMANDS = (  # noqa: SIM905
    r"\frac \dfrac \sqrt \text{ \boxed{ \left( \right) \cdot \pm \pi \infty \cup \{ \} \\ \begin{matrix} "
    r"\end{matrix} \overline{ \, \! \% \circ \in \emptyset \log \sum_ \int \lim \mathrm{ answer Answer: #### and or"
).split()
SCRIPTS = ["٣", "३", "৩", "๓", "３", "𝟑", "𝟛", "²", "Ⅳ", "四", "½", "௧", "༣"]
ODD = [
    "\0",
    "\x07",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u200b",
    "\u202e",
    "\u2066",
    "\ufeff",
    "\ud800",
    "\udfff",
    "\u0301" * 20,
]
ODD += ["\u2028", "\u3000", "\U000e0041", "\uffff", "ﷺ", "ß", "İ", "\u00ad", "é", "👩‍👩‍👧"]


def soup(rng):
    return "".join(rng.choice(SIGNS) for _ in range(rng.randint(1, 300)))


def commands(rng):
    return "".join(rng.choice(COMMANDS + list("{}()$ 123x")) for _ in range(rng.randint(1, 80)))


def odd_signs(rng):
    return "".join(rng.choice(ODD + SCRIPTS + list("12{}\\$ ")) for _ in range(rng.randint(1, 60)))


def digits_of_a_script(rng):
    return rng.choice(SCRIPTS) * rng.randint(1, 300) + rng.choice(["", ".", "/", ",", "^"]) + rng.choice(SCRIPTS)


def unbalanced(rng):
    return "".join(rng.choice(["{", "}", r"\{", r"\}", "(", "]", r"\boxed{", "7"]) for _ in range(rng.randint(1, 900)))


def broken_tex(rng):
    whole = (
        r"\frac{\sqrt[3]{x^{2}+1}}{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}} \cup \left[ -\infty, \text{a} \right)"
    )
    start = rng.randrange(len(whole))
    return whole[start : start + rng.randint(1, len(whole))]


def nested(rng):
    depth = rng.choice([15, 19, 45, 100, 200, 330, 500])
    opening, closing = rng.choice(
        [("(", ")"), ("[", "]"), ("{", "}"), (r"\{", r"\}"), ("(1,", ")"), (r"\{1,", r"\}"), ("[1,", ")"), ("(1;", ")"),
         (r"\frac{1}{", "}"), (r"\sqrt{", "}"), (r"\log(", ")"), ("|", "|"), ("-(", ")"), ("x^{", "}"),
         (r"\text{", "}"), (r"\left(", r"\right)"), ("((", "),x)"), (r"\{1\cup", r"\}"), (r"\langle ", r"\rangle "),
         (r"\begin{matrix}", r"\end{matrix}"), ("(1,(2,", "),3)"), (r"\overline{", "}")]
    )  # fmt: skip
    return opening * depth + rng.choice(["x+1", "7", "", r"\pm 3"]) + closing * rng.choice([depth, depth, depth - 1])


def nested_boxes(rng):
    depth = rng.randint(1_000, 5_000)
    return r"\boxed{" * depth + rng.choice(["x", "}", ""]) + "}" * rng.choice([depth, depth // 2, 0])


def long_number(rng):
    return rng.choice(["1", "-", "1.", "0.", "1,", ",111", "1/", "9e", "1 "]) * rng.randint(1, 600) + "1"


def huge_exponent(rng):
    exponent = rng.choice(["9" * rng.randint(1, 300), "-999999999", "+999", "1000", "{999999999}"])
    return rng.choice(["1e", "1E", "0.1e", r"3\cdot10^", "10^", r"1 \times 10^{-", "-1e-"]) + exponent


def many_parts(rng):
    number = rng.choice([50, 101, 250, 1_000])
    parts = [rng.choice(["1", "x", r"\pm 1", "x+1", r"\frac12", "{", "(1,2)"]) for _ in range(number)]
    return rng.choice([r"\{%s\}", "(%s)", "%s", "[%s)"]) % rng.choice([",", ";", r"\cup", ", "]).join(parts)


def matrix(rng):
    size = rng.choice([10, 30, 100])
    cells = "&".join(["1"] * size)
    return r"\begin{pmatrix}" + r"\\".join([cells] * rng.choice([1, size])) + r"\end{pmatrix}"


def plus_minus(rng):
    return rng.choice([r"\pm1", r"(1\pm x)", r"\pm\sqrt{\pm2}", r"\mp3"]) * rng.randint(1, 150)


def regex_bomb(rng):
    """Text that offers many ways to split it between neighbouring parts of one of our patterns."""
    n = rng.choice([50, 200, 450])
    blank = rng.choice([" ", "\t", "\n", " \n", "$ ", r"\, "])
    return rng.choice(
        [
            "answer" + blank * n + "Z", "answer is" + blank * n, "Answer" + blank * n + "*" * n,
            "option" + ". " * n + "z",
            "answer" * n, "the answer is (" * n, ">#*- \t" * n + "A", ("\n" + "#" * 3) * n, "A" + ".,;: " * n + "z",
            "*" * n + "A" + "*" * n + "z", "(" * n + "A" + ")" * n + "z", "1" * n + blank * n + "a" + blank * n + "!",
            "1 " * n + "a ." * n + "^", r"\text{" + blank * n, r"\text" + blank * n + "5", r"\text{a}" * n + "^",
            "x" + r"\text{a}." * n + "x", blank * n + r"\approx" + blank * n, "or " * n, ",or" + blank * n,
            "5" + blank * n + "per" + blank * n, "%" * n, r"\%" * n + "x", "1 1/1" * n, "1" * n + " " + "1" * n + "/",
            r"\frac" + blank * n, r"\frac{" * n, r"\frac" * n, r"\sqrt(" * n, r"\phantom" * n, "^{" * n,
            "^" + blank * n,
            r"\hspace{" * n, r"\\" * n, r"\\ [" * n, r"\\[" + "a" * n, "a=" * n, "f(x)=" * n, ",a=" * n + "<",
            r"\begin{" * n, r"\begin{matrix}" * n, "1:" * n + "x", "1.1:" * n, "1,111" * n, "1" * n + r"\overline{",
            "." * n + "1", r"\!," * n, "1{,}" * n + "111", r"1,\!" * n, "$" * n + "1", "$" + "a" * n, r"\(" * n,
            "a" * n + " " * n + "1", "aa " * n + "1", "é" * n + " x", "square " * n + "5", "5" + " square" * n,
            "5 " + "p.m" * n, "</answer><answer>" * n, "_{1}" * n, "A_" + "1" * n + "x", r"\lbrace" * n, r"\pi" * n,
            "²" * n + " cm!", "½" * n, r"\in" * n, "+" * n + r"\infty", "-" * n + "1", r"\text{(A)}" * n,
        ]
    )  # fmt: skip


def code(rng):
    return rng.choice(
        [
            "__import__('os').system('touch {marker}')", r"\input{{/etc/passwd}}", r"\write18{{touch {marker}}}",
            "eval(compile(open('{marker}','w').write('x'),'','exec'))", "lambda: open('{marker}', 'w')",
            "(lambda x: x)(1)", "().__class__.__bases__[0].__subclasses__()", "x.__class__", "'; DROP TABLE grades; --",
            "$(touch {marker})", "`touch {marker}`", "{{{{7*7}}}}", "%s%s%n", "<script>alert(1)</script>", "None",
            "nan",
            "inf", "True", "Integer(10)**10**10", "exec('import os')", r"\def\x{{\x\x}}\x", r"\catcode`\{{=12",
        ]
    ).format(marker="hostile-marker") + " " * rng.randint(0, 3)  # fmt: skip


FAMILIES = [
    soup, commands, odd_signs, digits_of_a_script, unbalanced, broken_tex, nested, nested_boxes, long_number,
    huge_exponent, many_parts, matrix, plus_minus, regex_bomb, code,
]  # fmt: skip
PER_FAMILY = 80
FOR_WORKERS = 8  # of each family; what the fast rules leave open beyond these is not graded, to keep the suite quick

# Real work for a worker, most of it without end. Each costs a time limit, so there are few.
HEAVY = [
    "9^{9^{9^{9}}}", r"{{2^2}^2}^{2^{2^{2^{2^2}}}}", "10^{10^{10}}", "(10^9)!", "((9!)!)!", r"\binom{10^9}{5\cdot10^8}",
    r"\sum_{i=1}^{10^{12}} \frac{1}{i}", r"\prod_{i=1}^{10^{9}} i", r"\int_0^1 \sin(x^{x^x}) dx",
    r"\int e^{e^{e^x}} dx",
    r"\lim_{x \to \infty} x^{x^x}", "(x+y+z+w)^{999}", r"\log_{10^{-9}}(9^{9^9})",
    "1e999999999+x", r"2^{999999999}\cdot x", "(1+x)" * 150,
]  # fmt: skip

# text → reference, kind, verdict: must come out right whatever is graded beside it
NORMAL = [
    (r"\boxed{12}", "12", AnswerKind.MATH, Verdict.CORRECT),
    (r"\boxed{13}", "12", AnswerKind.MATH, Verdict.WRONG),
    (r"\boxed{\dfrac12}", "0.5", AnswerKind.MATH, Verdict.CORRECT),
    ("(2,1)", "(1,2)", AnswerKind.MATH, Verdict.WRONG),
    (r"\boxed{\{2,1\}}", r"\{1,2\}", AnswerKind.MATH, Verdict.CORRECT),
    ("The answer is (C).", "C", AnswerKind.CHOICE, Verdict.CORRECT),
    (r"\boxed{D}", "C", AnswerKind.CHOICE, Verdict.WRONG),
]
REFERENCE = "1234567.875"  # the value of no hostile string


def hostile_strings(seed, per_family=PER_FAMILY):
    return [family(random.Random(f"{seed} {family.__name__} {n}")) for family in FAMILIES for n in range(per_family)]


def mixed_with_normal(submissions):
    """Put a normal answer after every ten; return both and the verdicts that are known."""
    mixed, known = [], {}
    turn = count()
    for position, submission in enumerate(submissions):
        mixed.append(submission)
        if position % 10 == 0:
            answer, reference_answer, kind, verdict = NORMAL[next(turn) % len(NORMAL)]
            known[len(mixed)] = verdict
            mixed.append(Submission(answer, reference_answer, kind))
    return mixed, known


def few_for_workers(submissions, few=FOR_WORKERS):
    """Drop all but a few of those that the fast rules leave to a worker."""
    slow = [one for one in submissions if not isinstance(grading.grade_fast(one), grading.Grade)]
    dropped = set(slow[few:])
    return [one for one in submissions if one not in dropped]


def check(submissions, never_correct=True):
    mixed, known = mixed_with_normal(submissions)
    grades = grade_all(mixed, limits=LIMITS)
    assert len(grades) == len(mixed)
    for position, (submission, result) in enumerate(zip(mixed, grades, strict=True)):
        assert isinstance(result.verdict, Verdict)
        if position in known:
            assert result.verdict is known[position], submission
        elif never_correct:
            assert result.verdict is not Verdict.CORRECT, submission
    if LIMITS in pools._pools:
        pool = pools._pools[LIMITS]
        assert len(pool.workers) == pool.idle.qsize() == LIMITS.workers
    return [result for position, result in enumerate(grades) if position not in known]


def test_there_are_enough():
    strings = hostile_strings("answers")
    assert len(strings) == 1_200
    assert len(set(strings)) >= 800
    assert len(set(map(len, strings))) >= 200


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_hostile_answers(family):
    strings = [family(random.Random(f"answers {family.__name__} {n}")) for n in range(PER_FAMILY)]
    check(few_for_workers([Submission(form, REFERENCE) for text in strings for form in (text, rf"\boxed{{{text}}}")]))


@pytest.mark.parametrize("kind", [AnswerKind.MATH, AnswerKind.CHOICE])
def test_hostile_references(kind):
    strings = hostile_strings("golds", 20)
    answer = rf"\boxed{{{REFERENCE}}}" if kind is AnswerKind.MATH else r"\boxed{J}"
    submissions = few_for_workers([Submission(answer, text, kind) for text in strings], 30)
    grades = check(submissions, never_correct=kind is AnswerKind.MATH)
    if kind is AnswerKind.CHOICE:
        for submission, result in zip(submissions, grades, strict=True):
            assert result.verdict is not Verdict.CORRECT or "J" in submission.reference_answer.upper()


def test_hostile_choices():
    for text in hostile_strings("choices"):
        for form in (text, rf"\boxed{{{text}}}"):
            result = grade(form, "J", AnswerKind.CHOICE)
            assert result.verdict in (Verdict.WRONG, Verdict.UNPARSED), text


def test_hostile_answers_equal_themselves_or_fail():
    """A reference that can be parsed is equal to itself; the only other verdict is that it cannot."""
    for text in hostile_strings("themselves", 30):
        verdict = grade(rf"\boxed{{{text}}}", rf"\boxed{{{text}}}", limits=LIMITS).verdict
        assert verdict in (Verdict.CORRECT, Verdict.REFERENCE_UNPARSABLE, Verdict.UNPARSED), text


def test_hostile_references_are_parsable_or_not():
    reference_answers = [(text, AnswerKind.CHOICE) for text in hostile_strings("readable", 40)]
    reference_answers += [(text, AnswerKind.MATH) for text in hostile_strings("readable", 2)]
    reference_answers += [("12", AnswerKind.MATH), ("C", AnswerKind.CHOICE)]
    outcome = find_parsable(reference_answers, limits=LIMITS)
    assert set(map(type, outcome)) == {bool}
    assert outcome[-2:] == [True, True]


@pytest.mark.slow
def test_heavy_formulas_and_memory():
    """Formulas without end: workers are killed again and again, and neither they nor this process grow."""
    reference_answer = r"x+\sqrt{2}"
    grade("x+1", reference_answer, limits=LIMITS)  # starts the workers
    me, limit = psutil.Process(), LIMITS.memory_mb + 200  # what a worker needs to start is below 200 MiB
    before, largest, done = me.memory_info().rss / 2**20, [0.0], threading.Event()

    def watch():
        while not done.wait(0.02):
            largest[0] = max([largest[0], *(worker.memory_mb() for worker in list(pools._pools[LIMITS].workers))])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        check([Submission(text, reference_answer) for text in HEAVY])
        check([Submission(r"\boxed{x+1}", text) for text in HEAVY[:3]])
    finally:
        done.set()
        watcher.join()
    assert 0 < largest[0] <= limit
    assert me.memory_info().rss / 2**20 <= before + 200


# --- long texts ---

UNITS = [
    "7", "x", "{", "}", "\\", " ", "$", "\n", "\t", "(", ",", ".", "-", "#", "*", "\0", "²", "\ud800", "\u0301", "答",
    r"\boxed{", r"\boxed", r"\boxed ", r"\boxed{}", r"\boxed{x}", r"\boxed\fbox{", r"\boxed {", "{}", r"\{", "answer",
    "answer is ", "answer: ", "Answer:\n", "#### ", "####\n", "A:", "A. ", "(A) ", "option A ", "the answer is A. ",
    r"\(", r"\(x\)", "$x$", "<think>", "</think>", "<answer>", "</answer>", "1,", "1/", ". ", "? A", "aa ", "a b ",
    "**", "- ", "> ", "\r\n", "\u2028",
]  # fmt: skip
LINEAR_SECONDS = 300  # of processor time for all of it: 6 on an Intel Xeon
MILLION = r"""
import resource, sys
from adaptthink.grading import AnswerKind, drop_thinking, grade
from adaptthink.grading import Limits
seconds = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
units = eval(sys.stdin.read())
limits = Limits(seconds=0.5, workers=1)
for unit in units:
    long = unit * (4 * 10**5 // len(unit))
    for text in (long, f"answer{long}Z", rf"\boxed{{{long}}}"):
        for kind in (AnswerKind.MATH, AnswerKind.CHOICE):
            reference = "J" if kind == "choice" else "1234567.875"
            assert grade(text, reference, kind, limits=limits).verdict != "correct", unit
        drop_thinking(text)
    grade("K", text, limits=limits)
    grade("K", text, "choice", limits=limits)
print("done")
"""


@pytest.mark.slow
def test_long_texts_take_linear_time():
    """Quadratic work on 400 kB takes many minutes of processor time, whatever else the machine does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", MILLION, str(LINEAR_SECONDS)], input=ascii(UNITS), env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_blanks_offer_no_choice():
    """Text as long as is looked at, where patterns once tried every way to share out the blanks: minutes of work."""
    for letter in "KLMNOPQRST":
        assert grade(f"answer{' ' * 1_990}{letter}", "J", AnswerKind.CHOICE).verdict is Verdict.UNPARSED
        assert grade(f"answer{' ' * 1_990}J", "J", AnswerKind.CHOICE).verdict is Verdict.CORRECT
        bomb = f"{'1' * 300}{' ' * 300}{letter}{' ' * 300}!"
        assert isinstance(grading.grade_fast(Submission(rf"\boxed{{{bomb}}}", REFERENCE)), grading.Task)


def test_an_answer_at_the_end_of_a_long_text_is_found():
    for unit in ("7 ", "x", "{", r"\boxed{", "$", "answer "):
        text = unit * (MEGABYTE // 4 // len(unit))
        assert grade(text + r" \boxed{12}", "12").verdict is Verdict.CORRECT
        assert grade(text + "\nAnswer: 12", "12").verdict is Verdict.CORRECT
        assert grade(text + "\nThe answer is (C).", "C", AnswerKind.CHOICE).verdict is Verdict.CORRECT


# --- depth ---


def test_deep_nesting_needs_no_deep_stack():
    """A caller deep in its own stack still gets a grade: nesting is limited before anything follows it down."""
    strings = [nested(random.Random(f"deep {n}")) for n in range(300)]
    outcome = []

    def fall(depth):
        if depth:
            return fall(depth - 1)
        for text in strings:
            try:
                outcome.append(leaf_free(text))
            except RecursionError:
                outcome.append(text)
        return None

    def leaf_free(text):
        grading.grade_fast(Submission(rf"\boxed{{{text}}}", r"((x+1,2),3)"))
        grading.grade_fast(Submission(r"\boxed{((x+1,2),3)}", text))
        grading.grade_fast(Submission(rf"\boxed{{{text}}}", text.replace("7", "8").replace("x", "y")))

    thread = threading.Thread(target=fall, args=(sys.getrecursionlimit() - 300,))
    thread.start()
    thread.join()
    assert outcome == [None] * len(strings)


def test_nested_structures_take_no_exponential_time():
    for opening, closing in (("(1,", ")"), (r"\{1,", r"\}"), (r"\{", r"\}"), ("[x+1,", ")"), (r"\{x+1,", r"\}")):
        text, other = (opening * 19 + end + closing * 19 for end in ("x+1", "1+x"))
        result = grade(rf"\boxed{{{text}}}", other, limits=LIMITS)
        assert result.verdict in (Verdict.CORRECT, Verdict.TIMEOUT), opening


# --- code ---


def test_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers would run there as well
    limits = Limits(seconds=1, workers=1)
    strings = {code(random.Random(n)).strip() for n in range(300)}
    assert len(strings) == 22
    try:
        for text in strings:
            for form in (text, rf"\boxed{{{text}}}"):
                assert grade(form, "x+1", limits=limits).verdict is not Verdict.CORRECT
                grade("x+1", form, limits=limits)
    finally:
        pools._pools.pop(limits).close()
    assert not list(tmp_path.iterdir())


# --- signs ---


@pytest.mark.parametrize("digits", ["٤٢", "४२", "৪২", "๔๒", "４２", "𝟒𝟐", "𝟜𝟚", "௪௨", "༤༢", "۴۲"])
def test_digits_of_every_script_are_digits(digits):
    assert grade(rf"\boxed{{{digits}}}", "42").verdict is Verdict.CORRECT
    assert grade(rf"\boxed{{{digits}}}", "24").verdict is Verdict.WRONG


@pytest.mark.parametrize(
    "sign", ["\0", "\x07", "\x7f", "\u200b", "\u202e", "\u2066", "\ufeff", "\ud800", "\u00ad", "\U000e0041"]
)
def test_signs_that_nobody_sees_change_nothing(sign):
    assert read_answer(f"1{sign}2{sign}") == read_answer("12")
    assert grade(rf"\boxed{{{sign}1{sign}2}}", "12").verdict is Verdict.CORRECT
    assert grade(rf"\boxed{{{sign}1{sign}2}}", "21").verdict is Verdict.WRONG
