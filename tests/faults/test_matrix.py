"""Every fault in every command: what a person sees, and that the repeated command ends as an undisturbed one.

What happens is the table in docs/how-to/operations.md.
"""

import json
import re
import signal
import threading

import pytest
from commands import CASES, name_differences, read_tree, run_alone, start
from completions_server import ModelServer, running
from waiting import WAIT_SECONDS

from adaptthink.engines.native import NativeEngine
from adaptthink.models.loading import load_policy

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL
DAMAGED = r"checkpoint .*step-000002 is not usable \(model.safetensors does not match its hash\)"
AT = {"train": 3, "run": 3, "presample": 100, "evaluate": 4, "calibrate": 4}  # step, or report of progress


def finish(words, status, fault=None) -> str:
    """Run a command to its end; return what it printed."""
    started = start(words, fault)
    ended, output = started.wait(), started.read_output()
    assert ended == status, output
    assert "Traceback" not in output
    return output


def disturb(name, kind, folder, status, *more) -> str:
    """Run a command with a fault; return what it printed."""
    return finish([*CASES[name].list_words(folder, again=False), *more], status, f"{kind}@{AT[name]}")


def repeat(name, folder, wanted) -> str:
    """Repeat a command; return what it printed, after its files are seen to be as without the fault."""
    output = finish(CASES[name].list_words(folder, again=True), 0)
    assert name_differences(read_tree(folder), wanted) == []
    return output


@pytest.mark.parametrize("name", CASES)
def test_a_hang_is_ended_by_the_watchdog(name, tmp_path, undisturbed):
    output = disturb(name, "hang", tmp_path, 75, "--stall-minutes", "0.02")
    assert "nothing has moved for 0.02 minutes" in output
    assert "in hang" in output  # the stacks
    repeat(name, tmp_path, undisturbed(name))


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_was_cut_is_made_whole(name, tmp_path, undisturbed):
    disturb(name, "truncated-file", tmp_path, KILLED)
    output = repeat(name, tmp_path, undisturbed(name))
    if name in ("train", "run"):
        assert re.search(DAMAGED, output)


@pytest.mark.parametrize("name", ["train", "run"])
def test_a_flipped_bit_of_a_checkpoint_is_found(name, tmp_path, undisturbed):
    disturb(name, "flipped-byte", tmp_path, KILLED)
    output = repeat(name, tmp_path, undisturbed(name))
    assert re.search(DAMAGED, output)


def test_a_full_disk_does_not_end_a_training(tmp_path, undisturbed):
    output = disturb("train", "disk-full", tmp_path, 0)
    assert "the checkpoint of step 4 cannot be written: No space left on device; that of step 2 stays" in output
    assert "step-000004/model.safetensors" not in {path.as_posix() for path in tmp_path.rglob("*")}
    left_out = {name for name in undisturbed("train") if "step-000004" in name}
    found = {name: content for name, content in read_tree(tmp_path).items() if "step-000005" not in name}
    assert name_differences(found, {n: c for n, c in undisturbed("train").items() if n not in left_out}) == []


@pytest.mark.parametrize("name", ["presample", "evaluate", "calibrate"])
def test_a_full_disk_ends_a_sampling_in_one_line(name, tmp_path, undisturbed):
    output = disturb(name, "disk-full", tmp_path, 2)
    assert "No space left on device" in output
    repeat(name, tmp_path, undisturbed(name))


def test_a_step_that_is_not_finite_is_skipped_and_kept(tmp_path):
    output = disturb("train", "nan", tmp_path, 0)
    assert "skipped, and kept: adaptthink replay" in " ".join(output.split())
    assert (tmp_path / "out" / "skipped" / "step-000004" / "rollouts.jsonl").is_file()
    assert finish(["replay", str(tmp_path / "out/skipped/step-000004")], 0)


@pytest.mark.parametrize("name", ["presample", "evaluate", "calibrate"])
def test_a_damaged_line_is_named(name, tmp_path, undisturbed):
    disturb(name, "kill", tmp_path, KILLED)
    [path] = (one for one in tmp_path.rglob("*.jsonl") if one.name in ("store.jsonl", "samples.jsonl"))
    head, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([head, b"z" + lines[0][1:], *lines[1:]]))
    output = finish(CASES[name].list_words(tmp_path, again=True), 2)
    assert re.search(r"line 2: damaged .*; remove that line", output)


def test_killed_graders_are_replaced(tmp_path):
    """Answers that only symbolic work can compare: the workers that do it are killed once."""
    problems = tmp_path / "problems.jsonl"
    rows = ({"prompt": f"{n}+{n}=?", "answer": f"\\\\sqrt{{{4 * n * n}}}"} for n in range(1, 9))
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["evaluate", "tiny", "--problems", str(problems), "--max-think-tokens", "64", "--output"]
    run_alone([*words, str(tmp_path / "whole")])
    output = finish([*words, str(tmp_path / "broken")], 0, "grader-crash@4")
    assert re.search(r"killed [1-9]\d* workers", output)
    assert name_differences(read_tree(tmp_path / "broken"), read_tree(tmp_path / "whole")) == []


# ---- servers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    policy = load_policy("tiny")
    return NativeEngine(policy.model, policy.eos_ids)


SERVED = {
    "presample": ("presample", "toy_cpu", "--problems-per-level", "3", "--all-problems", "--reference-samples", "2"),
    "evaluate": ("evaluate", "tiny", "--problems-per-level", "2", "--modes", "auto"),
}
LIMITS = ("--max-think-tokens", "24", "--max-no-think-tokens", "8", "--max-concurrent-sequences", "3")
MET = {"500": (500, {}), "429": (429, {"Retry-After": "0"}), "dropped": "drop", "garbage": "<html>busy</html>"}


def list_served(name, server, folder):
    """Return a command whose responses come from a server."""
    path = folder / ("store.jsonl" if name == "presample" else "out")
    return [*SERVED[name], *LIMITS, "--endpoint", server.url, "--output", str(path)]


def read_served(folder):
    """Return what a command left, the lines of its stores in an order of their own: servers answer as they like."""
    return {
        name: sorted(map(str, content)) if isinstance(content, list) else content
        for name, content in read_tree(folder).items()
    }


@pytest.mark.parametrize("fault", MET)
@pytest.mark.parametrize("name", SERVED)
def test_a_call_that_fails_is_made_again(name, fault, tmp_path, engine):
    with running(ModelServer(engine)) as server:
        (tmp_path / "whole").mkdir()
        finish(list_served(name, server, tmp_path / "whole"), 0)
        generation = []

        def meet(path, call):
            generation.append(call is not None and "logprob_token_ids" not in call)
            return MET[fault] if generation[-1] and sum(generation) in (4, 5) else None

        server.meets = meet
        (tmp_path / "broken").mkdir()
        status = 2 if (name, fault) in REFUSED else 0
        output = finish(list_served(name, server, tmp_path / "broken"), status)
        server.meets = lambda path, call: None
        if status:
            print(output)
            finish(list_served(name, server, tmp_path / "broken"), 0)
        left = [read_served(tmp_path / folder) for folder in ("broken", "whole")]
        assert name_differences(*left) == []


REFUSED = {("evaluate", "garbage")}  # by one server, what is no answer may never become one


@pytest.mark.parametrize("name", SERVED)
def test_a_server_that_dies_costs_nothing(name, tmp_path, engine):
    """The command waits for it or ends in one line; repeated with the server there, it ends as without the fault."""
    with running(ModelServer(engine)) as server:
        port, words = server.server_port, list_served(name, server, tmp_path)
        (tmp_path / "whole").mkdir()
        finish(list_served(name, server, tmp_path / "whole"), 0)
        wanted = read_served(tmp_path / "whole")
        (tmp_path / "broken").mkdir()
        words = list_served(name, server, tmp_path / "broken")
        enough, complete = threading.Event(), server.complete

        def die_after_four(call):
            if len(server.calls) > 8:
                enough.set()
            return complete(call)

        server.complete = die_after_four
        started = start(words)
        assert enough.wait(WAIT_SECONDS)
    if name == "evaluate":
        assert started.wait() == 2, started.read_output()
        assert "Traceback" not in started.read_output()
    with running(ModelServer(engine, port=port)):
        if name == "evaluate":
            started = start(words)
        assert started.wait() == 0, started.read_output()
    assert name_differences(read_served(tmp_path / "broken"), wanted) == []
