"""Problems by name: which split a name means, what the prompt is, what is held out and left out."""

import json

import pytest

from adaptthink.config.schema import PresampleConfig
from adaptthink.errors import UserError
from adaptthink.evaluation.levels import name_set
from adaptthink.grading import AnswerKind
from adaptthink.problems import sources
from adaptthink.problems.files import Fields, read_problems
from adaptthink.problems.sets import SETS
from adaptthink.problems.sources import (
    BOXED,
    BOXED_LETTER,
    ArithmeticSource,
    FileSource,
    GymSource,
    Purpose,
    Reading,
    SetSource,
    WordsSource,
    choose_evaluation_problems,
    choose_training_problems,
    make_reading,
    name_problem_set,
    parse_name,
    read_every_problem,
)
from adaptthink.storage.rows import BadRow


@pytest.fixture
def data(tmp_path):
    """A folder with a small GSM8K, MATH train and AIME 2024 in their original forms."""
    for name, count in (("gsm8k_train.jsonl", 40), ("gsm8k_test.jsonl", 5)):
        rows = [{"question": f"{name} {n}?", "answer": f"so\n#### {n}"} for n in range(count)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"problem": f"math {n}?", "answer": str(n), "difficulty": float(n % 6)} for n in range(60)]
    rows[7]["answer"], rows[8]["answer"] = None, " "
    (tmp_path / "math_train_answers.json").write_text(json.dumps(rows))
    return tmp_path


def train(name, data=None, per_level=3, held_out_per_level=2, **options):
    reading = Reading(data=data, **options)
    return choose_training_problems(
        name, per_level=per_level, held_out_per_level=held_out_per_level, seed=0, reading=reading
    )


def evaluate(name, data=None, per_level=3, **options):
    return choose_evaluation_problems(name, per_level=per_level, seed=0, reading=Reading(data=data, **options))


@pytest.mark.parametrize(
    ("name", "purpose", "source"),
    [
        ("arithmetic", Purpose.TRAINING, ArithmeticSource()),
        ("words", Purpose.TRAINING, WordsSource()),
        ("words:shifted", Purpose.EVALUATION, WordsSource(shifted=True)),
        ("reasoning_gym:chain_sum", Purpose.TRAINING, GymSource("chain_sum")),
        ("gsm8k", Purpose.TRAINING, SetSource("gsm8k", "train")),
        ("gsm8k", Purpose.EVALUATION, SetSource("gsm8k", "test")),
        ("gsm8k", Purpose.CHECK, SetSource("gsm8k", "train")),
        ("gsm8k", Purpose.AGAINST, SetSource("gsm8k", "test")),
        ("gsm8k:test", Purpose.TRAINING, SetSource("gsm8k", "test")),
        ("math", Purpose.AGAINST, SetSource("math", "train")),
        ("math500", Purpose.CHECK, SetSource("math500", "test")),
        ("aime24:test", Purpose.TRAINING, SetSource("aime24", "test")),
        ("mmlu:stem", Purpose.EVALUATION, SetSource("mmlu", "test", "stem")),
        ("mmlu:validation:virology", Purpose.EVALUATION, SetSource("mmlu", "validation", "virology")),
        ("mmlu:virology:validation", Purpose.TRAINING, SetSource("mmlu", "validation", "virology")),
    ],
)
def test_names(name, purpose, source):
    assert parse_name(name, purpose) == [source]


def test_names_joined_by_commas(tmp_path):
    path = tmp_path / "p.jsonl"
    path.touch()
    assert parse_name(f"math, {path}", Purpose.TRAINING) == [SetSource("math", "train"), FileSource(path)]


def test_path_with_a_comma(tmp_path):
    path = tmp_path / "a,b.jsonl"
    path.touch()
    assert parse_name(str(path), Purpose.TRAINING) == [FileSource(path)]


@pytest.mark.parametrize(
    ("name", "purpose", "message"),
    [
        ("gsm8kk", Purpose.TRAINING, "no problems are called 'gsm8kk'; did you mean 'gsm8k'?"),
        (
            "zzz",
            Purpose.TRAINING,
            "no problems are called 'zzz'; give the path of a file, or one of: arithmetic, words, "
            f"reasoning_gym:<family>, {', '.join(SETS)}",
        ),
        ("gsm8k,", Purpose.TRAINING, "no problems are called ''; give the path of a file, or one of: arithmetic"),
        ("gsm8k:dev", Purpose.TRAINING, "'gsm8k' has no split or part 'dev'; it has: train, test"),
        ("mmlu:stemm", Purpose.EVALUATION, "'mmlu' has no split or part 'stemm'; did you mean 'stem'?"),
        ("mmlu:stem:other", Purpose.EVALUATION, "'mmlu:stem:other' names more than one split or part; join"),
        (
            "aime24",
            Purpose.TRAINING,
            "'aime24' has no split for training; sets that have one: gsm8k, math, deepscaler, svamp; "
            "or give 'aime24:test' to use it all the same",
        ),
        (
            "math",
            Purpose.EVALUATION,
            "'math' has no split for evaluation; sets that have one: gsm8k, math500, aime24, aime25, amc23, mmlu, "
            "mmlu_pro, gpqa, minerva, olympiadbench, otb, "
            "svamp; or give 'math:train' to use it all the same",
        ),
    ],
)
def test_bad_names(name, purpose, message):
    with pytest.raises(UserError) as caught:
        parse_name(name, purpose)
    assert str(caught.value).startswith(message)


def test_training_and_evaluation_take_different_splits(data):
    chosen = train("gsm8k", data)
    assert len(chosen.problems) + len(chosen.held_out) == 40
    assert len(chosen.held_out) == 2
    assert {problem.source for problem in chosen.problems} == {"gsm8k/train"}
    assert [problem.source for problem in evaluate("gsm8k", data).problems] == ["gsm8k/test"] * 5


def test_references_that_cannot_be_parsed_are_left_out_and_counted(data):
    chosen = train("math", data)
    assert chosen.num_unparsable == 2
    everything = [*chosen.problems, *chosen.held_out]
    assert len(everything) == 58
    assert not {"math 7?", "math 8?"} & {problem.prompt.partition("\n")[0] for problem in everything}


def test_evaluation_of_unparsable_references_alone(data):
    rows = json.loads((data / "math_train_answers.json").read_text())[7:9]
    (data / "math_train_answers.json").write_text(json.dumps(rows))
    with pytest.raises(
        UserError, match=r"^math:train: none of its 2 problems has a reference answer that can be parsed"
    ):
        evaluate("math:train", data)


def test_held_out_problems_come_from_all_sets_together(data):
    chosen = train("math,gsm8k", data, held_out_per_level=1)
    assert len(chosen.held_out) == 6  # levels 1 to 5 and none
    assert len(chosen.problems) == 58 + 40 - 6


def test_procedural_problems_beside_others(data):
    chosen = train("arithmetic,gsm8k", data)
    assert len(chosen.problems) == 3 * 5 + 40 - 2
    assert len(chosen.held_out) == 2 * 5 + 2
    evaluation = evaluate("arithmetic,gsm8k", data)
    assert len(evaluation.problems) == 3 * 5 + 5
    assert evaluation.held_out == []


def test_own_instructions(data, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": "A", "choices": ["x", "y"]}\n'
    )
    assert evaluate("gsm8k", data).problems[0].prompt == f"gsm8k_test.jsonl 0?\n{BOXED}"
    plain, choice = evaluate(str(tmp_path / "p.jsonl")).problems
    assert plain.prompt == "a"
    assert choice.prompt == f"b\nA. x\nB. y\n{BOXED_LETTER}"
    assert evaluate("arithmetic").problems[0].prompt.endswith("=?")


@pytest.mark.parametrize("name", ["gsm8k", "arithmetic"])
def test_given_instructions(data, name):
    bare = evaluate(name, data, instruction="").problems
    instructed = evaluate(name, data, instruction="Say it.").problems
    assert [problem.prompt for problem in instructed] == [f"{problem.prompt}\nSay it." for problem in bare]
    assert not {problem.id for problem in instructed} & {problem.id for problem in bare}  # another text, another id
    assert "\n" not in bare[0].prompt


def test_choice_of_problems_does_not_change_with_the_instruction(data):
    def first_lines(problems):
        return [problem.prompt.partition("\n")[0] for problem in problems]

    one, other = (train("gsm8k", data, max_problems=20, instruction=text) for text in ("", "Say it."))
    assert first_lines(one.problems) == first_lines(other.problems)
    assert first_lines(one.held_out) == first_lines(other.held_out)


def test_max_problems_takes_the_smallest_ids_in_order(data, monkeypatch):
    everything = evaluate("gsm8k:train", data, instruction="").problems
    smallest = sorted(problem.id for problem in everything)[:7]
    expected = [problem for problem in everything if problem.id in smallest]
    assert evaluate("gsm8k:train", data, instruction="", max_problems=7).problems == expected
    monkeypatch.setattr(sources, "PARSED_AT_ONCE", 1)  # so that the rest is dropped while reading
    assert evaluate("gsm8k:train", data, instruction="", max_problems=7).problems == expected
    assert len(evaluate("arithmetic", max_problems=4).problems) == 4
    assert len(evaluate("gsm8k", data, max_problems=99).problems) == 5


def test_training_stops_at_a_bad_row_but_a_check_goes_on(data):
    path = data / "gsm8k_train.jsonl"
    path.write_text(path.read_text().replace('"question": "gsm8k_train.jsonl 3?"', '"question": ""'))
    with pytest.raises(UserError) as caught:
        train("gsm8k", data)
    assert str(caught.value) == f"{path}, line 4: 'question' is empty; every problem needs a question"
    rows = list(read_every_problem("gsm8k", Purpose.CHECK, per_level=1, seed=0, reading=Reading(data=data)))
    assert [number for number, row in enumerate(rows, start=1) if isinstance(row, BadRow)] == [4]
    assert len(rows) == 40


def test_reading_from_settings(tmp_path):
    config = PresampleConfig(data=tmp_path, fields="prompt=q", instruction="", max_problems=3)
    assert make_reading(config) == Reading(tmp_path, Fields(prompt="q"), "", 3)
    assert make_reading(PresampleConfig()) == Reading()


def test_mapping_reaches_files(tmp_path):
    (tmp_path / "p.csv").write_text("q,final\na,1\n")
    (problem,) = evaluate(str(tmp_path / "p.csv"), fields=Fields(prompt="q", answer="final")).problems
    assert (problem.prompt, problem.answer, problem.kind) == ("a", "1", AnswerKind.MATH)


def test_stand_in_for_deepscaler(data_folder):
    """MATH train with AIME 1983 to 2023; four answers of MATH cannot be parsed."""
    chosen = train(f"math,{data_folder}/aime_1983_2023.json", data_folder, held_out_per_level=16)
    assert len(chosen.problems) + len(chosen.held_out) + chosen.num_unparsable == 7474 + 975
    assert chosen.num_unparsable >= 4
    assert len(read_problems(data_folder / "aime_1983_2023.json")) == 975


@pytest.mark.parametrize("name", ["arithmetic", "words", "words:shifted", "gsm8k", "mmlu:stem"])
def test_a_source_has_the_name_that_its_problems_are_grouped_by(data_folder, name):
    [source] = parse_name(name, Purpose.EVALUATION)
    found = choose_evaluation_problems(name, per_level=1, seed=0, reading=Reading(data=data_folder)).problems
    assert {name_set(problem) for problem in found} == {name_problem_set(source)}


def test_a_file_has_the_name_that_its_problems_are_grouped_by(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "1+1=?", "answer": "2"}\n')
    [problem] = choose_evaluation_problems(str(path), per_level=1, seed=0).problems
    assert name_set(problem) == name_problem_set(FileSource(path)) == "mine.jsonl"
