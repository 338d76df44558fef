"""The data commands from the command line: what is printed, what is written, what is refused."""

import json
import os

import pytest

from adaptthink.cli import jobs
from adaptthink.cli.console import shorten
from adaptthink.config.schema import EvaluateConfig, TrainConfig
from adaptthink.errors import UserError
from adaptthink.training.data import prepare_problems

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    train = [{"question": f"How many are {n} and {n}?", "answer": f"So.\n#### {2 * n}"} for n in range(6)]
    test = [{"question": "How  many are 3 and 3?", "answer": "#### 6"}]
    for name, rows in (("gsm8k_train", train), ("gsm8k_test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_check(run, folder):
    with (folder / "gsm8k_train.jsonl").open("a") as file:
        file.write('no\n{"question": "Why [bold]?", "answer": "nothing"}\n')
    status, out, err = run("data", "check", "gsm8k", "--against", "gsm8k", "--data", ".", "--json", "c.json")
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in (
        "rows read 8",
        "problems kept 6",
        "reference answers that cannot be parsed 1",
        "rows that cannot be used 1",
    ):
        assert line in lines
    assert "gsm8k 1 1 0 1 (100.0%)" in lines
    assert "'' of 'Why [bold]?'" in lines
    check = json.loads((folder / "c.json").read_text())
    assert (check["num_rows"], check["num_kept"]) == (8, 6)
    assert check["leaks"][0]["num_exact"] == 1
    assert check["bad_rows"] == ["gsm8k_train.jsonl, line 7: not valid JSON: Expecting value (column 1)"]


def test_check_takes_its_folder_from_the_environment(run, monkeypatch, folder):
    monkeypatch.setenv("ADAPTTHINK_DATA", str(folder))
    assert "rows read 6" in " ".join(run("data", "check", "gsm8k")[1].split())


def test_instructions_are_no_leak(run, monkeypatch, folder):
    """Every prompt ends in the same words, which are not compared."""
    monkeypatch.setenv("ADAPTTHINK_INSTRUCTION", "one two three four five six seven eight nine ten eleven twelve")
    run("data", "check", "gsm8k", "--against", "gsm8k", "--data", ".", "--json", "c.json")
    (leak,) = json.loads((folder / "c.json").read_text())["leaks"]
    assert (leak["num_exact"], leak["num_near"]) == (1, 0)


@pytest.mark.parametrize(
    ("mode", "ending"), [("auto", "<think>\n"), ("think", "<think>\nAlright"), ("no_think", "<think>\n</think>")]
)
def test_show(run, folder, mode, ending):
    status, out, err = run("data", "show", "gsm8k", "--data", ".", "--count", 2, "--mode", mode, "--json", "s.json")
    assert (status, err) == (0, "")
    problems = json.loads((folder / "s.json").read_text())["problems"]
    assert [problem["answer"] for problem in problems] == ["0", "2"]
    rendered = problems[0]["rendered"]
    assert rendered.startswith("<|bos|><|user|>How many are 0 and 0?\nPlease reason step by step")
    assert rendered.endswith(ending)
    assert rendered in out
    assert "gsm8k/train  level none  kind math" in out


def test_show_prints_a_long_prompt_whole(run, folder):
    prompt = "[bold]count " + " ".join(str(n) for n in range(5000)) + " :smile:"
    (folder / "[p].jsonl").write_text(json.dumps({"prompt": prompt, "answer": "1", "level": "[red]"}))
    _, out, _ = run("data", "show", "[p].jsonl")
    assert "[p].jsonl  level [red]  kind math" in out
    assert " ".join(str(n) for n in range(5000)) in out
    assert ":smile:" in out
    _, out, _ = run("data", "check", "[p].jsonl", "--against", "[p].jsonl")
    assert out.count("[p].jsonl") == 3
    assert "level [red]" in out


def test_show_without_instruction(run):
    _, out, _ = run("data", "show", "gsm8k", "--data", ".", "--instruction", "")
    assert "reason step by step" not in out


def test_show_stops_at_a_bad_row(run, folder):
    (folder / "p.jsonl").write_text("no\n")
    assert run("data", "show", "p.jsonl")[::2] == (
        2,
        "adaptthink: p.jsonl, line 1: not valid JSON: Expecting value (column 1)\n",
    )


def test_check_of_a_set_without_a_usable_row(run, folder):
    (folder / "p.jsonl").write_text('{"prompt": "a", "solution": "2"}\n')
    status, out, err = run("data", "check", "p.jsonl", "--json", "c.json")
    assert (status, err) == (2, "adaptthink: p.jsonl: none of its 1 rows can be used\n")
    assert "fields here: prompt, solution; name another with --fields answer=FIELD" in out
    assert json.loads((folder / "c.json").read_text())["num_bad"] == 1


def test_system_message_is_part_of_the_prompt(run, folder):
    messages = [{"role": "system", "content": "Numbers are in base 3."}, {"role": "user", "content": "1+2=?"}]
    rows = [{"prompt": messages, "answer": "10"}, {"prompt": "1+2=?", "answer": "3"}]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = run("data", "show", "p.jsonl", "--json", "s.json")
    shown = json.loads((folder / "s.json").read_text())["problems"]
    assert "Numbers are in base 3." in shown[0]["rendered"]
    assert "Numbers are in base 3." in out
    assert "context" not in shown[1]
    run("data", "check", "p.jsonl", "--json", "c.json")
    assert json.loads((folder / "c.json").read_text())["num_repeats"] == 0


def test_folder_with_a_comma_in_its_name_and_a_split(run, folder):
    (folder / "a,b").mkdir()
    for split in ("train", "test"):
        (folder / "a,b" / f"{split}.jsonl").write_text(f'{{"prompt": "{split}", "answer": "2"}}\n')
    assert run("data", "check", "a,b")[::2] == (
        2,
        "adaptthink: 'a,b' holds several splits; give one: a,b:test, a,b:train\n",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("check gsm8kk", "no problems are called 'gsm8kk'; did you mean 'gsm8k'?"),
        (
            "check nowhere.csv",
            "no problem file 'nowhere.csv': give the path of a file or folder (JSON lines, JSON, CSV, TSV",
        ),
        ("check gsm8k --data nowhere", "no folder 'nowhere' for data: give the folder that holds local copies"),
        ("check gsm8k_test.jsonl --fields prompt", "fields: 'prompt' is no mapping; give pairs such as"),
        ("check gsm8k --data . --against mmlu:stemm", "'mmlu' has no split or part 'stemm'; did you mean 'stem'?"),
        ("show gsm8k --data . --count 0", 'Invalid value "0" for --count. Must be >= 1.'),
        ("show gsm8k --data . --model nowhere", "no model folder 'nowhere': give an existing folder"),
        ("check", 'Command "data check" parameter PROBLEMS requires an argument.'),
        ("chek gsm8k", 'Unknown command "chek". Did you mean "check"? Available commands: check, show.'),
    ],
)
def test_bad_input(run, args, message):
    status, out, err = run("data", *args.split())
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"adaptthink: {message}")


def test_jobs_say_what_they_skip(capsys, folder):
    rows = [{"problem": f"{n}?", "answer": None if n == 3 else str(n), "difficulty": 1} for n in range(12)]
    (folder / "math_train_answers.json").write_text(json.dumps(rows))
    config = TrainConfig(problems="math", data=folder, problems_per_step=10)
    found = prepare_problems("math", None, config)
    assert (len(found.problems), len(found.held_out), found.num_unparsable) == (10, 1, 1)
    assert len(jobs.load_evaluation_problems(EvaluateConfig(problems="math:train", data=folder))) == 11
    assert capsys.readouterr().out == "1 problems skipped: their reference answers cannot be parsed\n"
    jobs.load_evaluation_problems(EvaluateConfig(problems="gsm8k", data=folder))
    assert capsys.readouterr().out == ""


def test_a_step_needs_as_many_problems_as_it_samples(folder):
    rows = [{"problem": f"{n}?", "answer": str(n), "difficulty": 1} for n in range(12)]
    (folder / "math_train_answers.json").write_text(json.dumps(rows))
    with pytest.raises(UserError) as caught:
        prepare_problems("math", None, TrainConfig(problems="math", data=folder, problems_per_step=12))
    assert str(caught.value) == (
        "problems_per_step = 12, but there are 11 problems to train on, and one that is sampled twice in a step would "
        "get the same responses twice; use 11 a step at most, or more problems"
    )


def test_shorten():
    assert shorten("a\n b  c") == "a b c"
    assert shorten("abcdef", 4) == "abc…"
