"""`train --backend verl` around verl: a script stands for the Python that has it, and does as little as verl must."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap

import psutil
import pytest
from pyarrow import parquet

from adaptthink.callbacks import Callback
from adaptthink.cli.app import main
from adaptthink.cli.console import Terminal
from adaptthink.cli.jobs import presample_job
from adaptthink.config.resolve import check
from adaptthink.config.schema import VerlConfig
from adaptthink.errors import DivergedError, UserError
from adaptthink.integrations.verl.data import read_row
from adaptthink.integrations.verl.launcher import (
    find_reason,
    run_process,
    select_finished_steps,
    train_with_verl,
    verl_job,
)
from adaptthink.models.loading import TINY, load_policy
from adaptthink.storage.locks import locked
from adaptthink.storage.runs import read_metrics, write_json
from adaptthink.training.data import choose_problems, prepare_problems

SETTINGS = {
    "problems_per_level": 2, "reference_samples": 2, "max_think_tokens": 32, "max_no_think_tokens": 8, "steps": 3,
    "problems_per_step": 8, "samples_per_problem": 2, "gpus_per_node": 2, "probe_problems_per_level": 1,
    "probe_every": 1,
}  # fmt: skip
FAKE = f"""\
#!{sys.executable}
import json, os, shutil, sys, time
from pathlib import Path

def value(name):
    return next(one.split("=", 1)[1] for one in sys.argv if one.lstrip("+").startswith(name + "=")).strip('"')

if sys.argv[1] == "-c":
    print(os.environ.get("FAKE_VERSION", "0.9.1"))
elif sys.argv[2] == "verl.model_merger":
    target = Path(sys.argv[sys.argv.index("--target_dir") + 1])
    source = Path(sys.argv[sys.argv.index("--local_dir") + 1])
    assert source.is_dir(), source
    shutil.copytree({str(TINY)!r}, target)
else:
    assert "adaptthink.integrations.verl.plugin" in os.environ["VERL_USE_EXTERNAL_MODULES"].split(",")
    run = Path(value("adaptthink.run"))
    folder = Path(value("trainer.default_local_dir"))
    latest = folder / "latest_checkpointed_iteration.txt"
    done = int(latest.read_text()) if latest.exists() else 0
    for step in range(done + 1, int(value("trainer.total_training_steps")) + 1):
        if step == int(os.environ.get("FAKE_FAULT", 0)):
            print("\\x1b[36m(AgentLoopWorker pid=1)\\x1b[0m adaptthink.errors.UserError: the prompt is too long")
            print("ray.exceptions.RayTaskError(UserError): UserError: what came of it")
            sys.exit(1)
        row = {{"step": step, "loss": 0.1, "rollout_seconds": 1.0, "update_seconds": 1.0, "probe_mode_mass": 1.0,
               "probe_no_think_logprob": -9.0, "probe_no_think_share": 0.5,
               "probe_no_think_by_level": {{"1": 0.5}}}}
        row |= {{f"{{name}}_{{mode}}": 0.5 for name in ("reward", "mean_tokens", "truncated_share")
                for mode in ("think", "no_think")}}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\\n")
        (folder / f"global_step_{{step}}" / "actor").mkdir(parents=True)
        latest.write_text(str(step))
"""


@pytest.fixture
def python(tmp_path):
    path = tmp_path / "python"
    path.write_text(FAKE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.jsonl"
    presample_job(check(VerlConfig, SETTINGS), path)
    return path


def train(run, store, python, *, resume=False, clean=False, **values):
    config = check(VerlConfig, SETTINGS | values)
    terminal = Terminal(config.steps)
    return verl_job(config, run, reference_store=store, python=python, resume=resume, clean=clean, callbacks=[terminal])


def test_a_run_leaves_what_a_native_one_leaves(tmp_path, store, python, capsys):
    run = tmp_path / "run"
    result = train(run, store, python)
    assert result["steps"] == 3
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2, 3]
    assert load_policy(str(run / "model")).template.close == "</think>"
    assert "verl 0.9.1" in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "P(no_think)" in (run / "report.md").read_text(encoding="utf-8")
    assert "3/3" in capsys.readouterr().out


def test_verl_gets_the_native_trainers_problems_in_its_order_with_their_references(tmp_path, store, python):
    run = tmp_path / "run"
    train(run, store, python)
    config = check(VerlConfig, SETTINGS)
    found = prepare_problems(config.problems, None, config)
    problems, held_out = found.problems, found.held_out
    rows = [read_row(row) for row in parquet.read_table(run / "verl" / "train.parquet").to_pylist()]
    assert [one.id for one, _ in rows] == [
        one.id for step in (1, 2, 3) for one in choose_problems(problems, 8, config.seed, step)
    ]
    verdicts = {row["id"]: row["verdicts"] for row in map(json.loads, store.read_text().splitlines()[1:])}
    for one, extra in rows:
        assert extra.reference_reward == verdicts[one.id].count("correct") / 2
    found = [read_row(row)[0].id for row in parquet.read_table(run / "verl" / "held_out.parquet").to_pylist()]
    assert found == [one.id for one in held_out]


def test_a_fault_in_verl_is_told_in_one_line_and_the_run_goes_on(tmp_path, store, python, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("FAKE_FAULT", "2")
    with pytest.raises(UserError) as fault:
        train(run, store, python)
    assert str(fault.value).startswith("verl stopped: the prompt is too long (log: ")
    assert "--resume" in str(fault.value)
    assert not (run / "model").exists()
    monkeypatch.delenv("FAKE_FAULT")
    with pytest.raises(UserError, match=r"delta was 0.05 and is now 0.2"):
        train(run, None, python, resume=True, delta=0.2)
    train(run, None, python, resume=True)
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2, 3]
    assert (run / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["(W pid=1) KeyError: 'early'", "x.UserError: said so", "UserError: follows"], "said so"),
        (
            ["ImportError: noise", "Error in _run_prompt for", "KeyError: 'a'", "RuntimeError: late"],
            "KeyError: 'a'",
        ),
        (["ImportError: noise", "ray.exceptions.OutOfMemoryError: GPU 0"], "OutOfMemoryError: GPU 0"),
        (["all is well"], None),
    ],
)
def test_the_reason_of_a_failure_is_found_in_the_log(lines, reason):
    assert find_reason(lines) == reason


class Steps(Callback):
    """Keeps the lines, and what came at the end."""

    def __init__(self):
        self.rows, self.result = [], "not ended"

    def on_step(self, metrics):
        self.rows.append(metrics)

    def on_end(self, result):
        self.result = result


def test_callbacks_are_told_of_each_step_once_and_of_the_end(tmp_path, store, python, monkeypatch):
    run, steps, resumed = tmp_path / "run", Steps(), Steps()
    monkeypatch.setenv("FAKE_FAULT", "3")
    config = check(VerlConfig, SETTINGS)
    options = {"reference_store": store, "python": python, "clean": False}
    with pytest.raises(UserError, match="verl stopped"):
        verl_job(config, run, resume=False, callbacks=[steps], **options)
    assert ([row["step"] for row in steps.rows], steps.result) == ([1, 2], None)
    monkeypatch.delenv("FAKE_FAULT")
    result = verl_job(config, run, resume=True, callbacks=[resumed], **options)
    assert [row["step"] for row in resumed.rows] == [3]
    assert resumed.result == result
    assert steps.rows + resumed.rows == read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("status", [0, 1])
def test_a_step_is_reported_with_what_verl_adds_to_its_line_later(tmp_path, status):
    """The validation comes behind the checkpoint; where verl ends before it, the line is reported as it is."""
    script = tmp_path / "verl.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from adaptthink.storage.runs import MetricsLog
        log = MetricsLog(Path({str(tmp_path / "metrics.jsonl")!r}))
        for step in (1, 2):
            log.write({{"step": step}})
            time.sleep(1.2)  # the launcher reads the file meanwhile
            if step == 2 and {status}:
                sys.exit({status})
            log.replace_last({{"step": step, "probe_accuracy": 0.5}} | ({{"step_seconds": 1.0}} if step == 2 else {{}}))
    """)
    )
    steps = Steps()
    with contextlib.suppress(UserError):
        train_with_verl([sys.executable, str(script)], tmp_path, steps, {})
    second = {"step": 2} if status else {"step": 2, "probe_accuracy": 0.5, "step_seconds": 1.0}
    assert steps.rows == [{"step": 1, "probe_accuracy": 0.5}, second]


@pytest.mark.parametrize(("name", "status"), [("DivergedError", DivergedError), ("UserError", UserError)])
def test_a_divergence_in_verl_is_one_here_too(tmp_path, name, status):
    script = tmp_path / "verl.py"
    script.write_text(f"raise SystemExit('adaptthink.errors.{name}: step 3: loss nan')")
    with pytest.raises(UserError, match="step 3: loss nan") as caught:
        train_with_verl([sys.executable, str(script)], tmp_path, Steps(), {})
    assert type(caught.value) is status
    assert ("--resume" in str(caught.value)) == (status is UserError)


def test_a_run_of_a_version_without_a_setting_is_resumed_with_its_default(tmp_path, store, python, monkeypatch):
    run, config = tmp_path / "run", check(VerlConfig, SETTINGS)
    monkeypatch.setenv("FAKE_FAULT", "3")
    options = {"reference_store": store, "python": python, "clean": False}
    with pytest.raises(UserError, match="verl stopped"):
        verl_job(config, run, resume=False, **options)
    monkeypatch.delenv("FAKE_FAULT")
    recorded = json.loads((run / "config.json").read_text())
    assert recorded.pop("max_failed_grades") == VerlConfig().max_failed_grades
    write_json(run / "config.json", recorded)
    assert verl_job(config, run, resume=True, **options)["steps"] == 3


def test_which_lines_are_finished():
    open_, timed = {"step": 2}, {"step": 2, "step_seconds": 1.0}
    assert select_finished_steps([], ended=False) == select_finished_steps([{"step": 1}], ended=False) == []
    assert select_finished_steps([{"step": 1}, open_], ended=False) == [{"step": 1}]
    assert select_finished_steps([{"step": 1}, timed], ended=False) == [{"step": 1}, timed]
    assert select_finished_steps([open_], ended=True) == [open_]


def test_a_finished_run_is_only_exported_again(tmp_path, store, python, monkeypatch):
    run = tmp_path / "run"
    train(run, store, python)
    monkeypatch.setenv("FAKE_FAULT", "1")
    (run / "model" / "config.json").unlink()
    train(run, None, python, resume=True)
    assert (run / "model" / "config.json").is_file()


def test_without_references_of_all_problems_nothing_begins(tmp_path, store, python):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"takes R_ref from a store; make it first: adaptthink presample"):
        train(run, None, python)
    lacking = tmp_path / "lacking.jsonl"
    lacking.write_text("".join(f"{line}\n" for line in store.read_text().splitlines()[:-3]))
    with pytest.raises(UserError, match="lacks 3 of 10 problems"):
        train(run, lacking, python)
    assert not run.exists()


def test_clean_does_not_take_the_references_with_it(tmp_path, store, python):
    run = tmp_path / "run"
    train(run, store, python)
    inside = run / "reference.jsonl"
    inside.write_text(store.read_text())
    config = check(VerlConfig, SETTINGS)
    with pytest.raises(UserError, match=r"--clean would delete the reference store"):
        verl_job(config, run, reference_store=inside, python=python, resume=False, clean=True)
    assert inside.is_file()


def test_verl_must_be_there_and_the_one_we_know(tmp_path, store, python, monkeypatch):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"has no verl; install it \(see docs/how-to/verl.md\)"):
        train(run, store, sys.executable)
    with pytest.raises(UserError, match="cannot run 'nowhere/python'"):
        train(run, store, "nowhere/python")
    monkeypatch.setenv("FAKE_VERSION", "0.10.0")
    with pytest.raises(UserError, match=r"has verl 0.10.0, and 0.9.1 is needed"):
        train(run, store, python)
    assert not run.exists()


def test_an_interpreter_may_be_given_as_seen_from_here(tmp_path, store, python, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "run", store, "./python")
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_resumed_run_may_run_elsewhere_and_otherwise(tmp_path, store, python, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("FAKE_FAULT", "2")
    with pytest.raises(UserError, match="verl stopped"):
        train(run, store, python, ray_address="old:6379")
    monkeypatch.delenv("FAKE_FAULT")
    train(run, None, python, resume=True, ray_address="new:6379", engine_memory=0.3, overrides=("trainer.x=1",))
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["ray_address"] == "new:6379"
    with pytest.raises(UserError, match="gpus_per_node was 2 and is now 1"):  # its checkpoints are in two parts
        train(run, None, python, resume=True, gpus_per_node=1)


def test_what_would_end_a_training_in_the_middle_is_found_before_it(tmp_path, store, python):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"prompt of problem \S+ has \d+ tokens, more than max_prompt_tokens = 5"):
        train(run, store, python, max_prompt_tokens=5)
    spoilt = tmp_path / "spoilt.jsonl"
    head, *rows = store.read_text().splitlines()
    unreadable = [json.loads(row) | {"verdicts": ["reference_unparsable"] * 2} for row in rows[:5]]
    spoilt.write_text("\n".join([head, *map(json.dumps, unreadable), *rows[5:], ""]))
    with pytest.raises(UserError, match="problems can be graded, fewer than problems_per_step = 8"):
        train(run, spoilt, python)
    with pytest.raises(UserError, match="takes R_ref from a store; make it first"):
        train(run, None, python)
    assert not run.exists()


def test_whatever_a_process_started_ends_with_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(600)
        """)
    )
    log = tmp_path / "log.txt"

    def interrupt_when_started():
        if log.read_text():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, str(script)], log, os.environ, interrupt_when_started)
    child = int(log.read_text().split()[0])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_closed_terminal_and_a_second_signal_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("adaptthink.integrations.verl.launcher.STOP_SECONDS", 2.0)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    log = tmp_path / "log.txt"

    def again(text):
        assert "stopping it" in text
        os.kill(os.getpid(), signal.SIGTERM)  # while it is being stopped

    def close_terminal():
        if log.read_text():
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which it is not if these tests run under nohup
    try:
        with pytest.raises(KeyboardInterrupt):
            run_process([sys.executable, "-c", code], log, os.environ, close_terminal, again)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [one for one in psutil.Process().children() if code in one.cmdline()] == []


def test_what_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        log = tmp_path / "log.txt"
        assert (
            run_process([sys.executable, "-c", ""], log, os.environ, lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
        )
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_commands_do_not_train_in_one_folder(tmp_path, store, capsys, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["adaptthink", "train", "toy_cpu", "--output", str(run)])
    with locked(run, "it"), pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert f"run folder '{run}' is in use by another process" in " ".join(capsys.readouterr().err.split())
    assert not run.exists()


def test_dry_run_prints_the_command_and_touches_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["toy_cpu", "--backend", "verl", "--schedule", "constant", "--gpus-per-node", "2", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["adaptthink", "train", *flags, "--overrides", "trainer.logger=[wandb]"])
    with contextlib.suppress(SystemExit):
        main()
    out = capsys.readouterr().out
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {out.partition('main_ppo')[2].lstrip(' ')}"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert "data.train_batch_size=160" in shown
    assert "algorithm.adv_estimator=adaptthink" in shown
    assert shown[-1] == "trainer.logger=[wandb]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--nodes", "2"], "nodes has no effect: it is for --backend verl"),
        (["--verl-python", "x"], "--verl-python has no effect: it is for --backend verl"),
        (["--backend", "verl", "--engine", "native"], "engine has no effect: verl generates with a vLLM of its own"),
        (["--backend", "verl", "--profile"], "--profile measures the native trainer"),
        (["--backend", "verl", "--dry-run"], "schedule = 'stable_decay' is not for --backend verl"),
    ],
)
def test_flags_that_do_not_belong_together(flags, complaint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adaptthink", "train", "toy_cpu", *flags])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line
