"""`adaptthink watch`: what it prints of a run that begins, goes on, ends, breaks off or begins again."""

import json
import subprocess
import sys

import pytest
from report_folders import metrics, write_lines
from waiting import WAIT_SECONDS

from adaptthink.cli.watch import watch_job
from adaptthink.errors import UserError
from adaptthink.storage.locks import is_held, locked

STEPS = 10  # of which the fifth and the tenth have a probe


class Stage:
    """Lets `watch_job` see one state of the folder after the other: a pause is the next entry of a list."""

    def __init__(self, run, *changes):
        self.run, self.changes, self.lock = run, list(changes), None

    def pause(self, seconds):
        assert self.changes, "it goes on waiting"
        self.changes.pop(0)()

    def begin(self, steps=STEPS):
        self.lock = locked(self.run, "run")
        self.lock.__enter__()
        self.run.mkdir(exist_ok=True)
        (self.run / "config.json").write_text(json.dumps({"steps": steps, "problems_per_step": 2}))

    def log(self, count, **changed):
        rows = metrics(STEPS)[:count]
        if changed:
            rows[-1] |= changed
        write_lines(self.run / "metrics.jsonl", rows)

    def finish(self):
        (self.run / "model").mkdir()
        self.stop()

    def stop(self):
        self.lock.__exit__(None, None, None)


def watch(run, capsys, *names):
    """What is printed while the folder goes through the named changes."""
    stage = Stage(run)
    stage.changes = [
        lambda name=name: (name[0] if callable(name[0]) else getattr(stage, name[0]))(*name[1:]) for name in names
    ]
    watch_job(run, pause=stage.pause)
    assert stage.changes == []
    return capsys.readouterr().out.splitlines()


def test_a_run_that_has_not_begun_is_waited_for_and_followed_to_its_end(tmp_path, capsys):
    lines = watch(tmp_path / "r", capsys, ("begin",), ("log", 3), ("log", 5), ("log", 9), ("log", 10), ("finish",))
    assert lines[0] == f"there is no training in '{tmp_path / 'r'}' yet; waiting for one to begin"
    assert lines[1] == "no step of the training is done yet; a run first samples and evaluates the untrained model"
    assert lines[2].split()[:2] == ["reward", "tokens"]
    assert [line.split()[0] for line in lines[4:6]] == ["5/10", "10/10"]
    assert lines[6:] == [f"the training has ended after 10 steps; its model is in {tmp_path / 'r' / 'model'}"]


def test_the_last_step_is_printed_when_its_probe_is_there(tmp_path, capsys):
    """The probe is added to the row of the step that was written before it."""
    run = tmp_path / "r"
    probed = metrics(STEPS)[4]
    plain = {key: value for key, value in probed.items() if not key.startswith("probe_")}
    first = [*metrics(STEPS)[:4], plain]
    lines = watch(
        run,
        capsys,
        ("begin",),
        (write_lines, run / "metrics.jsonl", first),
        ("log", 5),
        ("log", 10),
        ("finish",),
    )
    assert [line.split()[0] for line in lines[4:6]] == ["5/10", "10/10"]


def test_alarms_are_printed_when_they_begin(tmp_path, capsys):
    run = tmp_path / "r"
    alarm = {"no_signal": "nothing was learned"}
    rows = [row | ({"alarms": alarm} if row["step"] in (2, 3, 7) else {}) for row in metrics(STEPS)]
    lines = watch(run, capsys, ("begin",), (write_lines, run / "metrics.jsonl", rows), ("finish",))
    found = [line for line in lines if line.startswith("warning")]
    assert found == ["warning: step 2: nothing was learned", "warning: step 7: nothing was learned"]


def test_a_run_that_nobody_works_on_is_said(tmp_path, capsys):
    lines = watch(tmp_path / "r", capsys, ("begin",), ("log", 7), ("stop",))
    assert lines[-1] == "the training is at step 7 of 10, and no process works on it; it goes on with --resume"


def test_a_run_that_begins_again_is_shown_from_its_first_step(tmp_path, capsys):
    lines = watch(tmp_path / "r", capsys, ("begin",), ("log", 6), ("log", 2), ("log", 10), ("finish",))
    assert "the training has begun again" in lines
    assert [line.split()[0] for line in lines if "/10" in line] == ["5/10", "5/10", "10/10"]


def test_a_damaged_row_is_one_line(tmp_path, capsys):
    run = tmp_path / "r"
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: damaged"):
        watch(run, capsys, ("begin",), (write_lines, run / "metrics.jsonl", [{"loss": 1}]))


def test_another_folder_is_refused(run, tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    status, _, err = run("watch", tmp_path)
    assert status == 2
    assert "is an evaluation's folder, and a training run's folder is needed" in err


def test_the_lock_of_a_killed_process_is_not_held(tmp_path):
    assert not is_held(tmp_path / "r")
    code = "import sys, time; from pathlib import Path; from adaptthink.storage.locks import locked\n"
    code += f"with locked(Path({str(tmp_path / 'r')!r}), 'run'): print('held', flush=True); time.sleep({WAIT_SECONDS})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_held(tmp_path / "r")
        process.kill()
    assert (tmp_path / "r.lock").exists()
    assert not is_held(tmp_path / "r")
    with locked(tmp_path / "r", "run"):
        assert is_held(tmp_path / "r")
