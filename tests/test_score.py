"""`score`: how difficult a model finds prompts, into a file that is completed after an interruption."""

import gc
import io
import itertools
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import pyarrow as pa
import pytest
from pyarrow import parquet
from waiting import WAIT_SECONDS, wait_until

import adaptthink as at
from adaptthink.dial import decide as decide_module
from adaptthink.dial.curve import Measured
from adaptthink.dial.stored import calibrate, write_dial
from adaptthink.engines.native import NativeEngine
from adaptthink.evaluation.store import Setting
from adaptthink.models.make_tiny import make_model
from adaptthink.modes import ThinkStart, encode_prompt

TEXTS = ["1+1=?", "47+8=?", "12+88-31=?", "9=?", "1+1=?"]
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def batches(monkeypatch):
    """Batches of two prompts; the list has the numbers of the prompts of each that was computed."""
    monkeypatch.setattr(decide_module, "PROMPTS_AT_ONCE", 2)
    computed = []
    compute = decide_module.compute_mode_logprobs

    def record(engine, template, prompts):
        computed.append(len(prompts))
        return compute(engine, template, prompts)

    monkeypatch.setattr(decide_module, "compute_mode_logprobs", record)
    return computed


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path):
    """The scores in a file, without its first line."""
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


# What a score is


def test_scores_are_the_first_tokens_probabilities_of_each_prompt_alone(random_policy, batches):
    found = list(at.score(random_policy, TEXTS, threshold=0.01))
    assert batches == [2, 2, 1]
    engine = NativeEngine(random_policy.model, random_policy.eos_ids)
    template = random_policy.template
    for number, (text, score) in enumerate(zip(TEXTS, found, strict=True), start=1):
        ids = encode_prompt(random_policy.tokenizer, template, text)
        [(no_think, think)] = engine.next_token_logprobs([ids], (template.no_think_id, template.think_id))
        assert (score.row, score.prompt) == (number, text)
        assert score.no_think_probability == pytest.approx(math.exp(no_think), rel=1e-5)
        assert score.think_probability == pytest.approx(math.exp(think), rel=1e-5)
        assert score.z == pytest.approx(no_think - think, abs=1e-5)
        assert score.mode == ("no_think" if score.no_think_probability >= 0.01 else "think")
    assert [one.mode for one in at.score(random_policy, TEXTS)] == [None] * len(TEXTS)


def test_several_think_starts_count_together(random_policy):
    first, second = 30, 31
    starts = tuple(ThinkStart((token,), 0.5) for token in (first, second))
    policy = replace(random_policy, template=replace(random_policy.template, think_starts=starts))
    [score] = at.score(policy, TEXTS[:1])
    ids = encode_prompt(policy.tokenizer, policy.template, TEXTS[0])
    engine = NativeEngine(policy.model, policy.eos_ids)
    [logprobs] = engine.next_token_logprobs([ids], (first, second))
    assert score.think_probability == pytest.approx(sum(map(math.exp, logprobs)), rel=1e-5)
    assert score.z == pytest.approx(math.log(score.no_think_probability / score.think_probability), abs=1e-5)


def test_decide_and_score_agree(random_policy, batches):
    scores = list(at.score(random_policy, TEXTS, threshold=0.01))
    decisions = at.decide(random_policy, TEXTS, threshold=0.01)
    assert [(one.mode, one.no_think_probability) for one in scores] == [
        (one.mode, one.no_think_probability) for one in decisions
    ]


def test_a_score_belongs_to_the_problem_of_an_evaluation(random_policy):
    problems = at.load_problems("arithmetic", per_level=1)
    assert [one.id for one in at.score(random_policy, problems)] == [problem.id for problem in problems]


def test_earlier_turns_count(random_policy):
    turns = [{"role": "system", "content": "Base 3."}, {"role": "user", "content": "1+1=?"}]
    with_turns, without = at.score(random_policy, [{"prompt": turns}, {"prompt": "1+1=?"}])
    assert with_turns.prompt == without.prompt == "1+1=?"
    assert with_turns.z != pytest.approx(without.z, abs=1e-6)


# Where prompts come from


def test_files_need_no_answers_and_their_formats_do_not_matter(random_policy, folder):
    write_lines(folder / "p.jsonl", [{"question": text} for text in TEXTS])
    (folder / "p.csv").write_text("n,question\n" + "".join(f"{n},{text}\n" for n, text in enumerate(TEXTS)))
    parquet.write_table(pa.table({"question": TEXTS}), folder / "p.parquet")
    expected = [(one.row, one.prompt, one.z) for one in at.score(random_policy, TEXTS)]
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        assert [(one.row, one.prompt, one.z) for one in at.score(random_policy, name)] == expected


def test_fields_and_an_instruction_are_those_of_load_problems(random_policy, folder):
    rows = [{"q": text, "a": "2"} for text in TEXTS]
    path = write_lines(folder / "p.jsonl", rows)
    found = list(at.score(random_policy, path, fields="prompt=q,answer=a", instruction="="))
    known = at.load_problems(path, fields="prompt=q,answer=a", instruction="=")
    assert {one.id for one in found} == {problem.id for problem in known}
    assert found[0].prompt == "1+1=?\n="


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "1+1=?"}, {"prompt": "1+2=?"}, {"text": "1+3=?"}], r"p\.jsonl, line 3: 'prompt' is missing"),
        ([{"prompt": "1+1=?"}, ["1+2=?"]], r"p\.jsonl, line 2: expected a JSON object, found list"),
        ([{"prompt": "1+1=?"}, {"prompt": "\ud800"}], r"p\.jsonl, line 2: 'prompt' holds half a character"),
        (
            [{"prompt": "1+1=?"}, {"prompt": "1+2=?"}, {"prompt": "+".join("1" * 999) + "=?"}],
            r"the prompt of row 3 has",
        ),
    ],
)
def test_a_bad_row_is_named_and_what_came_before_its_batch_is_kept(random_policy, batches, folder, rows, message):
    random_policy.model.config.max_position_embeddings = 64
    write_lines(folder / "p.jsonl", rows)
    with pytest.raises(at.UserError, match=message) as caught:
        list(at.score(random_policy, "p.jsonl", output="s.jsonl"))
    assert "\n" not in str(caught.value)
    kept = (folder / "s.jsonl").read_bytes()
    assert len(kept.splitlines()) == 1 + 2 * ((len(rows) - 1) // 2)
    repaired = [*rows[:-1], {"prompt": "1+3=?"}]
    write_lines(folder / "p.jsonl", repaired)
    list(at.score(random_policy, "p.jsonl", output="s.jsonl"))
    list(at.score(random_policy, "p.jsonl", output="whole.jsonl"))
    assert (folder / "s.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["1+1=?", "a\udc00"], "prompt 2: 'prompt' holds half a character"),
        (["1+1=?", 3], "problem 2 is int; give a Problem"),
        ([{"prompt": ""}], "problem 1: 'prompt' is missing or empty"),
        ("nowhere.jsonl", "no problem file 'nowhere.jsonl'"),
    ],
)
def test_prompts_that_cannot_be_used(random_policy, prompts, message):
    with pytest.raises(at.UserError, match=message):
        list(at.score(random_policy, prompts))


def test_memory_does_not_grow_with_the_prompts(random_policy, batches, folder):
    """Endless prompts are scored as they come, and no more than two batches are held."""
    scores = at.score(random_policy, (f"{n % 10}+1=?" for n in itertools.count()), output="s.jsonl")
    most = 0
    gc.collect()
    gc.freeze()  # what other tests left is not looked at
    for score in itertools.islice(scores, 40):
        assert len(batches) <= (score.row + 1) // 2
        gc.collect()
        most = max(most, sum(type(thing) in (at.Problem, decide_module.Score) for thing in gc.get_objects()))
    gc.unfreeze()
    assert most <= 12
    scores.close()
    assert len(read_rows(folder / "s.jsonl")) == 40
    assert not (folder / "s.jsonl.lock").exists()


# Going on


def test_a_repeated_call_computes_nothing(random_policy, batches, folder):
    first = list(at.score(random_policy, TEXTS, threshold=0.01, output="s.jsonl"))
    before = (folder / "s.jsonl").read_bytes()
    assert read_rows(folder / "s.jsonl") == [asdict(one) for one in first]
    del batches[:]
    assert list(at.score(random_policy, TEXTS, threshold=0.01, output="s.jsonl")) == first
    assert batches == []
    assert (folder / "s.jsonl").read_bytes() == before


@pytest.mark.parametrize("left", [0, 5, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, -1])
def test_a_file_that_was_cut_anywhere_is_completed_to_the_same_bytes(random_policy, batches, folder, left):
    """Cut inside a line, as by a crash, or between lines, also in the middle of a batch."""
    list(at.score(random_policy, TEXTS, output="s.jsonl"))
    path = folder / "s.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    whole_lines = path.read_bytes().count(b"\n")
    del batches[:]
    list(at.score(random_policy, TEXTS, output="s.jsonl"))
    assert path.read_bytes() == whole
    stored = max(whole_lines - 1, 0)
    assert batches == [2, 2, 1][stored // 2 :]


def test_a_file_that_grew_is_scored_from_there_on(random_policy, batches, folder):
    list(at.score(random_policy, TEXTS[:4], output="s.jsonl"))
    del batches[:]
    assert [one.row for one in at.score(random_policy, TEXTS, output="s.jsonl")] == [1, 2, 3, 4, 5]
    assert batches == [1]


def test_other_settings_and_other_prompts_are_refused(random_policy, folder):
    list(at.score(random_policy, TEXTS, threshold=0.25, output="s.jsonl"))
    before = (folder / "s.jsonl").read_bytes()
    with pytest.raises(at.UserError, match=r"threshold was 0\.25 and is now 0\.5; return to the old ones"):
        list(at.score(random_policy, TEXTS, threshold=0.5, output="s.jsonl"))
    with pytest.raises(at.UserError, match=r"threshold was 0\.25 and is now None"):
        list(at.score(random_policy, TEXTS, output="s.jsonl"))
    with pytest.raises(at.UserError, match=r"s\.jsonl, line 3: holds the score of another prompt than row 2 now is"):
        list(at.score(random_policy, [TEXTS[0], *TEXTS[2:]], threshold=0.25, output="s.jsonl"))
    with pytest.raises(at.UserError, match=r"'s\.jsonl' holds scores of more prompts than were given"):
        list(at.score(random_policy, TEXTS[:2], threshold=0.25, output="s.jsonl"))
    random_policy.model.model.embed_tokens.weight.data.mul_(2)
    with pytest.raises(at.UserError, match="fingerprint was"):
        list(at.score(replace(random_policy), TEXTS, threshold=0.25, output="s.jsonl"))
    assert (folder / "s.jsonl").read_bytes() == before


def test_a_file_without_a_score_takes_other_settings(random_policy, folder):
    (folder / "s.jsonl").write_text('{"scores": {"threshold": 0.1}}\n{"row": 1')
    assert len(list(at.score(random_policy, TEXTS, output="s.jsonl"))) == 5
    assert len(read_rows(folder / "s.jsonl")) == 5


@pytest.mark.parametrize("content", [b"notes", b'{"prompt": "1+1=?"}\n', b"\x00\x01", b'{"settings": {}}'])
def test_what_is_no_file_of_scores_is_left_alone(random_policy, folder, content):
    (folder / "s.jsonl").write_bytes(content)
    with pytest.raises(at.UserError, match=r"'s\.jsonl' is in use and holds no scores; give another --output"):
        list(at.score(random_policy, TEXTS, output="s.jsonl"))
    assert (folder / "s.jsonl").read_bytes() == content


def test_a_damaged_line_within_is_named(random_policy, folder):
    list(at.score(random_policy, TEXTS, output="s.jsonl"))
    lines = (folder / "s.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "s.jsonl").write_bytes(b"".join([*lines[:2], b'{"row": 2}\n', *lines[3:]]))
    with pytest.raises(at.UserError, match=r"s\.jsonl, line 3: damaged .*; remove it and all lines after it"):
        list(at.score(random_policy, TEXTS, output="s.jsonl"))


def test_two_processes_do_not_write_one_file(random_policy, folder):
    scores = at.score(random_policy, TEXTS, output="s.jsonl")
    next(scores)
    with pytest.raises(at.UserError, match=r"file of scores 's\.jsonl' is in use by another process"):
        next(at.score(random_policy, TEXTS, output="s.jsonl"))
    scores.close()


PROGRAM = """
import sys
from adaptthink.cli.app import main
from adaptthink.dial import decide

decide.PROMPTS_AT_ONCE = 4
sys.argv = ["adaptthink", "score", "-", "--output", "s.jsonl", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_leaves_what_can_be_gone_on_with(folder):
    lines = [f"{n}+{n}=?\n".encode() for n in range(10, 21)]
    command = [sys.executable, "-c", PROGRAM]
    subprocess.run(command, input=b"".join(lines), check=True, capture_output=True)
    whole = (folder / "s.jsonl").read_bytes()
    (folder / "s.jsonl").unlink()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        process.stdin.write(b"".join(lines[:10]))  # two batches; the third waits for more
        process.stdin.flush()
        wait_until(lambda: process.poll() is not None or is_written("s.jsonl", 9))
        assert process.poll() is None, process.stderr.read()
    finally:
        process.kill()
        process.communicate(timeout=WAIT_SECONDS)
    assert is_written("s.jsonl", 9)
    with open("s.jsonl", "ab") as file:  # noqa: PTH123
        file.write(b'{"row": 9, "id"')
    done = subprocess.run(command, input=b"".join(lines), check=True, capture_output=True, text=False)
    assert b"11 prompts scored" in done.stdout
    assert (folder / "s.jsonl").read_bytes() == whole


def is_written(name, count):
    try:
        return open(name, "rb").read().count(b"\n") >= count  # noqa: PTH123
    except FileNotFoundError:
        return False


# The dial


@pytest.fixture
def model_folder(tokenizer, folder):
    make_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def make_dial(policy, tolerance):
    setting = Setting("m", policy.fingerprint, 0.6, 0.95, 64, 16, 0)
    probabilities = (0.999, 0.99, 0.6, 0.001)
    problems = [Measured(f"{n}", "1", probabilities[n % 4], (1.0,), (1.0,), (30.0,), (5.0,), 64.0) for n in range(40)]
    return calibrate(problems, setting, "sums", tolerance=tolerance)


def test_the_dial_of_the_models_folder_gives_modes_if_it_is_certified(model_folder):
    policy = at.load(model_folder)
    dial = make_dial(policy, tolerance=0.6)
    assert dial.threshold.certified
    write_dial(model_folder / "adaptthink.json", dial)
    by_dial = list(at.score(policy, TEXTS))
    given = list(at.score(policy, TEXTS, threshold=dial.threshold.no_think_probability))
    assert [one.mode for one in by_dial] == [one.mode for one in given]
    assert None not in [one.mode for one in by_dial]
    assert list(at.score(policy, TEXTS, dial=dial)) == by_dial
    write_dial(model_folder / "adaptthink.json", make_dial(policy, tolerance=0.001))
    assert {one.mode for one in at.score(policy, TEXTS)} == {None}
    with pytest.raises(at.UserError, match="has no threshold"):
        at.score(policy, TEXTS, dial=model_folder / "adaptthink.json")
    write_dial(model_folder / "adaptthink.json", replace(dial, fingerprint="other"))
    with pytest.raises(at.UserError, match="calibrated for other weights"):
        at.score(policy, TEXTS)


# The command


def test_the_command_scores_a_file_and_sums_up(run, folder):
    write_lines(folder / "p.jsonl", [{"prompt": text} for text in TEXTS])
    status, out, err = run("score", "p.jsonl", "--threshold", 0, "--json", "s.json")
    assert (status, err) == (0, "")
    assert "5 prompts scored, in runs/scores.jsonl: mean P(no_think)" in out
    assert "by the threshold 100.0% no_think" in out
    rows = read_rows(folder / "runs/scores.jsonl")
    assert [(row["prompt"], row["mode"]) for row in rows] == [(text, "no_think") for text in TEXTS]
    mean = sum(row["no_think_probability"] for row in rows) / 5
    assert json.loads((folder / "s.json").read_text()) == {
        "model": "tiny",
        "output": "runs/scores.jsonl",
        "prompts": 5,
        "mean_no_think_probability": pytest.approx(mean),
        "no_think_share": 1.0,
    }


def test_prompts_on_standard_input(run, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeff1+1=?\r\n\n 2+3=? \n".encode())))
    assert run("score", "-", "--output", "s.jsonl")[0] == 0
    assert [row["prompt"] for row in read_rows(folder / "s.jsonl")] == ["1+1=?", "2+3=?"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1+1=?\n\n\xff\xfe\n")))
    status, _, err = run("score", "-", "--output", "t.jsonl")
    assert (status, err.count("\n")) == (2, 1)
    assert "standard input, line 3: not UTF-8 text" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert "standard input holds no prompt; give one a line" in run("score", "-", "--output", "u.jsonl")[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("score", 'Command "score" parameter PROMPTS requires an argument.'),
        ("score nowhere.jsonl", "no problem file 'nowhere.jsonl'"),
        ("score p.jsonl --model nowhere", "no model folder 'nowhere'"),
        ("score p.jsonl --threshold 2", 'Invalid value "2.0" for --threshold. Must be <= 1'),
        ("score p.jsonl --threshold 0.5 --dial d.json", "--threshold and --dial both give the threshold"),
        ("score p.jsonl --dial p.jsonl", "--dial: 'p.jsonl' is a problem file, and a calibrated threshold"),
        ("score p.jsonl --output p.jsonl", "--output: 'p.jsonl' is a problem file, and a file of scores is needed"),
        ("score p.jsonl --fields prompt=text", "p.jsonl, line 1: no field 'text', which 'prompt' is mapped to"),
        ("score p.jsonl --top-p 0.5", "--top-p has no effect in score"),
    ],
)
def test_bad_input(run, folder, args, message):
    write_lines(folder / "p.jsonl", [{"prompt": "1+1=?"}])
    status, out, err = run(*args.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"adaptthink: {message}")
