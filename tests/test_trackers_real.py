"""The real trackers, each in its offline form, read back by their own means. They are in .venv-trackers."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import struct

import psutil
import pytest
from waiting import wait_until

if any(importlib.util.find_spec(name) is None for name in ("wandb", "trackio", "tensorboard", "mlflow")):
    pytest.skip("the trackers are not installed here; scripts/setup_trackers.sh", allow_module_level=True)

from adaptthink.callbacks import Callback, Callbacks
from adaptthink.cli.jobs import train_job
from adaptthink.config.resolve import check
from adaptthink.config.schema import TrainConfig
from adaptthink.integrations import trackers
from adaptthink.integrations.trackers.process import Bounds, Tracker, select_scalars
from adaptthink.storage.runs import read_metrics

SMALL = {
    "problems_per_level": 2, "reference_samples": 2, "max_think_tokens": 32, "max_no_think_tokens": 8, "steps": 3,
    "problems_per_step": 4, "samples_per_problem": 2, "probe_problems_per_level": 1, "checkpoint_every": 1,
}  # fmt: skip
OFFLINE = {
    "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
}  # fmt: skip


class Listener(Callback):
    """Keeps the messages."""

    def __init__(self):
        self.messages = []

    def on_message(self, message):
        self.messages.append(message)


class StopAt(Callback):
    """Ends the job at a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, metrics):
        if metrics["step"] == self.step:
            raise KeyboardInterrupt


def read_proxied(proxy):
    """Return the requests to a proxy that wait at it; what else connects, to a port that was another's, is none."""
    requests = []
    with contextlib.suppress(BlockingIOError):  # nobody waits any more
        while True:
            connection, _ = proxy.accept()
            connection.settimeout(60)  # a proxy's client sends its request at once
            with connection, contextlib.suppress(TimeoutError):
                requests.append(connection.recv(1000))
    return [request for request in requests if re.match(rb"CONNECT |[A-Z]+ http", request)]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """Their offline forms, their stores in a folder of the tests, and a proxy that takes note of who calls it."""
    stores = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelling in (name, name.lower()):
                patch.setenv(spelling, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            patch.delenv(name, raising=False)
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        patch.setenv("TRACKIO_DIR", str(stores / "trackio"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{stores / 'mlflow.db'}")
        patch.setenv("WANDB_CONFIG_DIR", str(stores))
        patch.setenv("WANDB_CACHE_DIR", str(stores))
        yield
        assert read_proxied(proxy) == []  # nothing phoned home


def all_four():
    return [trackers.wandb(), trackers.trackio(), trackers.tensorboard(), trackers.mlflow()]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, offline):
    """A training that is interrupted after its second step, before the checkpoint, and resumed; with its messages."""
    run, listener = tmp_path_factory.mktemp("tracked") / "run", Listener()
    config = check(TrainConfig, SMALL)
    options = {"reference_store": None, "clean": False}
    with pytest.raises(KeyboardInterrupt):
        train_job(config, run, resume=False, callbacks=[*all_four(), listener, StopAt(2)], **options)
    train_job(config, run, resume=True, callbacks=[*all_four(), listener], **options)
    return run, listener.messages


@pytest.fixture
def rows(tracked):
    """The numbers of each step, as trackers are to have them."""
    return {row["step"]: select_scalars(row) for row in read_metrics(tracked[0] / "metrics.jsonl")}


def times_aside(values):
    return {name: value for name, value in values.items() if not name.endswith("_seconds")}


def test_people_are_told_where_to_look_and_nothing_failed(tracked):
    run, messages = tracked
    shown = [message for message in messages if message.startswith(("wandb", "trackio", "tensorboard", "mlflow"))]
    assert [message.split(":")[0] for message in shown] == 2 * ["wandb", "trackio", "tensorboard", "mlflow"]
    assert not [message for message in shown if "switched off" in message]
    assert f"tensorboard --logdir {run / 'tensorboard'}" in shown[2]


def wandb_records(path):
    """The records of a wandb file: LevelDB's log format behind seven bytes, protocol buffers in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def wandb_run(path):
    """Id, settings, steps, summary and exit status in a wandb file."""
    records = list(wandb_records(path))
    run = next(one.run for one in records if one.WhichOneof("record_type") == "run")
    steps = []
    for one in records:
        if one.WhichOneof("record_type") == "history":
            values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.history.item}
            steps.append(
                {name: value for name, value in values.items() if not name.startswith("_")} | {"step": values["_step"]}
            )
    summary = {
        item.key: json.loads(item.value_json)
        for one in records
        if one.WhichOneof("record_type") == "summary"
        for item in one.summary.update
    }
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    status = [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"]
    return run.run_id, config, steps, summary, status


def test_wandb(tracked, rows):
    run, _ = tracked
    first, resumed = (wandb_run(path) for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")))
    assert first[0] == resumed[0]
    settings = check(TrainConfig, SMALL).model_dump(mode="json")
    for _, config, *_ in (first, resumed):
        assert {name: config[name] for name in settings} == settings
    assert [times_aside(row) for row in first[2]] == [{"step": step} | times_aside(rows[step]) for step in (1, 2)]
    assert resumed[2] == [{"step": step} | rows[step] for step in (2, 3)]
    assert (first[4], resumed[4]) == ([1], [0])
    assert resumed[3]["result/steps"] == 3


def test_tensorboard(tracked, rows):
    """The step that was done twice is there once, as it was done the second time."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked[0] / "tensorboard"))
    events.Reload()
    names = set.union(*map(set, rows.values()))
    assert set(events.Tags()["scalars"]) == names | {"result/steps", "result/seconds"}
    for name in names:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [
            (step, pytest.approx(values[name], rel=1e-6)) for step, values in rows.items() if name in values
        ]
    (text, *_) = events.Tensors("settings/text_summary")
    assert b'"delta": 0.05' in text.tensor_proto.string_val[0]


def test_mlflow(tracked, rows):
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (found,) = client.search_runs([client.get_experiment_by_name("adaptthink").experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    settings = check(TrainConfig, SMALL).model_dump(mode="json")
    assert found.data.params == {name: str(value) for name, value in settings.items()}
    assert set(found.data.metrics) == set.union(*map(set, rows.values())) | {"result/steps", "result/seconds"}
    history = [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "loss")]
    assert history == [(step, rows[step]["loss"]) for step in (1, 2, 2, 3)]
    by_level = client.get_metric_history(found.info.run_id, "probe_no_think_by_level/1")
    assert by_level[-1].value == rows[by_level[-1].step]["probe_no_think_by_level/1"]


def test_trackio(tracked, rows):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = trackio.Api().runs("adaptthink")
    settings = check(TrainConfig, SMALL).model_dump(mode="json")
    assert {name: found.config[name] for name in settings} == settings
    logs = SQLiteStorage.get_logs("adaptthink", "run", run_id=found.id)
    *steps, result = [{name: value for name, value in log.items() if name != "timestamp"} for log in logs]
    assert [log["step"] for log in steps] == [1, 2, 2, 3]
    for log in (steps[0], *steps[2:]):
        assert log == {"step": log["step"]} | rows[log["step"]]
    assert result["result/steps"] == 3


@pytest.mark.parametrize(
    ("whom", "number", "reason"),
    [
        ("tracker", signal.SIGKILL, "its process was killed (SIGKILL)"),
        ("tracker", signal.SIGSTOP, "it has not answered for"),
        ("wandb-core", signal.SIGKILL, ""),
        ("wandb-core", signal.SIGSTOP, "it has not answered for"),
    ],
)
def test_wandb_whose_processes_are_killed_or_stopped(tmp_path, whom, number, reason):
    tracker, listener = Tracker("wandb", {"project": "mine"}, Bounds(end_seconds=3.0)), Listener()
    observers = Callbacks([tracker, listener])
    with observers.reporting("train", {}, tmp_path):
        process = psutil.Process(tracker._process.process.pid)
        family = [process, *process.children(recursive=True)]
        observers.on_step({"step": 1, "loss": 1.0})
        (process if whom == "tracker" else next(one for one in family if one.name() == whom)).send_signal(number)
        for step in range(2, 5):
            observers.on_step({"step": step, "loss": 1.0})
    faults = [message for message in listener.messages if "switched off" in message]
    assert len(faults) == 1
    assert reason in faults[0]
    # wandb's own processes see that theirs is gone
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))


@pytest.mark.parametrize(
    ("name", "warning"), [("mlflow", "mlflow is switched off: "), ("trackio", "trackio: trackio failed to flush")]
)
def test_a_store_that_cannot_be_written_to_is_warned_of(tmp_path, monkeypatch, name, warning):
    """The disk is full, or as good as: there is a file where the store's folder should be."""
    (tmp_path / "taken").touch()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "taken" / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'taken' / 'mlflow.db'}")
    listener = Listener()
    observers = Callbacks([trackers.parse_tracker(name), listener])
    with observers.reporting("train", {}, tmp_path):
        for step in (1, 2):
            observers.on_step({"step": step, "loss": 1.0})
    assert [message for message in listener.messages if "see it with" not in message] == [listener.messages[-1]]
    assert listener.messages[-1].startswith(warning)


def test_trl_logs_the_same_names_to_tensorboard(tmp_path, monkeypatch):
    """TRL's own report_to puts a section before each name and changes nothing else."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from adaptthink.integrations.trl import AdaptThinkConfig, AdaptThinkTrainer

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    args = AdaptThinkConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to=["tensorboard"], save_strategy="no", logging_steps=1,
        per_device_train_batch_size=8, num_generations=4, max_steps=1, max_completion_length=24, max_no_think_tokens=9,
    )  # fmt: skip
    rows = [{"prompt": f"{number}+1=?", "answer": str(number + 1), "reference_reward": 0.5} for number in (1, 2)]
    trainer = AdaptThinkTrainer("tiny", args, Dataset.from_list(rows))
    trainer.train()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {f"train/{name}" for name in trainer.state.log_history[0]} - {"train/step"}
    assert logged <= set(events.Tags()["scalars"])
