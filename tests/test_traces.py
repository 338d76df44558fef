"""Traces of a cold start: solutions that problems have, a teacher's correct responses, and files in both formats."""

import json
import re

import pytest
from chat_server import serving, stream

import adaptthink as at
from adaptthink.engines.native import NativeEngine
from adaptthink.errors import UserError
from adaptthink.models.loading import load_policy
from adaptthink.modes import Message
from adaptthink.problems.arithmetic import Split, generate_problems
from adaptthink.problems.traces import Trace, read_traces
from adaptthink.storage.kinds import PathKind, identify

SMALL = {"max_think_tokens": 96, "max_no_think_tokens": 16}


@pytest.fixture
def server(monkeypatch):
    yield from serving(monkeypatch)


@pytest.mark.parametrize("name", ["words", "arithmetic", "words, arithmetic"])
def test_solutions_are_correct_and_of_a_split_of_their_own(tmp_path, name):
    made = at.make_traces(name, output=tmp_path / "t.jsonl", problems_per_level=6, instruction="Box it.")
    assert len(made) == 30 * len(name.split(","))
    for trace in made:
        [asked] = trace.messages
        assert asked.content.endswith("?\nBox it.")
        assert trace.source.endswith("/supervised")
        result = re.findall(r"=(\d+)", trace.thinking)[-1]  # of the last equation
        solution, _, box = trace.answer.rpartition("\\boxed")
        assert box == f"{{{result}}}"
        assert bool(solution) == trace.source.startswith("words")  # its steps, which at once are all there is
        assert re.findall(r"\S+=\d+", solution)[-1:] in ([], re.findall(r"\S+=\d+", trace.thinking)[-1:])
        assert trace.thinking.startswith("Alright")
    assert {trace.level for trace in made} == {1, 2, 3, 4, 5}
    assert read_traces(tmp_path / "t.jsonl") == made
    assert identify(tmp_path / "t.jsonl") is PathKind.TRACES


def test_solutions_answer_the_questions_of_the_split(tmp_path):
    made = at.make_traces("arithmetic", output=tmp_path / "t.jsonl", problems_per_level=4, seed=3)
    problems = generate_problems(4, seed=3, split=Split.SUPERVISED)
    assert [trace.id for trace in made] == [problem.id for problem in problems]
    for trace, problem in zip(made, problems, strict=True):
        assert at.grade(trace.answer, problem.answer).verdict is at.Verdict.CORRECT


class Counting(NativeEngine):
    calls = 0

    def generate(self, requests, **options):
        self.calls += len(requests)
        return super().generate(requests, **options)


def test_a_teachers_correct_thoughts_are_kept_and_nothing_is_sampled_twice(tmp_path):
    policy = load_policy("tiny")
    engine = Counting(policy.model, policy.eos_ids)
    options = {"teacher": policy, "engine": engine, "problems_per_level": 3, "samples_per_problem": 2} | SMALL
    made = at.make_traces("arithmetic", output=tmp_path / "t.jsonl", **options)
    assert engine.calls == 30
    verdicts = [json.loads(line) for line in (tmp_path / "t.samples/verdicts.jsonl").read_text().splitlines()[1:]]
    correct = [row for row in verdicts if row["verdict"] == "correct"]
    assert len(verdicts) == 30
    assert 0 < len(made) == len(correct) < 30  # on level 5 the model fails now and then
    answers = {problem.id: problem.answer for problem in generate_problems(3, seed=0, split=Split.SUPERVISED)}
    for trace in made:
        assert at.grade(trace.answer, answers[trace.id]).verdict is at.Verdict.CORRECT
        assert trace.thinking.startswith("Alright")
    order = list(answers)
    assert [order.index(trace.id) for trace in made] == sorted(order.index(trace.id) for trace in made)
    assert at.make_traces("arithmetic", output=tmp_path / "t.jsonl", **options) == made
    assert engine.calls == 30
    more = at.make_traces("arithmetic", output=tmp_path / "t.jsonl", **options | {"problems_per_level": 4})
    assert engine.calls == 40
    assert set(made) < set(more)


def test_a_teacher_behind_a_chat_endpoint(tmp_path, server):
    """It is right on the first question, wrong on the second, and right without a thought on the third."""
    problems = [{"prompt": f"{n}+1=?", "answer": n + 1} for n in (1, 2, 3)]

    def answer(body):
        n = int(body["messages"][-1]["content"][0])
        thought = [] if n == 3 else [{"reasoning_content": f"{n} and one"}]
        return stream(*thought, {"content": f"\\boxed{{{n + 1 + (n == 2)}}}"})

    server.default = answer
    notes = []

    class Notes(at.Callback):
        def on_message(self, message):
            notes.append(message)

    options = {"teacher": "m", "chat": server.url, "switch": "enable_thinking", "callbacks": [Notes()]} | SMALL
    made = at.make_traces(problems, output=tmp_path / "t.jsonl", **options)
    [trace] = made
    assert (trace.messages, trace.thinking, trace.answer) == ((Message("user", "1+1=?"),), "1 and one", "\\boxed{2}")
    assert f"responses in {tmp_path / 't.samples'}; left out: 1 correct without a thought, 1 wrong" in notes
    assert [call.body["chat_template_kwargs"] for call in server.calls] == [{"enable_thinking": True}] * 3
    with pytest.raises(UserError, match=r"no response of the teacher is a trace \(1 wrong\)"):
        at.make_traces(problems[1:2], output=tmp_path / "other.jsonl", **options)


def test_problems_without_solutions(tmp_path):
    with pytest.raises(UserError, match=r"'reasoning_gym:chain_sum' has no solutions of its own.* --teacher MODEL"):
        at.make_traces("reasoning_gym:chain_sum", output=tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="a list of problems has no solutions; give a teacher"):
        at.make_traces([{"prompt": "1+1=?", "answer": "2"}], output=tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="is for evaluation alone"):
        at.make_traces("words:shifted", output=tmp_path / "t.jsonl")
    assert list(tmp_path.glob("*.jsonl")) == []


ROWS = [
    {"prompt": "1+1=?", "thinking": "Two. ", "answer": " 2"},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1=?"}], "answer": "2"},
    {
        "messages": [
            {"role": "user", "content": "1+1=?"},
            {"role": "assistant", "content": "<think>\nTwo.\n</think>\n\n2"},
        ]
    },
    {"messages": [{"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "Two.</think>2"}]},
    {
        "messages": [
            {"role": "user", "content": "1+1=?"},
            {"role": "assistant", "content": "2", "reasoning_content": "Two."},
        ]
    },
    {"conversations": [], "prompt": "1+1=?", "reasoning": "Two.", "answer": "2", "level": 3, "source": "mine"},
]


def test_files_of_traces_in_every_form(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    question = Message("user", "1+1=?")
    assert read_traces(path) == [
        Trace((question,), "Two.", "2"),  # and so twice more
        Trace((Message("system", "Be brief."), question), "", "2"),
        Trace((question,), "Two.", "2", level=3, source="mine"),
    ]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (
            {"question": "1+1=?", "answer": "2"},
            "it needs prompt, thinking and answer, or messages; fields here: question",
        ),
        ({"prompt": "1+1=?", "thinking": "Two."}, "it needs prompt, thinking and answer"),
        ({"prompt": "1+1=?", "thinking": "Two.", "answer": " "}, "'answer' is empty"),
        ({"prompt": "1+1=?", "thinking": ["Two."], "answer": "2"}, "'thinking' is of type list; a text is needed"),
        ({"messages": [{"role": "user", "content": "1+1=?"}]}, "'messages' needs a question and an answer"),
        (
            {"messages": [{"role": "assistant", "content": "2"}, {"role": "user", "content": "1+1=?"}]},
            "'messages' ends in a message of role 'user'; the last one must be the assistant's",
        ),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>\nTwo."}]},
            "'answer' is empty",
        ),
        ({"prompt": "\ud800", "thinking": "Two.", "answer": "2"}, "half a character"),
    ],
)
def test_rows_that_are_no_traces(tmp_path, row, fault):
    path = tmp_path / "t.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(row)}\n")
    with pytest.raises(UserError) as caught:
        read_traces(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert fault in str(caught.value)


def test_files_that_hold_no_traces(tmp_path):
    with pytest.raises(UserError, match=r"no file of traces .*; make one: adaptthink traces --output"):
        read_traces(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").touch()
    with pytest.raises(UserError, match="holds no trace; give a file with prompt, thinking and answer"):
        read_traces(tmp_path / "t.jsonl")


def test_the_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.toml"
    recipe.write_text('model = "tiny"\nproblems = "words"\nmax_think_tokens = 64\n[traces]\nproblems_per_level = 2\n')
    status, out, err = run("traces", "r.toml", "--output", "t.jsonl", "--json", "t.json")
    assert (status, err) == (0, "")
    assert "10 traces in t.jsonl" in out
    assert json.loads((tmp_path / "t.json").read_text())["traces"] == 10
    for flags, message in (
        (("--temperature", "1"), "temperature has no effect: the problems' own solutions are written; give a model"),
        (
            ("--teacher", "tiny", "--data", "."),
            "data has no effect: it is for problems of a named set, not for 'words'",
        ),
        (("--output", "r.toml"), "--output: 'r.toml' is a recipe, and a file of traces is needed"),
        (("--teacher", "t.jsonl"), "model: 't.jsonl' is a file of traces, and a model folder is needed"),
    ):
        status, _, err = run("traces", "r.toml", *flags)
        assert (status, err.startswith(f"adaptthink: {message}")) == (2, True), err
    status, _, err = run("evaluate", "tiny", "--problems", "t.jsonl")
    assert err.startswith("adaptthink: problems: 't.jsonl' is a file of traces, and a problem file is needed")
    recipe.write_text('[traces]\nkind = "story"\n')
    status, _, err = run("traces", "r.toml", "--teacher", "tiny")
    assert "kind has no effect: problems to learn from have one wording" in err
