"""Named sets: their original files, and rows in the form that the hub documents."""

import json
import zipfile
from collections import Counter

import datasets
import pytest

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.problems import Problem
from adaptthink.problems.sets import GROUP_OF, GROUPS, SETS, format_reference_answer, read_boxed, read_set
from adaptthink.storage.rows import BadRow

MATH_LEVELS = {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}
AIME_LEVELS = dict.fromkeys(range(1, 16), 2)


def read(name, split, data=None, only=None):
    return list(read_set(name, split, only=only, data=data))


@pytest.mark.parametrize(
    ("name", "split", "count", "levels", "first"),
    [
        ("gsm8k", "train", 7473, {None: 7473}, ("Natalia sold clips to 48 of her friends in April", "72")),
        ("gsm8k", "test", 1319, {None: 1319}, ("Janet’s ducks lay 16 eggs per day.", "18")),
        (
            "math",
            "train",
            7474,
            {1: 564, 2: 1345, 3: 1584, 4: 1681, 5: 2298, None: 2},
            ("Let \\[f(x) = \\left\\{", "0"),
        ),
        ("math500", "test", 500, MATH_LEVELS, ("Convert the point $(0,3)$", r"\left( 3, \frac{\pi}{2} \right)")),
        ("aime24", "test", 30, AIME_LEVELS, ("Every morning Aya goes", "204")),
        ("amc23", "test", 40, {None: 40}, ("Cities $A$ and $B$ are $45$ miles apart.", "27")),
        ("svamp", "test", 1000, {None: 1000}, ("There are 87 oranges and 290 bananas", "145")),
        (
            "mmlu",
            "test",
            14042,
            {"humanities": 4705, "stem": 3018, "social_sciences": 3077, "other": 3242},
            ("Find the degree for the given field extension", "B"),
        ),
        ("mmlu", "validation", 1531, {"humanities": 518, "stem": 321, "social_sciences": 337, "other": 355}, None),
        ("mmlu", "dev", 285, {"humanities": 65, "stem": 90, "social_sciences": 60, "other": 70}, None),
    ],
)
def test_original_files(data_folder, name, split, count, levels, first):
    problems = read(name, split, data_folder)
    assert all(isinstance(problem, Problem) for problem in problems)
    assert len(problems) == count
    assert Counter(problem.level for problem in problems) == levels
    if first:
        assert problems[0].prompt.startswith(first[0])
        assert problems[0].answer == first[1]


def test_references_of_gsm8k_are_plain_numbers(data_folder):
    answers = [problem.answer for split in ("train", "test") for problem in read("gsm8k", split, data_folder)]
    assert all(answer.removeprefix("-").replace(".", "", 1).isdecimal() for answer in answers)
    assert "109200000" in answers  # written 109,200,000


def test_math_without_an_answer_is_left_to_the_grader(data_folder):
    """Two answers of MATH are missing and two are empty: the problem is kept, with an answer that cannot be parsed."""
    assert sum(not problem.answer for problem in read("math", "train", data_folder)) == 4


def test_mmlu_problem_as_a_whole(data_folder):
    problem = read("mmlu", "test", data_folder, only="college_physics")[0]
    assert problem.prompt.splitlines()[1:] == [
        "A. an average of 10 times, with an rms deviation of about 4",
        "B. an average of 10 times, with an rms deviation of about 3",
        "C. an average of 10 times, with an rms deviation of about 1",
        "D. an average of 10 times, with an rms deviation of about 0.1",
    ]
    assert (problem.answer, problem.kind) == ("B", AnswerKind.CHOICE)
    assert (problem.level, problem.source) == ("stem", "mmlu/test/college_physics")


@pytest.mark.parametrize(("only", "count"), [("stem", 3018), ("other", 3242), ("college_physics", 102)])
def test_mmlu_filters(data_folder, only, count):
    assert len(read("mmlu", "test", data_folder, only=only)) == count


def test_groups_of_mmlu():
    assert {group: len(subjects) for group, subjects in GROUPS.items()} == {
        "stem": 18,
        "humanities": 13,
        "social_sciences": 12,
        "other": 14,
    }
    assert len(GROUP_OF) == 57


HUB_ROWS = {
    "gsm8k": {"question": "How many?", "answer": "Half of 4 is <<4/2=2>>2.\n#### 1,002"},
    "math": {
        "problem": "Find $x$.",
        "level": "Level 3",
        "type": "Algebra",
        "solution": r"First \boxed{1}, then $\boxed{\frac{1}{2}}$.",
    },
    "math500": {
        "problem": "Find $x$.",
        "solution": "So.",
        "answer": r"\frac{1}{2}",
        "subject": "Algebra",
        "level": 3,
        "unique_id": "test/algebra/1.json",
    },
    "aime24": {
        "id": 60,
        "problem": "Find it.",
        "solution": "So.",
        "answer": "025",
        "url": "https://artofproblemsolving.com/wiki/index.php/2024_AIME_I_Problems/Problem_12",
        "year": "2024",
    },
    "aime25": {"question": "Find it.", "answer": "70"},
    "amc23": {"id": 0, "question": "How far?", "answer": 27.0, "url": "https://example.org/Problem_1"},
    "mmlu": {"question": "Which?", "subject": "virology", "choices": ["v", "w", "x", "y"], "answer": 2},
    "mmlu_pro": {
        "question_id": 70,
        "question": "Which?",
        "options": ["v", "w", "x", "N/A"],
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "computer science",
        "src": "",
    },
    "gpqa": {
        "Question": "Which?",
        "Correct Answer": " right\n",
        "Incorrect Answer 1": "a",
        "Incorrect Answer 2": "b",
        "Incorrect Answer 3": "c",
        "Subdomain": "Physics",
    },
    "minerva": {"question": "How heavy?", "answer": "4.5e33"},
    "olympiadbench": {
        "id": 1606,
        "context": "Let $n > 0$.",
        "question": "Find it.",
        "final_answer": ["2", "$-3$"],
        "answer_type": "Numerical",
    },
    "otb": {"question": "What shields us?", "answer": "ozone layer", "metadata": "{}", "subset": "overthinkingbench"},
    "deepscaler": {"problem": "Find it.", "answer": "5", "solution": "So."},
    "svamp": {
        "ID": "chal-1",
        "Body": "There are 3 oranges.",
        "Question": "How many?",
        "Equation": "( 3.0 - 0.0 )",
        "Answer": "3.0",
        "Type": "Subtraction",
        "question_concat": "There are 3 oranges. How many?",
    },
}
READ = {
    "gsm8k": ("How many?", "1002", None),
    "math": ("Find $x$.", r"\frac{1}{2}", 3),
    "math500": ("Find $x$.", r"\frac{1}{2}", 3),
    "aime24": ("Find it.", "025", 12),
    "aime25": ("Find it.", "70", 2),  # the second row of its exam
    "amc23": ("How far?", "27", None),
    "mmlu": ("Which?\nA. v\nB. w\nC. x\nD. y", "C", "other"),
    "mmlu_pro": ("Which?\nA. v\nB. w\nC. x", "B", "computer_science"),
    "gpqa": ("Which?\nA. b\nB. a\nC. c\nD. right", "D", None),
    "minerva": ("How heavy?", "4.5e33", None),
    "olympiadbench": ("Let $n > 0$.\n\nFind it.", "2, $-3$", None),
    "otb": ("What shields us?", "ozone layer", "over"),
    "deepscaler": ("Find it.", "5", None),
    "svamp": ("There are 3 oranges. How many?", "3", None),
}


@pytest.fixture
def hub(monkeypatch):
    """A hub that gives each set two rows per config; returns the requests it got."""
    requested = []
    by_id = {named.hub_id: HUB_ROWS[name] for name, named in SETS.items()}

    def load_dataset(path, config=None, *, split, streaming):
        assert streaming
        requested.append((path, config, split))
        return iter([by_id[path], by_id[path]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return requested


@pytest.mark.parametrize("name", SETS)
def test_rows_from_the_hub(hub, name):
    named = SETS[name]
    for split, part in named.splits.items():
        hub.clear()
        problems = read(name, split)
        assert hub == [(named.hub_id, config, part.hub) for config in named.configs]
        assert len(problems) == 2 * len(named.configs)
        assert (problems[1].prompt, problems[1].answer, problems[1].level) == READ[name]
        assert problems[1].source.startswith(f"{name}/{split}")


def test_the_halves_of_optimal_thinking_bench(hub, tmp_path):
    """Puzzles are reasoning-gym's entries; what only a judge could compare is left out, and said."""
    puzzle = {"question": "Sort.", "answer": "a b", "metadata": '{"source_dataset": "word_sorting", "n": 2}'}
    rows = [
        HUB_ROWS["otb"],
        puzzle | {"subset": "underthinkingbench"},
        {"question": "Why?", "answer": "it is because of this", "metadata": None, "subset": "overthinkingbench"},
        {"question": "Find it.", "answer": "70", "metadata": "{}", "subset": "underthinking-math"},
        {"question": "Find it.", "answer": "70", "metadata": "{}", "subset": "other"},
    ]
    (tmp_path / "optimal_thinking_bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    easy, sort, judged, exam, unknown = read("otb", "test", tmp_path)
    assert [one.level for one in (easy, sort, exam)] == ["over", "under", "under"]
    assert (sort.kind, json.loads(sort.answer)["metadata"]) == (
        AnswerKind.REASONING_GYM,
        json.loads(puzzle["metadata"]),
    )
    assert judged.reason == "the answer has 5 words, which only a judge could compare"
    assert unknown.reason == "'subset' is 'other', neither over- nor underthinking"


def test_local_rows_and_hub_rows_have_the_same_ids(hub, tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps(HUB_ROWS["gsm8k"]) + "\n")
    assert read("gsm8k", "test", tmp_path) == read("gsm8k", "test")[:1]
    assert len(hub) == 1  # the local file was enough


def test_what_is_not_in_the_folder_comes_from_the_hub(hub, tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps(HUB_ROWS["gsm8k"]) + "\n")
    read("gsm8k", "train", tmp_path)
    assert hub == [("openai/gsm8k", "main", "train")]


@pytest.mark.parametrize("at", ["load", "row"])
def test_hub_that_cannot_be_reached(monkeypatch, tmp_path, at):
    def fail():
        raise ConnectionError("Couldn't reach it\nand a long explanation")
        yield

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: fail() if at == "row" else next(fail()))
    with pytest.raises(UserError) as caught:
        read("aime25", "test", tmp_path)
    assert str(caught.value) == (
        "cannot read 'aime25' from the hub (opencompass/AIME2025): Couldn't reach it; connect, or give the folder that "
        "holds aime2025-I.jsonl and aime2025-II.jsonl with --data"
    )


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"^no folder '.*nowhere' for data: give the folder that holds local copies"):
        read("gsm8k", "test", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("gsm8k", {"problem": "a", "answer": "#### 1"}, "no field 'question'; fields here: problem, answer"),
        ("gsm8k", {"question": " ", "answer": "#### 1"}, "'question' is empty; every problem needs a question"),
        ("svamp", {"Body": "a", "Question": "b"}, "no field 'Answer'; fields here: Body, Question"),
    ],
)
def test_bad_rows_keep_their_place(tmp_path, name, row, reason):
    file = SETS[name].splits["test"].files[0]
    (tmp_path / file).write_text(json.dumps(HUB_ROWS[name]) + "\n" + json.dumps(row) + "\nno\n")
    good, bad, worse = read(name, "test", tmp_path)
    assert isinstance(good, Problem)
    assert bad == BadRow(f"{tmp_path / file}, line 2", reason)
    assert str(worse).startswith(f"{tmp_path / file}, line 3: not valid JSON")


def test_bad_rows_in_the_archive_of_mmlu(tmp_path):
    text = 'Which?,v,w,x,y,C\nWhich?,v,w,x,y,E\nWhich?,v,w,"x,y",C\n'
    with zipfile.ZipFile(tmp_path / "mmlu_full.zip", "w") as archive:
        archive.writestr("data/test/virology_test.csv", text)
        archive.writestr("data/val/virology_val.csv", text)
        archive.writestr("data/README.txt", "no")
    good, letter, cells = read("mmlu", "test", tmp_path)
    assert (good.answer, good.level) == ("C", "other")
    where = f"{tmp_path}/mmlu_full.zip/data/test/virology_test.csv"
    assert str(letter) == f"{where}, line 2: the answer 'E' is none of the letters A to D, nor an index from 0"
    assert str(cells) == f"{where}, line 3: 5 cells where 6 were expected"


def test_archive_that_is_none(tmp_path):
    (tmp_path / "mmlu_full.zip").write_bytes(b"no")
    with pytest.raises(UserError, match=r"mmlu_full\.zip: not a ZIP archive that can be read"):
        read("mmlu", "test", tmp_path)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"Thus $x = \boxed{5}$.", "5"),
        (r"First \boxed{1}, then \boxed{\frac{1}{2}} indeed.", r"\frac{1}{2}"),
        (r"So \fbox{7} it is.", "7"),
        (r"So $\boxed 9$.", "9"),
        (r"So \framebox{7}.", ""),
        (r"So \boxed{7", ""),
        ("So 7.", ""),
    ],
)
def test_read_boxed(solution, answer):
    assert read_boxed(solution) == answer


@pytest.mark.parametrize(
    ("value", "text"), [(27.0, "27"), ("-3.0", "-3"), (0.5, "0.5"), ("1.00", "1.00"), (" x ", "x"), (None, "")]
)
def test_format_reference_answer(value, text):
    assert format_reference_answer(value) == text
