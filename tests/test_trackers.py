"""Trackers as callbacks: what they are given, and that no failure of theirs reaches a training.

A package of the tests' own stands for wandb here, so that it can fail as a test requests. The real trackers:
`test_trackers_real.py`.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import psutil
import pytest
from waiting import WAIT_SECONDS, wait_until

from adaptthink.callbacks import Callback, Callbacks
from adaptthink.cli.app import main
from adaptthink.cli.jobs import train_job
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.errors import UserError
from adaptthink.integrations import trackers
from adaptthink.integrations.trackers import parse_tracker, parse_trackers
from adaptthink.integrations.trackers.process import Bounds, Tracker, TrackerProcess, select_scalars
from adaptthink.storage.runs import read_metrics

FAKE = """\
import json, os, signal, subprocess, sys, time
from types import SimpleNamespace

def note(call, **values):
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(json.dumps({"call": call} | values) + "\\n")

def fault(call):
    note(call)
    if os.environ.get("FAKE_FAULT_IN") != call:
        return
    kind = os.environ["FAKE_FAULT"]
    if kind == "raise":
        raise ConnectionError("the quota\\nis used up")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)

class Run:
    def __init__(self, id):
        self.id, self.url, self.summary = id or "abc", "https://example.com/run", self

    def log(self, metrics, step, commit):
        fault("log")
        note("logged", metrics=metrics, step=step)

    def update(self, values):
        note("summary", values=values)

    def finish(self, exit_code):
        fault("finish")
        note("finished", exit_code=exit_code)

def Settings(**options):
    return SimpleNamespace(**options)

def init(config, settings, id=None, **options):
    if os.environ.get("FAKE_CHILD"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
        note("child", pid=child.pid)
    fault("init")
    note("opened", config=config, id=id, watched=settings.x_stats_pid, **options)
    return Run(id)
"""
SMALL = {
    "problems_per_level": 2, "reference_samples": 2, "max_think_tokens": 32, "max_no_think_tokens": 8, "steps": 3,
    "problems_per_step": 4, "samples_per_problem": 2, "probe_problems_per_level": 1, "learning_rate": 1e-3,
}  # fmt: skip
SHORT = Bounds(end_seconds=1.0)
PATIENT = Bounds(WAIT_SECONDS, WAIT_SECONDS, end_seconds=WAIT_SECONDS, failed_seconds=WAIT_SECONDS)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """What a test says nothing of takes as long as it takes."""
    monkeypatch.setattr(Tracker.__init__, "__defaults__", (PATIENT,))


class Listener(Callback):
    """Keeps the messages."""

    def __init__(self):
        self.messages = []

    def on_message(self, message):
        self.messages.append(message)

    def faults(self):
        return [message for message in self.messages if "switched off" in message]


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Put the package that stands for wandb in front; returns a function that reads what it was called with."""
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(package.parent)
    log = tmp_path / "calls.jsonl"
    monkeypatch.setenv("FAKE_LOG", str(log))

    def read(*names):
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        return [line for line in lines if not names or line["call"] in names]

    return read


def runs(pid):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def wait_for_the_fault(calls, monkeypatch):
    """Let a job's time for a tracker that hangs pass only when the tracker has come so far."""

    def prepare(where):
        receive = TrackerProcess.receive

        def receive_then(self, seconds):
            wait_until(lambda: calls(where) or not self._inbox.empty())
            return receive(self, seconds)

        monkeypatch.setattr(TrackerProcess, "receive", receive_then)

    return prepare


def run_steps(tracker, output, *, steps=3):
    """A job that reports steps and nothing else; returns its messages to people."""
    listener = Listener()
    all_of_them = Callbacks([tracker, listener])
    with all_of_them.reporting("train", {"delta": 0.05}, output) as result:
        for step in range(1, steps + 1):
            all_of_them.on_step({"step": step, "loss": 1 / step})
        result |= {"model": "tiny", "seconds": 2.5}
    return listener


def test_what_a_tracker_is_given(tmp_path, calls):
    listener = run_steps(trackers.wandb("mine", group="first", tags="one"), tmp_path)
    (opened,) = calls("opened")
    assert opened == {
        "call": "opened", "config": {"delta": 0.05}, "id": None, "watched": os.getpid(), "project": "mine",
        "group": "first", "tags": ["one"], "name": tmp_path.name, "dir": str(tmp_path), "job_type": "train",
    }  # fmt: skip
    assert [(call["step"], call["metrics"]) for call in calls("logged")] == [
        (1, {"loss": 1.0}),
        (2, {"loss": 0.5}),
        (3, {"loss": 1 / 3}),
    ]
    assert calls("summary", "finished") == [
        {"call": "summary", "values": {"result/seconds": 2.5}},
        {"call": "finished", "exit_code": 0},
    ]
    assert listener.messages == ["wandb: https://example.com/run"]


def test_metrics_are_numbers_under_flat_names():
    metrics = {
        "step": 7, "loss": 0.5, "responses": 8, "reward_think": None, "kind": "text", "flag": True,
        "probe_no_think_by_level": {"1": 0.25, "hard": None, "deep": {"a": 1}}, "strata": {"1 think": {"count": 3}},
    }  # fmt: skip
    assert select_scalars(metrics) == {
        "loss": 0.5,
        "responses": 8,
        "probe_no_think_by_level/1": 0.25,
        "probe_no_think_by_level/deep/a": 1,
    }


def test_a_resumed_job_goes_on_in_the_same_run(tmp_path, calls):
    run_steps(trackers.wandb("mine"), tmp_path)
    run_steps(trackers.wandb("other"), tmp_path)  # another project, another run
    run_steps(trackers.wandb("mine"), tmp_path)
    first, other, resumed = calls("opened")
    assert first["id"] is other["id"] is None
    assert (resumed["id"], resumed["resume"]) == ("abc", "allow")
    assert json.loads((tmp_path / "trackers.json").read_text()) == {
        "wandb:project=mine": {"id": "abc"},
        "wandb:project=other": {"id": "abc"},
    }


def test_a_job_without_a_folder(calls):
    assert run_steps(trackers.wandb(), None).messages == ["wandb: https://example.com/run"]
    assert (calls("opened")[0]["name"], calls("opened")[0]["dir"]) == ("train", None)


def test_a_failed_job_is_a_failed_run(tmp_path, calls):
    def fail():
        observers = Callbacks([trackers.wandb()])
        with observers.reporting("train", {}, tmp_path):
            observers.on_step({"step": 1, "loss": 1.0})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [(call["step"], call["metrics"]) for call in calls("logged")] == [(1, {"loss": 1.0})]
    assert calls("finished") == [{"call": "finished", "exit_code": 1}]


def test_a_killed_job_is_a_failed_run(tmp_path, calls):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal
        from adaptthink.integrations.trackers import wandb
        tracker = wandb()
        tracker.on_start("train", {{}}, pathlib.Path({str(tmp_path)!r}))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, script], env=environment, check=False).returncode == -signal.SIGKILL
    wait_until(lambda: calls("finished"))
    assert calls("finished") == [{"call": "finished", "exit_code": 1}]


FAULTS = [
    ("init", "raise", "ConnectionError: the quota is used up"),
    ("init", "kill", "its process was killed (SIGKILL)"),
    ("log", "raise", "ConnectionError: the quota is used up"),
    ("log", "kill", "its process was killed (SIGKILL)"),
    ("log", "exit", "its process ended"),
    ("log", "hang", "it has not answered for "),
    ("finish", "raise", "ConnectionError: the quota is used up"),
    ("finish", "hang", "it has not answered for "),
]


@pytest.mark.parametrize(("where", "kind", "reason"), FAULTS)
def test_a_fault_is_told_once_and_the_job_goes_on(
    tmp_path, calls, monkeypatch, wait_for_the_fault, where, kind, reason
):
    monkeypatch.setenv("FAKE_FAULT_IN", where)
    monkeypatch.setenv("FAKE_FAULT", kind)
    if kind == "hang":
        monkeypatch.setenv("FAKE_CHILD", "yes")
        wait_for_the_fault(where)
    listener = run_steps(Tracker("wandb", {"project": "mine"}, SHORT if kind == "hang" else PATIENT), tmp_path)
    (fault,) = listener.faults()
    assert fault.startswith(f"wandb is switched off: {reason}")
    assert str(tmp_path / "trackers.log") in fault
    assert len(calls(where)) == 1  # nothing is tried again
    for child in calls("child"):  # what it has started has ended with it, as soon as the system gets to it
        wait_until(lambda pid=child["pid"]: not runs(pid))


def test_one_that_hangs_at_the_start_holds_the_job_up_for_so_long_and_no_longer(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT_IN", "init")
    monkeypatch.setenv("FAKE_FAULT", "hang")
    listener = run_steps(Tracker("wandb", {"project": "mine"}, Bounds(start_seconds=3.0)), tmp_path)
    assert len(listener.faults()) == 1
    assert re.search(r"it has not answered for \d+ s", listener.faults()[0])


@pytest.mark.parametrize(("bound", "reported"), [({"waiting_steps": 2}, 3), ({"silent_seconds": 0.0}, 1)])
def test_one_that_falls_behind_is_switched_off_in_the_middle(tmp_path, calls, monkeypatch, bound, reported):
    monkeypatch.setenv("FAKE_FAULT_IN", "log")
    monkeypatch.setenv("FAKE_FAULT", "hang")
    listener = Listener()
    observers = Callbacks([Tracker("wandb", {"project": "mine"}, replace(PATIENT, **bound)), listener])
    with observers.reporting("train", {}, tmp_path):
        for step in range(1, 6):
            observers.on_step({"step": step, "loss": 1.0})
            assert len(listener.faults()) == (step >= reported)


def test_a_folder_that_cannot_be_written_to(tmp_path, calls):
    (tmp_path / "trackers.log").mkdir()
    (fault,) = run_steps(trackers.wandb(), tmp_path).faults()
    assert "Is a directory" in fault


def test_a_damaged_state_file(tmp_path, calls):
    (tmp_path / "trackers.json").write_text("{")
    (fault,) = run_steps(trackers.wandb(), tmp_path).faults()
    assert "trackers.json" in fault


def train_small(run, *callbacks, resume=False):
    train_job(check(TrainConfig, SMALL), run, reference_store=None, resume=resume, clean=False, callbacks=callbacks)


def learned(run):
    """What a training leaves, but for times."""
    rows = [
        {name: value for name, value in row.items() if not name.endswith("_seconds")}
        for row in read_metrics(run / "metrics.jsonl")
    ]
    return rows, (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    run = tmp_path_factory.mktemp("untracked") / "run"
    train_small(run)
    return learned(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "kind"), [(None, ""), ("init", "raise"), ("log", "raise"), ("log", "kill"), ("log", "hang")]
)
def test_a_training_gives_the_same_bytes_whatever_its_tracker_does(
    tmp_path, calls, monkeypatch, untracked, where, kind
):
    if where:
        monkeypatch.setenv("FAKE_FAULT_IN", where)
        monkeypatch.setenv("FAKE_FAULT", kind)
    listener = Listener()
    bounds = SHORT if kind == "hang" else PATIENT
    train_small(tmp_path / "run", Tracker("wandb", {"project": "mine"}, bounds), listener)
    assert learned(tmp_path / "run") == untracked
    assert len(listener.faults()) == (where is not None)


def test_a_training_logs_its_lines_and_settings(tmp_path, calls):
    run = tmp_path / "run"
    train_small(run, trackers.wandb())
    rows = read_metrics(run / "metrics.jsonl")
    assert [(call["step"], call["metrics"]) for call in calls("logged")] == [
        (row["step"], select_scalars(row)) for row in rows
    ]
    first = calls("logged")[0]["metrics"]
    assert {"loss", "reward_think", "mean_tokens_no_think", "probe_no_think_by_level/1", "update_seconds"} <= set(first)
    assert not [name for name in first if name.startswith("strata")]
    assert calls("opened")[0]["config"] == check(TrainConfig, SMALL).model_dump(mode="json")
    assert calls("summary")[0]["values"]["result/steps"] == 3


def test_a_callback_of_the_users_own_ends_the_training_and_it_can_be_resumed(tmp_path, calls):
    class Impatient(Callback):
        def on_step(self, metrics):
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train_small(tmp_path / "run", trackers.wandb(), Impatient())
    assert calls("finished") == [{"call": "finished", "exit_code": 1}]
    train_small(tmp_path / "run", trackers.wandb(), resume=True)
    assert [call["step"] for call in calls("logged")] == [1, 1, 2, 3]
    assert [call["id"] for call in calls("opened")] == [None, "abc"]


def test_trackers_on_the_command_line(tmp_path, calls, monkeypatch, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("".join(f"{name} = {value}\n" for name, value in (SMALL | {"steps": 1}).items()))
    run = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["adaptthink", "train", str(recipe), "--output", str(run), "--track", "wandb:project=mine,group=a"]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert (calls("opened")[0]["project"], calls("opened")[0]["group"]) == ("mine", "a")
    assert "wandb: https://example.com/run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("neptune", "unknown tracker 'neptune'; there are wandb, trackio, tensorboard, mlflow"),
        (
            "wandb:porject=x",
            "tracker 'wandb:porject=x': 'porject=x' is no option of wandb; its options: project, entity",
        ),
        ("wandb:project", "'project' is no option"),
        ("wandb:project=a,project=b", "'project=b' is no option"),
    ],
)
def test_what_is_no_tracker_is_refused_before_the_work(tmp_path, monkeypatch, capsys, calls, text, message):
    monkeypatch.setattr(
        sys, "argv", ["adaptthink", "train", "toy_cpu", "--output", str(tmp_path / "run"), "--track", text]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_same_tracker_twice_is_refused(calls):
    with pytest.raises(UserError, match="'wandb:project=adaptthink' is given twice"):
        parse_trackers(["wandb", "wandb:project=adaptthink"])
    assert [one.label for one in parse_trackers(["wandb", "wandb:project=b"])] == [
        "wandb:project=adaptthink",
        "wandb:project=b",
    ]


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard", "mlflow"])
def test_a_package_that_is_not_installed(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()  # such as the folder that wandb itself leaves behind
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match=rf"{name} is not installed; install it: pip install '\.\[{name}\]'"):
        parse_tracker(name)


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed here; pip install '.[trl]'")
def test_trl_logs_the_same_metrics_under_the_same_names(tmp_path):
    """TRL's trainer logs to its own trackers; what both trainers measure is named alike there and in metrics.jsonl."""
    from datasets import Dataset

    from adaptthink.integrations.trl import AdaptThinkConfig, AdaptThinkTrainer

    args = AdaptThinkConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        per_device_train_batch_size=8, num_generations=4, max_steps=1, max_completion_length=24, max_no_think_tokens=9,
    )  # fmt: skip
    rows = [{"prompt": f"{number}+1=?", "answer": str(number + 1), "reference_reward": 0.5} for number in (1, 2)]
    trainer = AdaptThinkTrainer("tiny", args, Dataset.from_list(rows))
    trainer.train()
    train_small(tmp_path / "run")
    logged, native = (
        set(trainer.state.log_history[0]),
        set(select_scalars(read_metrics(tmp_path / "run" / "metrics.jsonl")[0])),
    )
    of_trl = {"epoch", "step", "step_time"}
    of_its_own_view = {"mean_tokens", "no_think_logprob", "no_think_probability", "no_think_share", "reward"}
    assert logged - native == of_trl | of_its_own_view
    not_measured = {name for name in native if name.startswith("probe_") or name.endswith("_seconds")}
    assert native - logged == not_measured | {"implicit_share_no_think", "entropy_no_think", "entropy_think"}
