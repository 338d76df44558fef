"""The reference store: graded right, and an interruption anywhere neither loses nor doubles work."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adaptthink import grading
from adaptthink.config.schema import PresampleConfig
from adaptthink.engines.base import ScriptedEngine
from adaptthink.errors import UserError
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.modes import probe
from adaptthink.problems import make_problem
from adaptthink.sampling.requests import make_seed
from adaptthink.sampling.sampler import Sampler
from adaptthink.training import reference
from adaptthink.training.reference import (
    Reference,
    make_store_settings,
    open_references,
    presample,
    read_references,
    read_store,
)

PROBLEMS = [
    make_problem("1+1=?", "2", level=1),
    make_problem("2+3=?", "5", level=1),
    make_problem("9-4=?", "5", level=1),
]
RESPONSES = {  # of the four samples of each problem
    "1+1=?": [
        "Alright\n1+1=2\n</think>\\boxed{2}",
        "Okay</think>\\boxed{2}",
        "</think>\\boxed{2}",
        "</think>\\boxed{4/2}",
    ],
    "2+3=?": ["Alright</think>\\boxed{5}", "</think>\\boxed{6}", "</think>5", "</think>\\boxed{5}"],
    "9-4=?": ["Alright" + "\nWait\n9-4=5" * 20, "</think>\\boxed{4}", "</think>\\boxed{5}", "Alright\n5"],
}
VERDICTS = {
    "1+1=?": ["correct", "correct", "correct", "correct"],
    "2+3=?": ["correct", "wrong", "unparsed", "correct"],
    "9-4=?": ["truncated", "wrong", "correct", "unclosed"],
}
REWARDS = {"1+1=?": 1.0, "2+3=?": 0.5, "9-4=?": 0.25}
# \boxed is one token, and so are </think>, the think start, the end token, every digit, sign, brace and line break.
TOKENS = {"1+1=?": [14, 7, 6, 8], "2+3=?": [7, 6, 3, 6], "9-4=?": [20, 6, 6, 4]}
CONFIG = PresampleConfig(reference_samples=4, max_think_tokens=20, max_no_think_tokens=8, max_concurrent_sequences=4)
STREAM_STRIDE = 0x9E3779B97F4A7C15


class ByStream(ScriptedEngine):
    """Answers sample k of a problem with its k-th response, identified by the random stream alone."""

    def __init__(self, sampler_parts, *, fail_after=None):
        tokenizer, template = sampler_parts
        super().__init__(lambda prompt, prefix: self.answer)
        self.fail_after = fail_after
        self.calls = []
        self.answers = {}
        for problem in PROBLEMS:
            for position, text in enumerate(RESPONSES[problem.prompt]):
                stream = int(problem.id, 16) + position * STREAM_STRIDE
                self.answers[stream] = tokenizer.encode(text + "<|eos|>", add_special_tokens=False)
        self.sampler = Sampler(self, tokenizer, template)

    def generate(self, requests, *, on_finish, **options):
        if self.fail_after is not None and len(self.requests) >= self.fail_after:
            raise RuntimeError("power cut")
        self.calls.append(options | {"requests": len(requests)})
        completions = []
        for index, request in enumerate(requests):
            self.answer = self.answers[request.stream]
            completions += super().generate([request], **options)
            on_finish(index, completions[-1])
        return completions


@pytest.fixture
def parts(tokenizer):
    return tokenizer, probe(tokenizer)


def run(parts, path, *, config=CONFIG, problems=PROBLEMS, fail_after=None, on_finish=None):
    """Presample; returns the references and the engine."""
    engine = ByStream(parts, fail_after=fail_after)
    found = presample(engine.sampler, problems, config, fingerprint="f00d", path=path, on_finish=on_finish)
    return found, engine


@pytest.fixture
def whole(parts, tmp_path):
    """The content of a store that was made without interruption."""
    path = tmp_path / "whole.jsonl"
    run(parts, path)
    return path.read_bytes()


def test_rewards_by_hand(parts, tmp_path):
    found, engine = run(parts, tmp_path / "r.jsonl")
    assert list(found) == [problem.id for problem in PROBLEMS]
    for problem in PROBLEMS:
        reference = found[problem.id]
        assert list(reference.verdicts) == VERDICTS[problem.prompt]
        assert list(reference.tokens) == TOKENS[problem.prompt]
        assert reference.reward == REWARDS[problem.prompt]
    assert len(engine.requests) == 12


def test_samples_are_unconstrained_and_sampled_as_configured(parts, tmp_path):
    _, engine = run(parts, tmp_path / "r.jsonl")
    assert {(request.prefix_ids, request.banned_first_ids, request.max_tokens) for request in engine.requests} == {
        ((), (), 20)
    }
    assert len({request.stream for request in engine.requests}) == 12
    for call in engine.calls:
        assert (call["temperature"], call["top_p"], call["seed"]) == (0.6, 0.95, make_seed(0, "reference"))


def test_one_line_for_each_problem_after_the_header(parts, tmp_path):
    path = tmp_path / "new folder/r.jsonl"
    run(parts, path)
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header == {
        "settings": {
            "model_fingerprint": "f00d",
            "samples": 4,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 20,
            "seed": 0,
            "boxed_only": True,
        }
    }
    assert rows == [
        {
            "id": problem.id,
            "verdicts": VERDICTS[problem.prompt],
            "tokens": TOKENS[problem.prompt],
            "first_ids": row["first_ids"],
        }
        for problem, row in zip(PROBLEMS, rows, strict=True)
    ]


@pytest.mark.parametrize(
    ("max_concurrent_sequences", "calls"), [(1, [4, 4, 4]), (4, [4, 4, 4]), (11, [8, 4]), (100, [12])]
)
def test_memory_bounds_what_is_requested_at_once_and_changes_nothing(
    parts, tmp_path, whole, max_concurrent_sequences, calls
):
    path = tmp_path / "r.jsonl"
    _, engine = run(
        parts, path, config=CONFIG.model_copy(update={"max_concurrent_sequences": max_concurrent_sequences})
    )
    assert [call["requests"] for call in engine.calls] == calls
    assert path.read_bytes() == whole


def test_a_full_store_samples_nothing(parts, tmp_path):
    path = tmp_path / "r.jsonl"
    first, _ = run(parts, path)
    content = path.read_bytes()
    again, engine = run(parts, path)
    assert engine.requests == []
    assert again == first
    assert path.read_bytes() == content


def test_only_missing_problems_are_sampled(parts, tmp_path):
    path = tmp_path / "r.jsonl"
    run(parts, path, problems=PROBLEMS[:1])
    finished = []
    found, engine = run(parts, path, problems=PROBLEMS[::-1], on_finish=lambda *numbers: finished.append(numbers))
    assert list(found) == [problem.id for problem in PROBLEMS[::-1]]
    assert len(engine.requests) == 8
    sampled = [(1, tokens) for problem in PROBLEMS[:0:-1] for tokens in TOKENS[problem.prompt]]
    assert finished == [(4, 0), *sampled]  # what the store held counts at once
    assert run(parts, path, problems=PROBLEMS[1:2])[0] == {PROBLEMS[1].id: found[PROBLEMS[1].id]}


def test_cut_at_every_byte_of_the_last_line(parts, tmp_path, whole):
    path = tmp_path / "r.jsonl"
    last_line = whole.rfind(b"\n", 0, -1) + 1
    assert len(whole) - last_line > 100
    for length in range(last_line, len(whole)):
        path.write_bytes(whole[:length])
        found, engine = run(parts, path)
        assert len(engine.requests) == 4
        assert [reference.reward for reference in found.values()] == [1.0, 0.5, 0.25]
        assert path.read_bytes() == whole


def test_cut_at_every_byte_of_the_header(parts, tmp_path):
    path = tmp_path / "r.jsonl"
    run(parts, path, problems=PROBLEMS[:1])
    whole = path.read_bytes()
    for length in range(whole.find(b"\n") + 2):
        path.write_bytes(whole[:length])
        _, engine = run(parts, path, problems=PROBLEMS[:1])
        assert len(engine.requests) == 4
        assert path.read_bytes() == whole


@pytest.mark.parametrize("problems_done", [0, 1, 2])
def test_failure_while_sampling_keeps_what_was_done(parts, tmp_path, whole, problems_done):
    path = tmp_path / "r.jsonl"
    with pytest.raises(RuntimeError, match="power cut"):
        run(parts, path, fail_after=4 * problems_done)
    assert path.read_bytes().count(b"\n") == 1 + problems_done
    _, engine = run(parts, path)
    assert len(engine.requests) == 4 * (3 - problems_done)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"reference_samples": 8}, "samples was 4 and is now 8"),
        ({"reference_temperature": 1.0}, "temperature was 0.6 and is now 1.0"),
        ({"reference_top_p": 1.0}, "top_p was 0.95 and is now 1.0"),
        ({"max_think_tokens": 30}, "max_tokens was 20 and is now 30"),
        ({"max_no_think_tokens": 30}, "max_tokens was 20 and is now 30"),
        ({"boxed_only": False}, "boxed_only was True and is now False"),
        ({"seed": 1, "reference_samples": 2}, "samples was 4 and is now 2, seed was 0 and is now 1"),
    ],
)
def test_other_settings_are_named(parts, tmp_path, whole, change, difference):
    path = tmp_path / "r.jsonl"
    path.write_bytes(whole)
    with pytest.raises(UserError) as caught:
        run(parts, path, config=CONFIG.model_copy(update=change))
    assert str(caught.value) == (
        f"reference store '{path}' was made with other settings: {difference}; "
        "return to the old ones or give another path"
    )
    assert path.read_bytes() == whole


def test_another_reference_answer_is_graded_anew(parts, tmp_path, whole):
    """Only where the id does not follow from the answer; elsewhere it would be another problem."""
    path = tmp_path / "r.jsonl"
    own = replace(PROBLEMS[1], prompt="2+3=? ")
    assert run(parts, path, problems=[PROBLEMS[0], own])[0][own.id].reward == 0.5
    found, engine = run(parts, path, problems=[PROBLEMS[0], replace(own, answer="6")])
    assert len(engine.requests) == 4
    assert found[own.id].reward == 0.25
    assert run(parts, path, problems=[PROBLEMS[0], replace(own, answer="6")])[1].requests == []
    assert len(path.read_text().splitlines()) == 3
    assert len(run(parts, path, problems=PROBLEMS)[1].requests) == 8  # the third, and the second with its own answer
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize(
    ("row", "seconds", "sampled"),
    [
        ({"verdicts": ["correct", "unknown", "wrong", "correct"]}, 2.0, 4),
        ({"verdicts": ["correct", "timeout", "wrong", "correct"], "seconds": 2.0}, 2.0, 0),
        ({"verdicts": ["correct", "timeout", "wrong", "correct"], "seconds": 2.0}, 1.0, 0),
        ({"verdicts": ["correct", "timeout", "wrong", "correct"], "seconds": 2.0}, 4.0, 4),
        ({"verdicts": ["correct", "error", "wrong", "correct"]}, 4.0, 0),
    ],
)
def test_what_another_try_may_change_is_graded_again(parts, tmp_path, whole, row, seconds, sampled):
    path, lines = tmp_path / "r.jsonl", whole.splitlines(keepends=True)
    lines[2] = json.dumps(json.loads(lines[2]) | row).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    assert open_references(path)[PROBLEMS[1].id].reward == pytest.approx(2 / (4 - row["verdicts"].count("unknown")))
    _, engine = run(parts, path, config=CONFIG.model_copy(update={"grading_seconds": seconds}))
    assert len(engine.requests) == sampled
    content = path.read_bytes()
    assert sorted(content.splitlines()) == sorted(whole.splitlines()) if sampled else content == b"".join(lines)


def test_a_timeout_is_stored_with_its_limit(parts, tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    monkeypatch.setattr(grading, "grade_fast", lambda submission: Grade(Verdict.TIMEOUT, "1", Rule.SYMBOLIC))
    run(parts, path, problems=PROBLEMS[:1], config=CONFIG.model_copy(update={"max_failed_grades": 1.0}))
    assert json.loads(path.read_bytes().splitlines()[1])["seconds"] == CONFIG.grading_seconds


def test_a_store_that_cannot_be_graded_ends_early(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CHECKED", 8)
    monkeypatch.setattr(grading, "grade_fast", lambda submission: Grade(Verdict.UNKNOWN, "1", Rule.SYMBOLIC))
    with pytest.raises(UserError, match=r"failed on 100\.0% .* \(8 unknown of 8\)"):
        run(parts, tmp_path / "r.jsonl")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3


def test_settings_that_change_no_sample_do_not_matter(parts, tmp_path, whole):
    path = tmp_path / "r.jsonl"
    path.write_bytes(whole)
    change = {
        "max_concurrent_sequences": 7,
        "max_no_think_tokens": 3,
        "problems_per_level": 5,
        "problems": "other.jsonl",
    }
    assert run(parts, path, config=CONFIG.model_copy(update=change))[1].requests == []


def test_other_model_is_named(tmp_path, whole):
    path = tmp_path / "r.jsonl"
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"other settings: model_fingerprint was 'f00d' and is now 'beef'; "):
        read_store(path, make_store_settings(CONFIG, "beef"))


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"id": "x", "verdicts": ["correct", "wrong"',
        b"",
        b"[]",
        b'{"verdicts": ["correct", "correct", "correct", "correct"], "tokens": [1, 2, 3, 4]}',
        b'{"id": "x", "verdicts": ["korrect", "correct", "correct", "correct"], "tokens": [1, 2, 3, 4]}',
        b'{"id": "x", "verdicts": [], "tokens": []}',
        b'{"id": "x", "verdicts": ["correct", "correct", "correct"], "tokens": [1, 2, 3]}',
        b'{"id": "x", "verdicts": ["correct", "correct", "correct", "correct"], "tokens": [1, 2, 3]}',
        b'{"id": ["x"], "verdicts": ["correct", "correct", "correct", "correct"], "tokens": [1, 2, 3, 4]}',
        b'{"id": "\xff", "verdicts": 4, "tokens": [1, 2, 3, 4]}',
        b'{"id": "x", "verdicts": ["correct", "correct", "correct", "correct"], "tokens": [1, 2, 3, 4]}',
        b'{"id": "-1", "verdicts": ["correct", "correct", "correct", "correct"], "tokens": [1, 2, 3, 4]}',
        b'{"id": "10000000000000000", "verdicts": ["wrong", "wrong", "wrong", "wrong"], "tokens": [1, 2, 3, 4]}',
    ],
)
def test_damaged_middle_line_is_named(parts, tmp_path, whole, damaged):
    path = tmp_path / "r.jsonl"
    lines = whole.split(b"\n")
    lines[2] = damaged
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError) as caught:
        run(parts, path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: damaged (")
    assert message.endswith("); remove that line, and what it held is made again")
    assert "\n" not in message
    path.write_bytes(b"\n".join(lines[:2] + lines[3:]))  # the advice holds
    found, engine = run(parts, path)
    assert len(engine.requests) == 4
    assert [reference.reward for reference in found.values()] == [1.0, 0.5, 0.25]


def test_rows_are_looked_up_by_id_and_the_first_of_an_id_counts(parts, tmp_path, whole):
    path = tmp_path / "r.jsonl"
    first = path.write_bytes(whole)
    second = {"id": PROBLEMS[1].id, "verdicts": ["wrong"] * 4, "tokens": [9, 8, 7, 6]}
    other = {"id": "00000000000000aa", "verdicts": ["wrong"] * 4, "tokens": [1, 1, 1, 1]}
    with path.open("a") as file:
        file.write(json.dumps(other) + "\n" + json.dumps(second) + "\n")
    found, engine = run(parts, path)
    assert engine.requests == []
    assert found[PROBLEMS[1].id].tokens == tuple(TOKENS["2+3=?"])
    assert [reference.reward for reference in found.values()] == [1.0, 0.5, 0.25]
    assert [reference.id for reference in read_references(path)] == [*(one.id for one in PROBLEMS), other["id"]]
    assert len(found) == 3
    for absent in (other["id"], "0" * 16, "f" * 16):
        assert absent not in found
        with pytest.raises(KeyError):
            found[absent]
    assert path.stat().st_size > first


@pytest.mark.parametrize("content", [b"", b"\n" * 2000, b"[]\n" * 500])
def test_a_store_that_changes_while_it_is_in_use_is_no_reference(parts, tmp_path, content):
    path = tmp_path / "r.jsonl"
    found, _ = run(parts, path)
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        found[PROBLEMS[2].id]
    assert str(caught.value) == (
        f"reference store '{path}' was changed while it was in use; leave it alone and start again"
    )


def test_rows_that_moved_are_not_mistaken_for_others(parts, tmp_path, whole):
    path = tmp_path / "r.jsonl"
    problems = [make_problem(f"{n}", "1") for n in range(2)]
    row = {"verdicts": ["wrong"] * 4, "tokens": [1] * 4}
    header = whole[: whole.find(b"\n") + 1]
    rows = [json.dumps({"id": problem.id} | row).encode() + b"\n" for problem in problems]
    path.write_bytes(header + b"".join(rows))
    found, _ = run(parts, path, problems=problems)
    path.write_bytes(header + b"".join(rows[::-1]))
    with pytest.raises(UserError, match="was changed while it was in use"):
        found[problems[0].id]


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "1+1=?", "answer": "2"}\n',
        b"my notes",  # no line end: nothing that could be taken for a cut header either
        b"\n\n",
        b"[1, 2]\n",
        b"7",
        b'{"settings": 5}\n',
        b"\x00\xff\xfe",
    ],
)
def test_foreign_file_is_refused_and_left_alone(parts, tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        run(parts, path)
    assert str(caught.value) == f"'{path}' is not a reference store: its first line holds no settings"
    assert path.read_bytes() == content


def test_folder_is_refused(parts, tmp_path):
    with pytest.raises(UserError) as caught:
        run(parts, tmp_path)
    assert str(caught.value) == f"'{tmp_path}' is a folder; a reference store is a JSONL file"


PRESAMPLE = """
import json, sys, time
from pathlib import Path
import test_reference as here
from adaptthink.models.loading import load_tokenizer
from adaptthink.modes import probe

tokenizer = load_tokenizer("tiny")
engine = here.ByStream((tokenizer, probe(tokenizer)))
generate, engine.calls_left = engine.generate, 1

def slowly(requests, **options):
    if not engine.calls_left:
        print("in the middle", flush=True)
        sys.stdin.read()  # until the test ends it
    engine.calls_left -= 1
    return generate(requests, **options)

engine.generate = slowly
here.presample(engine.sampler, here.PROBLEMS, here.CONFIG, fingerprint="f00d", path=Path(sys.argv[1]))
"""


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of making the store r.jsonl, with one problem of three done."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))}
    command = [sys.executable, "-c", PRESAMPLE, str(tmp_path / "r.jsonl")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "in the middle\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_touches_nothing(parts, tmp_path, whole, writer):
    path = tmp_path / "r.jsonl"
    half_line = b'{"id": "00'
    with path.open("ab") as file:  # as if the other one were just writing
        file.write(half_line)
    content = path.read_bytes()
    assert content.count(b"\n") == 2
    assert run(parts, path, problems=PROBLEMS[:1])[1].requests == []  # what is there can be read meanwhile
    engine = ByStream(parts)
    with pytest.raises(UserError, match=r"reference store '.*r\.jsonl' is in use by another process") as caught:
        presample(engine.sampler, PROBLEMS, CONFIG, fingerprint="f00d", path=path)
    assert "\n" not in str(caught.value)
    assert engine.requests == []
    assert path.read_bytes() == content
    path.write_bytes(content.removesuffix(half_line))
    writer.communicate("")
    assert writer.returncode == 0
    assert path.read_bytes() == whole


def test_a_killed_process_leaves_no_lock(parts, tmp_path, whole, writer):
    writer.kill()
    writer.wait()
    _, engine = run(parts, tmp_path / "r.jsonl")
    assert len(engine.requests) == 8
    assert (tmp_path / "r.jsonl").read_bytes() == whole


def test_a_finished_store_is_read_without_a_lock_and_without_leave_to_write(parts, tmp_path, whole):
    path = tmp_path / "shared" / "r.jsonl"
    path.parent.mkdir()
    path.write_bytes(whole)
    path.chmod(0o444)
    first, _ = run(parts, path)
    second, _ = run(parts, path)
    assert first == second == run(parts, path)[0]
    assert [one.name for one in path.parent.iterdir()] == ["r.jsonl"]


def test_what_another_process_added_until_the_lock_was_had_is_not_sampled_again(parts, tmp_path, whole, monkeypatch):
    path = tmp_path / "r.jsonl"

    @contextmanager
    def late(*_):
        path.write_bytes(whole)  # as the other one left it
        yield

    monkeypatch.setattr(reference, "locked", late)
    found, engine = run(parts, path)
    assert engine.requests == []
    assert [found[problem.id].reward for problem in PROBLEMS] == [1.0, 0.5, 0.25]
    assert path.read_bytes() == whole


def test_reward_is_the_mean():
    verdicts = (Verdict.CORRECT, Verdict.TRUNCATED, Verdict.UNPARSED)
    assert Reference("x", verdicts, (1, 2, 3)).reward == pytest.approx(1 / 3)
