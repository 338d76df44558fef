"""What grading could not find out, in every command: tried again, never counted as wrong, bounded, reported.

A stand-in for the workers loses the outcomes of chosen answers; how workers are lost is in test_grading_pool.py.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from rollouts import make_rollout

import adaptthink as at
from adaptthink import grading
from adaptthink.evaluation.scores import find_lost, select_gradable, summarise
from adaptthink.evaluation.store import Outcome
from adaptthink.grading import Verdict
from adaptthink.grading.pool import LostError
from adaptthink.modes import Mode
from adaptthink.problems import make_problem
from adaptthink.storage.runs import read_metrics
from adaptthink.training.advantages import compute_advantages, compute_group_advantages
from adaptthink.training.batch import Batch, summarise_rollout

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is ours
TOKENS = ["--max-think-tokens", "48", "--max-no-think-tokens", "12"]
SUMS = [(a, b) for a in range(1, 5) for b in range(1, 5)]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for variable in [name for name in os.environ if name.startswith("ADAPTTHINK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{a}+{b}=?", "answer": f"{a + b}+x^0-1"} for a, b in SUMS]  # only a worker can compare
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Workers:
    """Answers as workers would; a task and its reference answer are lost as often as `losses` says."""

    def __init__(self):
        self.losses = Counter()
        self.tasks = Counter()

    def __call__(self, limits, task, *arguments):
        self.tasks[task] += 1
        if self.losses[task, arguments[-1]] > 0:
            self.losses[task, arguments[-1]] -= 1
            raise LostError("the worker was killed")
        if task == "parsable":
            return ("yes",)
        found, reference = arguments
        return ("correct" if found == reference.partition("+")[0] else "wrong", "symbolic")


@pytest.fixture
def workers(monkeypatch):
    found = Workers()
    monkeypatch.setattr(grading, "perform", found)
    return found


@pytest.fixture
def run(run):
    """Run the command line as `conftest.run` does; its output on one line."""

    def run_joined(*args):
        status, out, err = run(*args)
        return status, " ".join(out.split()), " ".join(err.split())

    return run_joined


def lose(workers, times, *sums, task="judge"):
    workers.losses |= {(task, f"{value}+x^0-1"): times for value in sums}


PRESAMPLE = ["presample", "--problems", "sums.jsonl", "--reference-samples", "4", *TOKENS, "--output", "r.jsonl"]


def read_rewards():
    rows = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()[1:]]
    return {row["id"]: row["verdicts"] for row in rows}


def test_presample_leaves_it_out_of_the_mean_and_grades_it_again(workers, run):
    code, _, _ = run(*PRESAMPLE)
    assert code == 0
    wanted, rewards = Path("r.jsonl").read_text(), read_rewards()
    Path("r.jsonl").unlink()
    assert sum(verdicts.count("correct") for verdicts in rewards.values()) > 40  # of 60; so that a 0 would show
    lose(workers, 1, 8)
    code, out, _ = run(*PRESAMPLE)
    assert (code, "1 of 60 responses could not be graded and count nowhere" in out) == (0, True)
    [unknown] = [verdicts for verdicts in read_rewards().values() if "unknown" in verdicts]
    known = [verdict for verdict in unknown if verdict != "unknown"]
    assert len(known) == 3
    tasks = workers.tasks["judge"]
    code, out, _ = run(*PRESAMPLE)
    assert (code, "could not be graded" in out) == (0, False)
    assert workers.tasks["judge"] - tasks == 4  # of one problem
    assert sorted(Path("r.jsonl").read_text().splitlines()) == sorted(wanted.splitlines())


def test_presample_and_train_refuse_a_problem_of_which_nothing_is_known(workers, run):
    """Left out, it would change the set of problems, and a resumed training with it."""
    lose(workers, 4, 8)
    for command in (PRESAMPLE, TRAIN):
        code, _, err = run(*command, "--max-failed-grades", "1")
        assert code == 2
        assert "no response of the reference to problem" in err
        lose(workers, 4, 8)
    workers.losses.clear()
    assert run(*PRESAMPLE)[0] == 0
    assert len(read_rewards()) == 15


TRAIN = [
    "train", "--problems", "sums.jsonl", "--reference-samples", "4", *TOKENS, "--output", "run", "--clean",
    "--steps", "2", "--problems-per-step", "8", "--samples-per-problem", "4", "--probe-every", "2",
]  # fmt: skip


def test_train_goes_on_below_the_limit_and_stops_above(workers, run):
    assert run(*PRESAMPLE)[0] == 0
    lose(workers, 1, 4, 5, 6)
    code, _, err = run(*TRAIN, "--reference", "r.jsonl", "--max-failed-grades", "0.2")
    assert code == 0, err
    shares = [row["verdict_share_unknown"] for row in read_metrics(Path("run/metrics.jsonl"))]
    assert 0 < sum(shares) * 32 <= 3
    lose(workers, 99, 4, 5, 6)
    code, _, err = run(*TRAIN, "--reference", "r.jsonl", "--max-failed-grades", "0.2")
    assert code == 2
    assert "step 1: grading timed out or failed on" in err
    assert "max_failed_grades = 0.2" in err


EVALUATE = ["evaluate", "tiny", "--problems", "sums.jsonl", *TOKENS, "--output", "e"]


def read_summary():
    return json.loads(Path("e/summary.json").read_text())["modes"]


def test_evaluate_counts_it_nowhere_and_grades_it_again(workers, run):
    assert run(*EVALUATE)[0] == 0
    wanted = read_summary()
    Path("e/verdicts.jsonl").unlink()
    samples = Path("e/samples.jsonl").read_text()
    lose(workers, 1, 8)  # the answer to 4+4, in the first mode
    code, out, _ = run(*EVALUATE)
    assert code == 0
    assert "1 of 48 responses could not be graded and count nowhere" in out
    found = read_summary()
    assert sum(mode["unknown"] for mode in found.values()) == 1
    [hit] = [name for name, mode in found.items() if mode["unknown"]]
    assert found[hit]["overall"]["n"] == 15
    right = wanted[hit]["overall"]["accuracy"] * 16
    assert found[hit]["overall"]["accuracy"] * 15 == pytest.approx(right - 1)  # it was right, and is not known now
    code, out, _ = run(*EVALUATE)
    assert (code, "could not be graded" in out) == (0, False)
    assert read_summary() == wanted
    assert Path("e/samples.jsonl").read_text() == samples


@pytest.mark.parametrize("command", [EVALUATE, ["calibrate", *EVALUATE[1:], "--tolerance", "90"]])
def test_evaluate_and_calibrate_stop_above_the_limit(workers, run, command):
    lose(workers, 3, 5)
    code, _, err = run(*command)
    assert code == 2
    assert "(3 unknown of " in err
    assert "more than max_failed_grades = " in err


def test_evaluate_fails_with_an_error_and_a_higher_limit_goes_on(workers, run):
    lose(workers, 3, 5)
    code, _, err = run(*EVALUATE)
    assert code == 2
    assert "grading timed out or failed on 6.2% of the last responses (3 unknown of 48)" in err
    assert not Path("e/summary.json").exists()
    lose(workers, 3, 5)
    assert run(*EVALUATE, "--max-failed-grades", "0.1")[0] == 0
    assert sum(mode["unknown"] for mode in read_summary().values()) == 3


def test_calibrate_leaves_out_a_problem_that_lacks_a_mode(workers, run):
    lose(workers, 1, 8)
    code, _, err = run("calibrate", *EVALUATE[1:], "--tolerance", "90")
    assert code == 0, err
    assert json.loads(Path("e/dial.json").read_text())["num_problems"] == 15


def test_compare_leaves_out_what_one_row_lacks_and_says_so(workers, run):
    assert run(*EVALUATE)[0] == 0
    Path("e").rename("first")
    lose(workers, 1, 8)
    assert run(*EVALUATE)[0] == 0
    [hit] = [name for name, mode in read_summary().items() if mode["unknown"]]
    code, out, err = run("compare", f"first:{hit}", f"e:{hit}", "--json", "c.json", "--markdown", "c.md")
    assert code == 2  # 1 of 16
    assert "1 of 16 responses could not be graded; run its adaptthink evaluate again" in err
    code, out, err = run("compare", f"first:{hit}", f"e:{hit}", "--force", "--json", "c.json", "--markdown", "c.md")
    assert code == 0, err
    assert "1 responses of e" in out
    assert "1 responses of e" in Path("c.md").read_text()
    found = json.loads(Path("c.json").read_text())
    assert [sum(one["n"] for one in row["sets"].values()) for row in found["rows"]] == [15, 15]
    assert found["rows"][1]["mean_change"]["accuracy"]["interval"]["estimate"] == 0


def test_grade_writes_all_verdicts_and_fails_above_the_limit(workers, run):
    rows = [{"response": f"\\boxed{{{n}}}", "reference_answer": f"{n}+x^0-1"} for n in range(10)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lose(workers, 1, 3)
    code, _, err = run("grade", "in.jsonl", "--json", "out.jsonl")
    assert code == 2
    assert "failed on 10.0% of the last responses (1 unknown of 10)" in err
    verdicts = [json.loads(line)["verdict"] for line in Path("out.jsonl").read_text().splitlines()]
    assert verdicts == ["correct"] * 3 + ["unknown"] + ["correct"] * 6
    lose(workers, 1, 3)
    assert run("grade", "in.jsonl", "--max-failed-grades", "0.1")[0] == 0


@pytest.mark.parametrize("command", [["data", "check", "sums.jsonl"], PRESAMPLE, TRAIN, EVALUATE])
def test_no_problem_is_dropped_as_its_reference_answer_could_not_be_checked(workers, run, command):
    lose(workers, 1, 8, task="parsable")
    code, _, err = run(*command)
    assert code == 2
    assert "the reference answer '8+x^0-1' could not be checked" in err


def test_a_reward_function_that_fails_is_bounded_too():
    def judge(problem, response):
        if problem.prompt == "1+1=?":
            raise ConnectionError
        return 1.0

    problems = [{"prompt": f"{a}+{b}=?", "answer": str(a + b)} for a, b in SUMS]
    options = {"modes": ["no_think"], "reward": judge, "max_no_think_tokens": 12}
    with pytest.raises(at.UserError, match=r"\(1 unknown of 16\)"):
        at.evaluate("tiny", problems, **options)
    overall = at.evaluate("tiny", problems, max_failed_grades=0.1, **options).modes["no_think"]
    assert (overall.unknown, overall.overall.n) == (1, 15)


# --- the parts ---


def outcome(problem, requested, verdict, index=0):
    return Outcome(problem, "1", requested, index, Mode.THINK, verdict, 10, None)


def test_a_problem_without_a_graded_response_in_a_mode_is_left_out_of_pairs():
    unknown, right, wrong = Verdict.UNKNOWN, Verdict.CORRECT, Verdict.WRONG
    outcomes = [
        outcome("a", "think", right), outcome("a", "no_think", wrong),
        outcome("b", "think", right), outcome("b", "no_think", unknown),
        outcome("c", "think", unknown), outcome("c", "think", right, 1), outcome("c", "no_think", right),
    ]  # fmt: skip
    assert find_lost(outcomes) == {"b"}
    kept = select_gradable(outcomes)
    assert [(one.problem_id, one.requested, one.index) for one in kept] == [
        ("a", "think", 0), ("a", "no_think", 0), ("c", "think", 1), ("c", "no_think", 0),
    ]  # fmt: skip
    think = summarise(one for one in outcomes if one.requested == "think")
    assert (think.overall.accuracy, think.overall.n, think.unknown, think.ungradable) == (1.0, 3, 1, 0)


def test_an_unknown_response_has_no_gradient_and_touches_no_other():
    problem = make_problem("47+8=?", "55")
    right, wrong, unknown = (
        summarise_rollout(make_rollout(problem, Mode.THINK, (1,), (2, 3), (0.0, 0.0), 0, verdict))
        for verdict in (Verdict.CORRECT, Verdict.WRONG, Verdict.UNKNOWN)
    )
    assert compute_advantages(Batch([right, unknown, wrong], [0.5] * 3, 0.0), 0.05).tolist() == [0.5, 0.0, -0.5]
    group = compute_group_advantages(Batch([right, wrong], [None] * 2, 0.0), 0.05).tolist()
    assert group == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-4)
    found = compute_group_advantages(Batch([right, unknown, wrong], [None] * 3, 0.0), 0.05).tolist()
    assert found == pytest.approx([group[0], 0.0, group[1]])
    assert compute_group_advantages(Batch([right, unknown], [None] * 2, 0.0), 0.05).tolist() == [0.0, 0.0]
