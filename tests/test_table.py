"""Problems on disk: what is read is what was written, in any order, and a full disk is reported in one line."""

import random

import numpy as np
import pytest

from adaptthink.errors import UserError
from adaptthink.grading import AnswerKind
from adaptthink.problems import make_problem, sources, table
from adaptthink.problems.sources import Reading, choose_evaluation_problems
from adaptthink.problems.table import Selection, Spool, find_first_of_each, parse_id, parse_ids

PROBLEMS = [
    make_problem("1+1=?", "2", level=1, source="a"),
    make_problem('lines\nand\r\n"signs" \\boxed{} \u2028 €', "x\x00y", level="Level ?"),
    make_problem("Which?\nA. x\nB. y", "B", level=-(2**70), source="b/c", kind=AnswerKind.CHOICE),
    make_problem("", "{}", kind=AnswerKind.REASONING_GYM),
]


def spool_of(problems):
    spool = Spool()
    spool.extend(problems)
    return spool


@pytest.mark.parametrize("limit", [1, 200, 2**22])
def test_what_is_read_is_what_was_written(monkeypatch, limit):
    monkeypatch.setattr(table, "SPOOL_BYTES", limit)
    spool, written = Spool(), []
    rng = random.Random(0)
    for number in range(200):  # written and read in turns, as held-out problems are
        written.append(PROBLEMS[number % 4] if number < 8 else make_problem(f"{number} " + "x" * (number % 37), "1"))
        spool.append(written[-1])
        chosen = rng.randrange(len(written))
        assert spool[chosen] == written[chosen]
    assert [spool[number] for number in range(len(spool))] == written
    assert type(spool[2].kind) is AnswerKind


def test_a_file_only_beyond_the_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(table, "SPOOL_BYTES", 1000)
    few = spool_of(PROBLEMS)
    assert few[3] == PROBLEMS[3]
    with pytest.raises(UserError, match=r"^cannot put the problems into a temporary file .*nowhere.*; set TMPDIR to a"):
        few.extend(PROBLEMS * 10)


def test_full_disk_is_one_line(monkeypatch):
    spool = spool_of(PROBLEMS)

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.file, "flush", full)
    with pytest.raises(UserError) as caught:
        spool.append(PROBLEMS[0])
    assert str(caught.value) == (
        "cannot put the problems into a temporary file ([Errno 28] No space left on device); set TMPDIR to a folder "
        "with free space, or use fewer with max_problems"
    )


def test_a_selection_is_a_sequence():
    chosen = Selection(spool_of(PROBLEMS), np.array([3, 0, 2]))
    expected = [PROBLEMS[3], PROBLEMS[0], PROBLEMS[2]]
    assert list(chosen) == expected
    assert (chosen[-1], chosen[1:], chosen[::-1]) == (PROBLEMS[2], expected[1:], expected[::-1])
    assert chosen == expected
    assert expected == chosen
    assert chosen != expected[:2]
    assert chosen != expected[::-1]
    assert PROBLEMS[0] in chosen
    assert PROBLEMS[1] not in chosen
    assert not Selection(PROBLEMS, np.array([], int))
    assert list(Selection(chosen, np.array([2, 2]))) == [PROBLEMS[2]] * 2
    with pytest.raises(IndexError):
        chosen[3]


def test_first_of_each_id_in_the_order_of_ids():
    ids = np.array([2**64 - 1, 7, 2**63, 7, 0, 2**64 - 1], np.uint64)
    assert find_first_of_each(ids).tolist() == [4, 1, 2, 0]
    assert find_first_of_each(ids[:0]).tolist() == []
    assert [f"{id_:016x}" for id_ in parse_ids(PROBLEMS)] == [problem.id for problem in PROBLEMS]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [1, 5, 19, 30, 60])
def test_smallest_ids_are_found_while_reading_whatever_is_repeated(tmp_path, monkeypatch, seed, most):
    rng = random.Random(seed)
    numbers = [rng.randrange(30) for _ in range(120)]  # each about four times
    path = tmp_path / "p.csv"
    path.write_text("prompt,answer\n" + "".join(f"{number}?,{number}\n" for number in numbers))
    distinct = [make_problem(f"{number}?", str(number), source="p.csv") for number in dict.fromkeys(numbers)]
    kept = sorted(problem.id for problem in distinct)[:most]
    monkeypatch.setattr(sources, "PARSED_AT_ONCE", 2)
    chosen = choose_evaluation_problems(str(path), per_level=1, seed=0, reading=Reading(max_problems=most)).problems
    assert chosen == [problem for problem in distinct if problem.id in kept]


def test_what_will_not_be_kept_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "p.csv"
    path.write_text("prompt,answer\n" + "".join(f"{number}?,{number}\n" for number in range(5000)))
    monkeypatch.setattr(sources, "PARSED_AT_ONCE", 10)
    chosen = choose_evaluation_problems(str(path), per_level=1, seed=0, reading=Reading(max_problems=5)).problems
    assert len(chosen) == 5
    assert len(chosen.problems) < 200
    assert max(parse_id(problem.id) for problem in chosen) < 2**64 / 500
