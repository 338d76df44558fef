"""Problems from files: every fault is reported in one line with the file and the line."""

import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.problems import Problem, arithmetic, from_row, make_problem, make_problem_id, sources, to_row
from adaptthink.problems.files import Fields, parse_fields, read_file, read_problems
from adaptthink.problems.sources import Reading, choose_evaluation_problems, choose_training_problems
from adaptthink.storage.rows import BadRow

GOOD = b'{"prompt": "1+1=?", "answer": "2"}\n'


def write_rows(path, count, levels=1):
    rows = [{"prompt": f"q{n}", "answer": str(n), "level": n % levels} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_good_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"prompt": "1+1=?", "answer": "2", "level": 1}\n'
        "\n"
        '{"prompt": "2/4=?", "answer": 0.5}\n'
        "   \t\n"
        '{"prompt": "1+1=?", "answer": 2, "level": 4}\n'  # the first again, its answer as a number
        '{"prompt": "1+1=?", "answer": "3"}\n'  # another answer is another problem
        '{"prompt": "größer?", "answer": "ja", "level": -2, "unused": [1]}',
        encoding="utf-8",
    )
    assert read_problems(path) == [
        Problem(make_problem_id("1+1=?", "2", "mine.jsonl"), "1+1=?", "2", 1, "mine.jsonl"),
        Problem(make_problem_id("2/4=?", "0.5", "mine.jsonl"), "2/4=?", "0.5", None, "mine.jsonl"),
        Problem(make_problem_id("1+1=?", "3", "mine.jsonl"), "1+1=?", "3", None, "mine.jsonl"),
        Problem(make_problem_id("größer?", "ja", "mine.jsonl"), "größer?", "ja", -2, "mine.jsonl"),
    ]


def test_windows_line_ends(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD.replace(b"\n", b"\r\n") + b"\r\n" + b'{"prompt": "b", "answer": "3"}\r\n')
    assert [problem.prompt for problem in read_problems(path)] == ["1+1=?", "b"]


def test_ids_do_not_depend_on_the_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.jsonl").write_bytes(GOOD)
    assert read_problems(tmp_path / "a/p.jsonl") == read_problems(tmp_path / "b/p.jsonl")


NO_PROMPT = "'prompt' is missing or empty; every problem needs a question; fields here: {}; " + (
    "name another with --fields prompt=FIELD"
)
NO_ANSWER = "'answer' is missing or empty; a problem without an answer cannot be graded; fields here: {}; " + (
    "name another with --fields answer=FIELD"
)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"prompt": "a", answer}', "not valid JSON: Expecting property name enclosed in double quotes (column 17)"),
        (b'["a", "b"]', "expected a JSON object, found list"),
        (b'"a"', "expected a JSON object, found str"),
        (b'{"answer": "2"}', NO_PROMPT.format("answer")),
        (b'{"prompt": "  ", "answer": "2"}', NO_PROMPT.format("prompt, answer")),
        (
            b'{"prompt": 5, "answer": "2"}',
            "'prompt' is of type int; a text or a list of chat messages is needed; fields here: prompt, answer; "
            "name another with --fields prompt=FIELD",
        ),
        (b'{"prompt": "a", "solution, worked": "2"}', NO_ANSWER.format('prompt, "solution, worked"')),
        (b'{"prompt": "a", "answer": ""}', NO_ANSWER.format("prompt, answer")),
        (b'{"prompt": "a", "answer": null}', NO_ANSWER.format("prompt, answer")),
        (
            b'{"prompt": "a", "answer": true}',
            '\'answer\' is true; one text or number is needed: write it as text, such as "true" or "yes"',
        ),
        (
            b'{"prompt": "a", "gold": {"style": [], "value": "2"}}',
            "'gold' is an object with style, value; one text or number is needed: "
            "reach into it with --fields answer=gold.value",
        ),
        (
            b'{"prompt": "a", "answer": [["2"], ["3"]]}',
            "'answer' is a list of lists; one text or number is needed: give its parts as one list",
        ),
        (
            b'{"prompt": "a", "answer": NaN}',
            "'answer' is nan, which is no number; one text or number is needed: repair the row",
        ),
        (
            b'{"prompt": "a \\ud800", "answer": "2"}',
            "'prompt' holds half a character (the lone surrogate \\ud800); repair the text",
        ),
        (
            b'{"prompt": "a", "answer": "\\udfff"}',
            "'answer' holds half a character (the lone surrogate \\udfff); repair the text",
        ),
        (
            b'{"prompt": "a", "answer": "2", "level": ' + b"9" * 4301 + b"}",
            "'level' has 4,301 digits; a whole number or a name is needed",
        ),
        (b'{"prompt": "a", "answer": "2", "level": [1]}', "'level' must be a whole number or a name, found [1]"),
        (b'{"prompt": "a", "answer": "2", "level": 1.5}', "'level' must be a whole number or a name, found 1.5"),
        (b'{"prompt": "a", "answer": "2", "level": true}', "'level' must be a whole number or a name, found True"),
        (
            b'{"prompt": "a", "answer": "2", "kind": "essay"}',
            "'kind' must be one of math, choice, reasoning_gym, found 'essay'",
        ),
        (
            b'{"prompt": "a", "answer": "E", "choices": ["x", "y"]}',
            "the answer 'E' is none of the letters A to B, nor an index from 0",
        ),
        (
            b'{"prompt": "a", "answer": 2, "choices": ["x", "y"]}',
            "the answer '2' is none of the letters A to B, nor an index from 0",
        ),
        (b'{"prompt": "a", "answer": "A", "choices": ["x"]}', "1 choices; a multiple-choice problem has 2 to 26"),
        (b'{"prompt": "a", "answer": "A", "choices": "x"}', "'choices' must be a list, found 'x'"),
        (b'{"prompt": "a", "answer": "A", "choices": [["x"]]}', "'choices' must be a list of texts, found [['x']]"),
        (
            b'{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "answer": "2"}',
            "'prompt' ends in a message of role 'assistant'; the last one must be the user's question",
        ),
        (
            b'{"prompt": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, '
            b'{"role": "user", "content": "c"}], "answer": "2"}',
            "'prompt' has a system message after its first; put all of it into the first",
        ),
        (
            b'{"prompt": [{"role": "user", "content": [{"type": "image_url"}]}], "answer": "2"}',
            "'prompt' has a message whose parts are not all text; images and files are not supported",
        ),
        (
            b'{"prompt": [{"role": "tool", "content": "a"}], "answer": "2"}',
            "'prompt' has a message of role 'tool'; known are system, user and assistant",
        ),
        (b'{"prompt": [{"role": "user", "content": ""}], "answer": "2"}', NO_PROMPT.format("prompt, answer")),
        (b"[" * 100_000, "not usable: JSON nested too deeply"),
        (
            b'{"prompt": "\xe9t\xe9", "answer": "2"}',
            "not UTF-8 text (invalid continuation byte at byte 12 of the line)",
        ),
    ],
)
def test_malformed_line(tmp_path, line, complaint):
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(UserError) as caught:
        read_problems(path)
    assert str(caught.value) == f"{path}, line 3: {complaint}"


def test_line_number_far_into_a_file_that_is_not_utf8(tmp_path):
    """Beyond any buffer of a text reader, where a position within the buffer would mean nothing."""
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD * 2000 + b'{"prompt": "\xff", "answer": "1"}\n')
    with pytest.raises(UserError, match=r"p\.jsonl, line 2001: not UTF-8 text"):
        read_problems(path)


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_file_without_problems(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_problems(path)
    assert str(caught.value) == f"{path}: holds no problem; expected one JSON object a line with 'prompt' and 'answer'"


def test_missing_file(tmp_path):
    path = tmp_path / "nowhere.jsonl"
    with pytest.raises(UserError) as caught:
        read_problems(path)
    assert str(caught.value) == (
        f"no problem file '{path}': give the path of a file or folder (JSON lines, JSON, CSV, TSV, Parquet or Arrow), "
        "or the name of a set"
    )


@pytest.mark.parametrize(
    ("count", "levels", "per_level", "held_out"),
    [(10, 1, 16, 1), (50, 1, 16, 5), (50, 1, 3, 3), (100, 2, 3, 6), (19, 1, 16, 1)],
)
def test_held_out_problems_of_a_file(tmp_path, count, levels, per_level, held_out):
    name = write_rows(tmp_path / "p.jsonl", count, levels)
    chosen = choose_training_problems(name, per_level=99, held_out_per_level=per_level, seed=0)
    train, other = chosen.problems, chosen.held_out
    assert chosen.num_unparsable == 0
    assert len(other) == held_out
    assert not {problem.id for problem in train} & {problem.id for problem in other}
    everything = read_problems(tmp_path / "p.jsonl")
    assert {problem.id for problem in train} | {problem.id for problem in other} == {p.id for p in everything}
    assert max(problem.id for problem in other) < min(problem.id for problem in train)
    assert train == [problem for problem in everything if problem in train]  # in the file's order


def test_held_out_problems_do_not_depend_on_order_or_seed(tmp_path):
    name = write_rows(tmp_path / "p.jsonl", 60)
    first = choose_training_problems(name, per_level=99, held_out_per_level=16, seed=0)
    lines = (tmp_path / "p.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "p.jsonl").write_text("".join(reversed(lines)))
    again = choose_training_problems(name, per_level=5, held_out_per_level=16, seed=9)
    assert again.held_out == first.held_out
    assert again.problems == first.problems[::-1]


def test_too_few_problems_to_train_on(tmp_path):
    name = write_rows(tmp_path / "p.jsonl", 9)
    with pytest.raises(UserError) as caught:
        choose_training_problems(name, per_level=9, held_out_per_level=1, seed=0)
    assert str(caught.value) == f"{name}: 9 problems are too few to train on; at least 10"


def test_a_file_is_evaluated_whole(tmp_path):
    name = write_rows(tmp_path / "p.jsonl", 9)
    assert choose_evaluation_problems(name, per_level=2, seed=0).problems == read_problems(tmp_path / "p.jsonl")


def test_arithmetic_sources_are_disjoint():
    chosen = choose_training_problems("arithmetic", per_level=20, held_out_per_level=5, seed=0)
    train, held_out = chosen.problems, chosen.held_out
    evaluation = choose_evaluation_problems("arithmetic", per_level=20, seed=0).problems
    story = choose_evaluation_problems("arithmetic", per_level=20, seed=0, kind="story").problems
    assert [len(part) for part in (train, held_out, evaluation, story)] == [100, 25, 100, 100]
    prompts = [{problem.prompt for problem in part} for part in (train, held_out, evaluation, story)]
    assert sum(len(part) for part in prompts) == len(set.union(*prompts)) == 325
    assert story[0].prompt.startswith("Tom has ")


def test_too_many_arithmetic_problems_is_bad_input(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("only 7 there")

    monkeypatch.setattr(arithmetic, "generate_problems", refuse)
    with pytest.raises(UserError, match=r"^only 7 there$"):
        choose_training_problems("arithmetic", per_level=1, held_out_per_level=8, seed=0)
    with pytest.raises(UserError, match=r"^only 7 there$"):
        choose_evaluation_problems("arithmetic", per_level=8, seed=0)


def test_mapping_reaches_into_nested_objects(tmp_path):
    """The form of verl's Parquet files: chat messages as prompt, the answer inside another object."""
    row = {
        "prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1=?"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "extra_info": {"level": "3"},
    }
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    mapping = parse_fields("answer=reward_model.ground_truth, level=extra_info.level")
    (problem,) = read_problems(tmp_path / "p.parquet", mapping)
    assert (problem.prompt, problem.answer, problem.level) == ("1+1=?", "2", 3)


def test_a_column_with_a_dot_in_its_name_comes_first(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "x.y": "1", "x": {"y": "2"}}\n')
    assert read_problems(tmp_path / "p.jsonl", Fields(answer="x.y"))[0].answer == "1"


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": None, "question": "b", "answer": "1"}, "b", "1"),
        ({"prompt": " ", "problem": "b", "answer": None, "gold": ["1"]}, "b", "1"),
        ({"Question": "b", "ANSWER": 42.0}, "b", "42.0"),
        ({"Prompt": "a", "prompt": "b", "answer": "1"}, "b", "1"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}], "answer": "1"}, "b", "1"),
        ({"prompt": "a", "problem": "b", "answer": "1", "gold": "2"}, "a", "1"),
        ({"problem": "b", "question": "c", "gold": 2}, "b", "2"),
        ({"question": "c", "gold": "2"}, "c", "2"),
    ],
)
def test_usual_names(tmp_path, row, prompt, answer):
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    (problem,) = read_problems(tmp_path / "p.jsonl")
    assert (problem.prompt, problem.answer) == (prompt, answer)


@pytest.mark.parametrize(
    ("level", "read"), [(3, 3), (3.0, 3), ("3", 3), ("-2", -2), ("Level 5", "Level 5"), ("", None), (None, None)]
)
def test_levels(tmp_path, level, read):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a", "answer": "1", "level": level}))
    assert read_problems(tmp_path / "p.jsonl")[0].level == read


def test_multiple_choice(tmp_path):
    rows = [
        {"prompt": "Which?", "choices": ["red", "blue", 3], "answer": answer, "kind": "math"} for answer in ("b", 2)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = read_problems(tmp_path / "p.jsonl")
    assert [problem.answer for problem in problems] == ["B", "C"]
    assert {problem.prompt for problem in problems} == {"Which?\nA. red\nB. blue\nC. 3"}
    assert {problem.kind for problem in problems} == {AnswerKind.CHOICE}


def test_multiple_choice_in_csv(tmp_path):
    (tmp_path / "p.csv").write_text('question,options,answer\nWhich?,"[""x"", ""y""]",1\nHow many?,,7\n')
    choice, plain = read_problems(tmp_path / "p.csv", Fields(choices="options"))
    assert (choice.prompt, choice.answer, choice.kind) == ("Which?\nA. x\nB. y", "B", AnswerKind.CHOICE)
    assert (plain.prompt, plain.answer, plain.kind) == ("How many?", "7", AnswerKind.MATH)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", Fields()),
        ("prompt=q", Fields(prompt="q")),
        (" prompt = q , answer=a.b,level=l,kind=k,choices=c,", Fields("q", "a.b", "l", "k", "c")),
        ('prompt="q, in words",answer="a=b"', Fields("q, in words", "a=b")),
    ],
)
def test_mappings(text, fields):
    assert parse_fields(text) == fields


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=q", "promt=q"])
def test_bad_mappings(text):
    with pytest.raises(UserError, match=f"^fields: '{text}' is no mapping; give pairs such as prompt=question"):
        parse_fields(f"answer=a,{text}")


def test_mapping_with_a_quote_that_does_not_close():
    with pytest.raises(UserError, match="has a double quote that is not closed"):
        parse_fields('prompt="q, in words')


def test_what_precedes_a_question_is_kept(tmp_path):
    """In either form of messages; the context is part of the id, and survives the file on disk."""
    turns = [("system", "Base 3."), ("user", "1+1=?"), ("assistant", "2"), ("user", "1+2=?")]
    shared = {"human": "user", "gpt": "assistant"}
    rows = [
        {"prompt": [{"role": role, "content": content} for role, content in turns], "answer": "10"},
        {
            "conversations": [
                {"from": next((k for k in shared if shared[k] == role), role), "value": content}
                for role, content in turns
            ],
            "answer": "10",
        },
        {"prompt": [{"role": "developer", "content": "Base 3."}, {"role": "user", "content": "1+2=?"}], "answer": "10"},
        {"prompt": "1+2=?", "answer": "10"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = choose_evaluation_problems(str(path), per_level=1, seed=0, reading=Reading(instruction="Box it."))
    whole, system_only, plain = chosen.problems
    assert [(one.role, one.content) for one in whole.messages] == [*turns[:3], ("user", "1+2=?\nBox it.")]
    assert [(one.role, one.content) for one in system_only.context] == [("system", "Base 3.")]
    assert plain == make_problem("1+2=?\nBox it.", "10", source="p.jsonl")
    assert len({problem.id for problem in chosen.problems}) == 3
    assert [from_row(json.loads(json.dumps(to_row(problem)))) for problem in chosen.problems] == list(chosen.problems)
    assert "context" not in to_row(plain)


def notes(tmp_path, rows, **reading):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return choose_evaluation_problems(str(path), per_level=1, seed=0, reading=Reading(**reading)).notes


def test_prompts_without_a_box_are_named(tmp_path):
    rows = [
        {"prompt": "a", "answer": "1"},
        {"prompt": "b", "answer": "2"},
        {"prompt": "c, in \\boxed{}", "answer": "3"},
        {"prompt": [{"role": "system", "content": "Use \\fbox{}."}, {"role": "user", "content": "d"}], "answer": "4"},
        {"prompt": "e", "answer": "A", "choices": ["x", "y"]},
    ]
    (note,) = notes(tmp_path, rows)
    assert note.startswith(
        "2 of 5 prompts do not mention \\boxed{}, and only boxed answers are read: add --instruction '"
    )
    assert "--no-boxed-only" in note
    assert len(notes(tmp_path, rows, instruction="Be brief.")) == 1
    for silent in ({"instruction": ""}, {"instruction": "In \\boxed{}."}, {"boxed_only": False}):
        assert notes(tmp_path, rows, **silent) == ()


@pytest.mark.parametrize("max_problems", [None, 2])
def test_repeated_rows_count_once_and_are_named(tmp_path, max_problems):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "1"}, {"prompt": "a", "answer": 1}]
    expected = ("1 rows repeat an earlier problem, with the same answer: each problem counts once",)
    assert notes(tmp_path, rows, max_problems=max_problems, instruction="") == expected
    assert notes(tmp_path, rows[:2], max_problems=max_problems, instruction="") == ()


def test_long_numbers_in_any_field_are_no_traceback(tmp_path):
    digits = "9" * 5000
    path = tmp_path / "p.csv"
    rows = [f"a,1,{digits},", f'a,{digits},,"[""x"", ""y""]"', f"a,1,,[{digits}]", "b,1,,"]
    path.write_text("\n".join(["prompt,answer,level,choices", *rows]))
    found = list(read_file(path))
    assert [isinstance(row, BadRow) for row in found] == [True, True, True, False]
    assert all(len(str(row)) < 400 for row in found[:3])


def test_mapping_given_twice():
    with pytest.raises(UserError, match="'prompt' is mapped twice, to 'a' and to 'b'"):
        parse_fields("prompt=a,prompt=b")


def test_mapped_column_that_a_row_does_not_have(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"q": "a", "answer": "1"}\n{"answer": "2", "x": 1}\n')
    with pytest.raises(UserError) as caught:
        read_problems(tmp_path / "p.jsonl", Fields(prompt="q"))
    assert str(caught.value) == (
        f"{tmp_path / 'p.jsonl'}, line 2: no field 'q', which 'prompt' is mapped to; fields here: answer, x"
    )


@pytest.mark.parametrize("name", ["level", "kind", "choices"])
def test_mapped_column_that_no_row_has(tmp_path, name):
    """These may be missing from a row, so that a misspelt one would pass in silence."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": "2", "x": 1}\n')
    with pytest.raises(UserError) as caught:
        read_problems(tmp_path / "p.jsonl", parse_fields(f"{name}=dificulty"))
    assert str(caught.value) == (
        f"{tmp_path / 'p.jsonl'}: no row has the field 'dificulty' that '{name}' is mapped to; "
        "fields found: prompt, answer, x"
    )


def test_mapped_level_may_be_missing_from_some_rows(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": "2", "x": 4}\n')
    assert [problem.level for problem in read_problems(tmp_path / "p.jsonl", Fields(level="x"))] == [None, 4]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.csv", "prompt,answer\n", "a first line that names the columns, with 'prompt' and 'answer'"),
        ("p.json", "[]", "an array of objects with 'prompt' and 'answer'"),
    ],
)
def test_other_files_without_problems(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read_problems(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: holds no problem; expected {expected}"


@pytest.mark.slow
def test_problems_of_a_file_are_not_in_memory(tmp_path, monkeypatch):
    """Without the grader, which caches some tens of thousands of reference answers whatever the size of the file."""
    monkeypatch.setattr("adaptthink.problems.table.SPOOL_BYTES", 2**16)
    monkeypatch.setattr(sources, "find_parsable", lambda reference_answers: [True] * len(reference_answers))
    path = tmp_path / "p.jsonl"
    with path.open("w") as file:
        for n in range(20_000):
            file.write(json.dumps({"prompt": f"{n} " + "x" * 360, "answer": str(n)}) + "\n")
    size = path.stat().st_size
    choose_training_problems(
        write_rows(tmp_path / "few.jsonl", 99), per_level=1, held_out_per_level=1, seed=0
    )  # imports
    tracemalloc.start()
    try:
        chosen = choose_training_problems(str(path), per_level=1, held_out_per_level=16, seed=0)
        _, peak = tracemalloc.get_traced_memory()
        assert len(chosen.problems) == 20_000 - 16
        assert all(len(problem.prompt) > 360 for problem in chosen.problems)
        held, peak_of_reading = tracemalloc.get_traced_memory()
        del chosen
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        few = choose_evaluation_problems(str(path), per_level=1, seed=0, reading=Reading(max_problems=50))
        _, peak_of_few = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(few.problems) == 50
    assert size > 20_000 * 360
    assert peak_of_reading == peak
    assert held < 20_000 * 20 + 2**18  # an offset in the file and one among the chosen, besides what does not grow
    assert peak < size / 3  # some thousand problems at a time
    assert peak_of_few - before < 2**18
