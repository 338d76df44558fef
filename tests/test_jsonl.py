"""Files of JSON lines: what a crash or a fault leaves of each store, and what is made of it."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from adaptthink.config.schema import EvaluateConfig, PresampleConfig
from adaptthink.engines.base import Finish
from adaptthink.errors import UserError
from adaptthink.evaluation.run import make_policy_setting, sample_missing
from adaptthink.evaluation.store import (
    Decision,
    Sample,
    grade_folder,
    open_folder,
    read_decisions,
    read_grader,
    read_outcomes,
    read_problems,
    read_samples,
    read_verdicts,
    write_decisions,
)
from adaptthink.grading import Grade, Rule, Verdict
from adaptthink.grading.identity import GRADER_VERSION
from adaptthink.modes import Mode
from adaptthink.problems import make_problem
from adaptthink.sampling.grader import AnswerGrader
from adaptthink.storage import jsonl
from adaptthink.storage.jsonl import Appender, encode, parse_object, read_lines, read_records, repair, replace_file
from adaptthink.storage.runs import MetricsLog, read_metrics
from adaptthink.storage.settings import find_changes, refuse_changes
from adaptthink.training import reference
from adaptthink.training.reference import open_references, presample, read_references

# ---- the store itself -----------------------------------------------------------------------------------------------

ROWS = [{"n": 1, "text": "größer\n"}, {"n": 2, "text": "\ud83d"}, {"n": 3, "nan": None}]
WHOLE = b"".join(map(encode, ROWS))


def read(path, **options):
    return list(read_records(read_lines(path), dict, **options))


def write(path, rows, **options):
    with Appender(path, **options) as file:
        return [file.write(row) for row in rows]


def test_what_is_written_is_read_at_the_places_that_were_returned(tmp_path):
    path = tmp_path / "a.jsonl"
    starts = write(path, ROWS)
    assert path.read_bytes() == WHOLE
    assert WHOLE.isascii()
    assert WHOLE.count(b"\n") == 3
    assert read(path) == ROWS
    assert [(line.number, line.start) for line in read_lines(path)] == list(enumerate(starts, 1))
    for start, row in zip(starts, ROWS, strict=True):
        assert parse_object(WHOLE[start:].splitlines(keepends=True)[0]) == row
    assert write(path, ROWS[:1]) == [len(WHOLE)]  # goes on after what is there


@pytest.mark.parametrize("length", range(len(WHOLE) + 1))
def test_cut_anywhere_a_file_is_read_up_to_there_and_continued_whole(tmp_path, length):
    path = tmp_path / "a.jsonl"
    path.write_bytes(WHOLE[:length])
    whole = WHOLE[:length].count(b"\n")
    assert read(path) == ROWS[:whole]
    assert path.read_bytes() == WHOLE[:length]  # reading repairs nothing: another process may be writing
    write(path, ROWS[whole:])
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16])
@pytest.mark.parametrize("before", [b"", b"{}\n", b"{}\n" * 2**15])
def test_a_long_cut_line_is_removed(tmp_path, before, size):
    path = tmp_path / "a.jsonl"
    path.write_bytes(before + b"x" * size)
    repair(path)
    assert path.read_bytes() == before


def test_nothing_is_repaired_where_there_is_nothing(tmp_path):
    repair(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_whole_line_begins_with_the_header(tmp_path):
    path = tmp_path / "a.jsonl"
    for content in (None, b"", b'{"made'):
        if content is not None:
            path.write_bytes(content)
        assert write(path, ROWS[:1], header={"made": 1}) == [len('{"made": 1}\n')]
        assert read(path) == [{"made": 1}, ROWS[0]]
        write(path, ROWS[1:], header={"made": 2})
        assert read(path) == [{"made": 1}, *ROWS]


DAMAGES = {
    b"\0\0\0\0\n": "not valid JSON",
    b"\n": "not valid JSON",
    b'{"n": 2\n': "not valid JSON",
    b'{"n": 2}{"n": 3}\n': "not valid JSON: Extra data",
    b'{"n": "\xff"}\n': "not UTF-8 text (invalid start byte at byte 7 of the line)",
    b"[2]\n": "expected a JSON object, found list",
    b"2\n": "expected a JSON object, found int",
    b"[" * 100_000 + b"\n": "not valid JSON: nested too deeply",
    b'{"m": 2}\n': "no 'n'",
    b'{"n": "two"}\n': "invalid literal for int()",
    b'{"n": [2]}\n': "int() argument must be",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=[repr(damage[:20]) for damage in DAMAGES])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_damaged_line_is_named_wherever_it_is(tmp_path, damage, number):
    path = tmp_path / "a.jsonl"
    lines = WHOLE.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[: number - 1], damage, *lines[number - 1 :]]))
    values = read_records(read_lines(path), lambda row: int(row["n"]), remedy="do this")
    assert [next(values) for _ in range(number - 1)] == [1, 2, 3][: number - 1]
    with pytest.raises(UserError) as caught:
        next(values)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {number}: damaged ({DAMAGES[damage]}")
    assert message.endswith("); do this")
    assert "\n" not in message


def test_of_a_key_the_first_record_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"n": 1, "v": "a"}, {"n": 2, "v": "b"}, {"n": 1, "v": "c"}, {"n": 2, "v": "b"}, {"n": 3, "v": "d"}]
    write(path, rows)
    assert "".join(row["v"] for row in read(path, key=lambda row: row["n"])) == "abd"
    assert len(read(path)) == 5
    path.write_bytes(path.read_bytes() + b"nothing\n")  # a repetition is passed over, damage is not
    with pytest.raises(UserError, match="line 6: damaged"):
        read(path, key=lambda row: row["n"])


def test_a_line_is_there_when_write_returns_and_on_the_disk_when_its_time_has_come(tmp_path, monkeypatch):
    path, seconds, synced = tmp_path / "a.jsonl", [100.0], []
    monkeypatch.setattr(jsonl.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr("os.fsync", lambda _: synced.append(path.read_bytes().count(b"\n")))
    with Appender(path) as file:
        for count, now in enumerate([100.0, 100.9, 101.0, 101.9, 102.1], 1):
            seconds[0] = now
            file.write({"n": count})
            assert len(read(path)) == count
        assert synced == [3, 5]
    assert synced == [3, 5, 5]
    with Appender(path, sync_seconds=0) as file:
        file.write({"n": 6})
        assert synced == [3, 5, 5, 6]


def test_a_record_that_json_refuses_leaves_no_trace(tmp_path):
    """The next record begins a line of its own."""
    path = tmp_path / "a.jsonl"
    with Appender(path) as file:
        file.write({"n": 1})
        with pytest.raises(TypeError):
            file.write({"n": object()})
        file.write({"n": 2})
    assert read(path) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, fault):
    path = tmp_path / "new" / "a.jsonl"
    with replace_file(path) as file:
        file.write(b"old\n")
        assert not path.exists()

    def fail():
        with replace_file(path) as file:
            file.write(b"new\n")
            raise fault

    with pytest.raises(type(fault)):
        fail()
    assert path.read_bytes() == b"old\n"
    assert [one.name for one in path.parent.iterdir()] == ["a.jsonl"]


# ---- changed settings -----------------------------------------------------------------------------------------------


def test_every_changed_setting_is_named_with_both_values():
    old, new = {"a": 1, "b": "x", "c": None, "d": 4}, {"a": 1, "b": "y", "d": 5, "e": 0.5}
    assert find_changes(old, new) == [("b", "x", "y"), ("d", 4, 5), ("e", None, 0.5)]
    with pytest.raises(UserError) as caught:
        refuse_changes("store 'here'", old, new, ignoring={"d"})
    assert str(caught.value) == (
        "store 'here' was made with other settings: b was 'x' and is now 'y', e was None and is now 0.5; "
        "return to the old ones or give another path"
    )
    refuse_changes("it", old, new, ignoring={"b", "d", "e"})
    refuse_changes("it", old, dict(reversed(old.items())))


# ---- every store ----------------------------------------------------------------------------------------------------

PROBLEMS = [make_problem(f"{n}+1=?", str(n + 1), level=1) for n in range(4)]
PROBLEMS.sort(key=lambda problem: problem.id)  # as they are read, so that the last line holds the last of them
SETTING = make_policy_setting("m", "f", EvaluateConfig(), {"Alright": 1.0})
RIGHT = Grade(Verdict.CORRECT, None, Rule.EXACT)
STORE_CONFIG = PresampleConfig(reference_samples=1)


class Store(NamedTuple):
    """A file that is written by `resume`, which completes it, and read by `load` into {key: value}."""

    name: str
    resume: object
    load: object
    header: int = 0  # lines before the records


def sample_of(problem, index=0):
    return Sample(problem.id, "auto", index, Mode.NO_THINK, None, f"\\boxed{{{problem.answer}}}", Finish.STOP, 5, 0, 1)


def evaluate(folder):
    def respond(queries, take):
        for query in queries:
            take(sample_of(query.problem))

    sample_missing(respond, folder, SETTING, PROBLEMS, ("auto",), lambda problem: 1)
    known = read_decisions(folder)
    write_decisions(folder, {one.id: Decision(0.5, 0.25) for one in PROBLEMS if one.id not in known})
    grade_folder(folder)


def presample_here(monkeypatch):
    """Make the reference; every response is correct and has two tokens."""

    def answer(sampler, problems, modes, sampling, keep, **_):
        for problem in problems:
            keep(
                problem,
                [
                    SimpleNamespace(
                        verdict=Verdict.CORRECT, response_ids=(1, 2), grade=Grade(Verdict.CORRECT, None, Rule.EXACT)
                    )
                ],
            )

    monkeypatch.setattr(reference, "sample_each", answer)
    return lambda folder: presample(None, PROBLEMS, STORE_CONFIG, fingerprint="f", path=folder / "reference.jsonl")


def load_references(folder):
    """What training reads, in the order of the file."""
    path = folder / "reference.jsonl"
    found = open_references(path)
    return {one.id: found[one.id] for one in read_references(path)}


def log_steps(folder):
    path = folder / "metrics.jsonl"
    done = len(read_metrics(path))
    log = MetricsLog(path, keep_steps=done)
    for step in range(done + 1, 5):
        log.write({"step": step, "loss": 0.5 * step})
    log.close()


STORES = [
    Store("reference.jsonl", None, load_references, header=1),
    Store("problems.jsonl", evaluate, read_problems),
    Store("samples.jsonl", evaluate, lambda folder: {one.key: one for one in read_samples(folder)}),
    Store("verdicts.jsonl", evaluate, lambda folder: dict(read_verdicts(folder / "verdicts.jsonl")), header=1),
    Store("decisions.jsonl", evaluate, read_decisions),
    Store(
        "metrics.jsonl",
        log_steps,
        lambda folder: {row["step"]: row for row in read_metrics(folder / "metrics.jsonl")},
    ),
]


@pytest.fixture(params=STORES, ids=[store.name for store in STORES])
def store(request, monkeypatch):
    store = request.param
    return store if store.resume else store._replace(resume=presample_here(monkeypatch))


@pytest.fixture
def made(store, tmp_path):
    """The path of a store with four records, its folder, its lines and what it holds."""
    folder = tmp_path / "made"
    folder.mkdir()
    store.resume(folder)
    path = folder / store.name
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == store.header + 4
    held = store.load(folder)
    assert len(held) == 4
    return path, folder, lines, held


def test_a_last_line_that_was_cut_is_left_out_and_made_again(store, made):
    path, folder, lines, held = made
    for kept in range(0, len(lines[-1]), 7):
        cut = b"".join(lines[:-1]) + lines[-1][:kept]
        path.write_bytes(cut)
        assert store.load(folder) == dict(list(held.items())[:3])
        assert path.read_bytes() == cut
        store.resume(folder)
        assert path.read_bytes() == b"".join(lines)


def test_a_block_of_nothing_at_the_end_is_a_cut_line(store, made):
    """What some file systems leave after a power cut: the size of a line, and zeros."""
    path, folder, lines, _ = made
    path.write_bytes(b"".join(lines[:-1]) + b"\0" * len(lines[-1]))
    assert len(store.load(folder)) == 3
    store.resume(folder)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "damage", [b"\0" * 4096 + b"\n", b"\n", b'{"half', b"[]\n", b"{}\n", b'{"id": 1, "step": "x"}\n']
)
@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_damaged_line_stops_readers_and_writers_and_is_named(store, made, damage, index):
    path, folder, lines, _ = made
    number = store.header + index
    damaged = b"".join([*lines[:number], damage, *lines[number + (damage[:1] == b"\0") :]])
    path.write_bytes(damaged)
    for use in (store.load, store.resume):
        with pytest.raises(UserError) as caught:
            use(folder)
        assert str(caught.value).startswith(f"{path}, line {number + 1}: damaged (")
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == damaged


def test_the_advice_on_a_damaged_line_holds(store, made):
    path, folder, lines, held = made
    path.write_bytes(b"".join([*lines[:-2], b"\0\0\n", lines[-1]]))
    with pytest.raises(UserError) as caught:
        store.load(folder)
    if "remove that line, and what it held is made again" in str(caught.value):
        path.write_bytes(b"".join([*lines[:-2], lines[-1]]))
        store.resume(folder)
    elif "delete that file and evaluate again" in str(caught.value):
        path.unlink()
        store.resume(folder)
    else:
        assert "restore the file, or train again in another folder" in str(caught.value)
        path.write_bytes(b"".join([*lines[:-2], lines[-1]]))
        with pytest.raises(UserError, match="lacks step 3"):  # and not removed
            MetricsLog(path, keep_steps=4)
        return
    assert store.load(folder) == held
    assert sorted(path.read_bytes().splitlines()) == sorted(b"".join(lines).splitlines())


def test_a_doubled_line_counts_once_and_the_first_counts(store, made):
    path, folder, lines, held = made
    other = json.loads(lines[store.header])
    changed = {
        "tokens": 99 if store.name == "samples.jsonl" else [99],
        "answer": "99",
        "verdict": "wrong",
        "loss": 99.0,
    }
    changed["no_think_probability"] = 0.99
    other |= {name: value for name, value in changed.items() if name in other}
    assert encode(other) != lines[store.header]
    path.write_bytes(b"".join([*lines, lines[store.header], encode(other)]))
    assert store.load(folder) == held
    store.resume(folder)
    assert store.load(folder) == held


# ---- an evaluation's files together ---------------------------------------------------------------------------------


def test_a_doubled_sample_is_graded_and_counted_once(tmp_path):
    evaluate(tmp_path)
    path = tmp_path / "samples.jsonl"
    again = asdict(replace(sample_of(PROBLEMS[0]), answer="\\boxed{99}", tokens=99))
    path.write_bytes(path.read_bytes() + encode(again))
    outcomes = read_outcomes(tmp_path)
    assert [(one.correct, one.tokens) for one in outcomes] == [(1.0, 5)] * 4
    (tmp_path / "verdicts.jsonl").unlink()
    counted = []
    grade_folder(tmp_path, on_grade=counted.append)
    assert sum(counted) == 4
    assert read_outcomes(tmp_path) == outcomes


def test_a_problem_that_was_lost_is_named_and_put_back(tmp_path):
    evaluate(tmp_path)
    path = tmp_path / "problems.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    (tmp_path / "verdicts.jsonl").unlink()
    with pytest.raises(UserError, match=f"holds samples of problem {PROBLEMS[0].id}, but not the problem itself"):
        grade_folder(tmp_path)
    open_folder(tmp_path, SETTING, PROBLEMS)
    grade_folder(tmp_path)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(UserError, match=f"holds samples of problem {PROBLEMS[0].id}, but not the problem itself"):
        read_outcomes(tmp_path)


def test_verdicts_name_their_grader_and_what_changed(tmp_path, monkeypatch):
    evaluate(tmp_path)
    path = tmp_path / "verdicts.jsonl"
    header = json.loads(path.read_bytes().splitlines()[0])["grader"]
    assert header == read_grader(path)
    assert (header["version"], header["boxed_only"], header["seconds"]) == (GRADER_VERSION, True, 2.0)
    assert set(header["libraries"]) == {"math-verify", "latex2sympy2_extended", "sympy"}
    before = path.read_bytes()
    assert grade_folder(tmp_path) == []
    assert path.read_bytes() == before
    monkeypatch.setattr("adaptthink.grading.identity.installed", lambda name: "7" if name == "sympy" else "8")
    changes = grade_folder(tmp_path, AnswerGrader(boxed_only=False))
    assert "boxed_only was True and is now False" in changes
    assert f"sympy was {header['libraries']['sympy']} and is now 7" in changes
    assert len(changes) == 4  # and the two other libraries
    assert grade_folder(tmp_path, AnswerGrader(boxed_only=False)) == []
    assert len(read_outcomes(tmp_path)) == 4
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "decisions.jsonl", "evaluation.json", "problems.jsonl", "samples.jsonl", "verdicts.jsonl",
    ]  # fmt: skip


def test_grading_anew_that_was_interrupted_keeps_the_old_verdicts_and_goes_on(tmp_path, monkeypatch):
    evaluate(tmp_path)
    path, work = tmp_path / "verdicts.jsonl", tmp_path / "verdicts.jsonl.new"
    before = path.read_bytes()
    write_one = Appender.write

    def fails(self, record):
        if work.exists() and work.read_bytes().count(b"\n") == 3:
            self.file.write(b'{"problem_id": "')  # a kill in the middle of a line
            self.file.flush()
            raise KeyboardInterrupt
        return write_one(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "write", fails)
        with pytest.raises(KeyboardInterrupt):
            grade_folder(tmp_path, AnswerGrader(boxed_only=False))
    assert path.read_bytes() == before
    counted = []
    assert grade_folder(tmp_path, AnswerGrader(boxed_only=False), on_grade=counted.append) == [
        "boxed_only was True and is now False"
    ]
    assert sum(counted) == 2
    assert not work.exists()
    assert len(read_outcomes(tmp_path)) == 4


def test_verdicts_without_their_grader_are_damaged(tmp_path):
    evaluate(tmp_path)
    path = tmp_path / "verdicts.jsonl"
    for header in (b"", b'{"grader": "0123456789abcdef"}\n', b"\0\n"):
        path.write_bytes(header + b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
        for use in (read_outcomes, grade_folder, lambda folder: read_grader(folder / "verdicts.jsonl")):
            with pytest.raises(UserError, match=r"verdicts\.jsonl, line 1: damaged .*delete that file"):
                use(tmp_path)
