"""Run folders: never silently reused, never half written."""

import json
import os
import shutil

import pytest

from adaptthink.errors import UserError
from adaptthink.storage.runs import (
    MetricsLog,
    check_run,
    open_run,
    read_metrics,
    replace_folder,
    undo_failed_start,
    write_json,
)

CONFIG = {"steps": 3, "delta": 0.05, "model": "tiny", "schedule": "größer"}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_new_run(tmp_path):
    run = tmp_path / "deep/run"
    assert open_run(run, CONFIG) == run
    assert read(run / "config.json") == CONFIG
    (attempt,) = read(run / "manifest.json")["attempts"]
    assert attempt["resumed"] is False
    assert set(attempt["packages"]) == {"adaptthink", "torch", "transformers", "tokenizers", "numpy"}
    assert attempt["packages"]["torch"]
    assert attempt["started"].endswith("+00:00")
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "manifest.json"]


def test_empty_folder_is_not_in_use(tmp_path):
    open_run(tmp_path, CONFIG)
    assert read(tmp_path / "config.json") == CONFIG


@pytest.mark.parametrize("kind", ["run", "something else", "file"])
def test_used_folder_is_refused_and_left_alone(tmp_path, kind):
    run = tmp_path / "run"
    if kind == "run":
        open_run(run, CONFIG)
    elif kind == "file":
        run.write_text("mine")
    else:
        run.mkdir()
        (run / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        open_run(run, CONFIG)
    assert str(caught.value) == (
        f"output folder '{run}' is in use: give another --output, --resume to go on, or --clean"
    )
    assert snapshot(tmp_path) == before


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_attempts_grow(tmp_path):
    open_run(tmp_path, CONFIG)
    for _ in range(2):
        open_run(tmp_path, CONFIG, resume=True)
    attempts = read(tmp_path / "manifest.json")["attempts"]
    assert [attempt["resumed"] for attempt in attempts] == [False, True, True]


def test_resume_of_nothing_begins(tmp_path):
    open_run(tmp_path / "run", CONFIG, resume=True)
    assert read(tmp_path / "run/config.json") == CONFIG


def test_resume_with_other_settings_names_them_all(tmp_path):
    open_run(tmp_path, CONFIG)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, CONFIG | {"delta": 0.1, "model": "other", "new": 1}, resume=True)
    assert str(caught.value) == (
        f"run '{tmp_path}' was made with other settings: delta was 0.05 and is now 0.1, "
        "model was 'tiny' and is now 'other', new was None and is now 1; return to the old ones or give another path"
    )
    assert snapshot(tmp_path) == before


def test_settings_that_may_change_are_recorded_as_they_are_now(tmp_path):
    open_run(tmp_path, CONFIG | {"device": "cpu"})
    changed = CONFIG | {"device": "cuda", "offload": True}
    open_run(tmp_path, changed, ignoring={"device", "offload"}, resume=True)
    assert read(tmp_path / "config.json") == changed


def test_resume_without_a_setting_that_there_was(tmp_path):
    open_run(tmp_path, CONFIG | {"nodes": 2})
    with pytest.raises(UserError, match="nodes was 2 and is now None"):
        open_run(tmp_path, CONFIG, resume=True)


def test_resume_of_a_folder_without_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, CONFIG, resume=True)
    assert (
        str(caught.value) == f"'{tmp_path}' holds no config.json, so there is no run to resume; give another --output"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_clean_deletes_a_run_and_begins_anew(tmp_path):
    run = tmp_path / "run"
    open_run(run, CONFIG)
    (run / "checkpoints").mkdir()
    (run / "checkpoints/old").write_text("old")
    open_run(run, CONFIG | {"steps": 4}, clean=True)
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "manifest.json"]
    assert read(run / "config.json")["steps"] == 4
    assert len(read(run / "manifest.json")["attempts"]) == 1


def test_clean_of_nothing_begins(tmp_path):
    open_run(tmp_path / "run", CONFIG, clean=True)
    assert (tmp_path / "run/config.json").is_file()


@pytest.mark.parametrize("names", [["notes.txt"], ["config.json", "model.safetensors"], ["manifest.json"]])
def test_clean_touches_no_other_folder(tmp_path, names):
    """A model folder has a config.json too: it takes more than that to be deleted."""
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, CONFIG, clean=True)
    assert str(caught.value) == f"'{tmp_path}' is not empty and no run of ours; --clean empties only run folders"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_clean_and_resume_exclude_each_other(tmp_path):
    open_run(tmp_path, CONFIG)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"^--resume goes on with an earlier run and --clean deletes it; give one"):
        open_run(tmp_path, CONFIG, clean=True, resume=True)
    assert snapshot(tmp_path) == before


def test_write_json(tmp_path):
    path = tmp_path / "new/a.json"
    write_json(path, {"δ": [1, 2.5, None]})
    assert path.read_text(encoding="utf-8").endswith("\n}\n")
    assert "δ" in path.read_text(encoding="utf-8")
    assert read(path) == {"δ": [1, 2.5, None]}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def disk_full(_):
    raise OSError("disk full")


def test_write_json_of_half_a_character(tmp_path):
    write_json(tmp_path / "a.json", {"é": "\ud800 ü"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": "\ud800 ü"}


def test_write_json_that_fails_midway_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_full)
        with pytest.raises(OSError, match="disk full"):
            write_json(path, {"new": 2})
    assert read(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    write_json(path, {"new": 2})
    assert read(path) == {"new": 2}


def test_write_json_that_cannot_serialise_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert read(path) == {"old": 1}


def test_metrics_are_on_disk_after_each_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2):
        log.write({"step": step, "loss": None})
        assert read_metrics(path) == [{"step": s, "loss": None} for s in range(1, step + 1)]
    log.close()


def test_redone_steps_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path)
    for step in range(1, 6):
        first.write({"step": step, "attempt": 1})
    first.close()
    path.write_text(path.read_text() + '{"step": 6, "att')  # cut by a crash
    second = MetricsLog(path, keep_steps=3)
    second.write({"step": 4, "attempt": 2})
    second.close()
    assert [(row["step"], row["attempt"]) for row in read_metrics(path)] == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_last_step_can_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write({"step": 1, "much": "x" * 99})
    log = MetricsLog(path, keep_steps=1)
    log.write({"step": 2, "much": "y" * 99})
    log.replace_last({"step": 2, "less": 0})
    log.replace_last({"step": 2, "more": 1})
    log.write({"step": 3})
    assert [tuple(row) for row in read_metrics(path)] == [("step", "much"), ("step", "more"), ("step",)]


def test_a_new_run_keeps_no_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsLog(path).close()
    assert read_metrics(path) == []


def test_failing_while_the_last_step_is_replaced_loses_nothing(tmp_path, monkeypatch):
    """A checkpoint of that step may be there already, and a log that lacks it could not be resumed."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", lambda *_: disk_full(0))
        with pytest.raises(OSError, match="disk full"):
            log.replace_last({"step": 1, "more": 1})
    assert read_metrics(path) == [{"step": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("content", "keep_steps", "fault"),
    [
        ("", 2, "metrics.jsonl lacks step 1 of the 2 that are done"),
        ('{"step": 1}\n{"step": 2}\n', 3, "metrics.jsonl lacks step 3 of the 3"),
        ('{"step": 1}\n{"step": 3}\n', 3, "metrics.jsonl lacks step 2 of the 3"),
        ('{"step": 1}\n{"step": 2, "lo', 2, "metrics.jsonl lacks step 2 of the 2"),
        ('{"step": 1}\n\n{"step": 2}\n', 2, "metrics.jsonl, line 2: damaged (not valid JSON"),
        ('{"step": 1}\n{"loss": 2}\n', 2, "metrics.jsonl, line 2: damaged (no 'step')"),
        ('{"step": "1"}\n', 1, "metrics.jsonl, line 1: damaged (no number under 'step')"),
    ],
)
def test_a_log_that_lacks_a_step_is_not_continued(tmp_path, content, keep_steps, fault):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        MetricsLog(path, keep_steps=keep_steps)
    message = str(caught.value)
    assert fault in message
    assert message.endswith(
        "restore the file, or train again in another folder: later steps depend on all earlier ones"
    )
    assert path.read_text() == content


def test_what_is_dropped_may_be_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 1}\n{"step": 2}\n\0\0\0\n{"step": 4}\n{"st')
    with pytest.raises(UserError, match="line 4: damaged"):
        read_metrics(path)
    log = MetricsLog(path, keep_steps=2)
    log.write({"step": 3})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]


def test_read_metrics_ignores_a_cut_last_line_at_every_place(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole, last = '{"step": 1}\n', '{"step": 2, "loss": 0.5}\n'
    for length in range(len(last)):
        path.write_text(whole + last[:length])
        assert read_metrics(path) == [{"step": 1}]
    path.write_text(whole + last)
    assert read_metrics(path) == [{"step": 1}, {"step": 2, "loss": 0.5}]


def test_read_metrics_of_nothing(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []


# ---- starts that were killed, or failed -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"clean": True}])
@pytest.mark.parametrize("left", ["config.json.tmp", "manifest.json.tmp"])
def test_what_a_start_leaves_that_was_killed_at_its_first_file_is_in_nobodys_way(tmp_path, how, left):
    (tmp_path / left).write_text('{"st')
    open_run(tmp_path, CONFIG, **how)
    assert read(tmp_path / "config.json") == CONFIG
    assert read(tmp_path / "manifest.json")["attempts"]


def test_a_start_that_was_killed_between_its_two_files_can_go_on_or_be_deleted(tmp_path):
    for how in ({"resume": True}, {"clean": True}):
        run = tmp_path / "-".join(how)
        write_json(run / "config.json", CONFIG | {"problems_per_step": 4})
        (run / "manifest.json.tmp").write_text("{")
        with pytest.raises(UserError, match="is in use: give another --output, --resume to go on, or --clean"):
            open_run(run, CONFIG)
        open_run(run, CONFIG | {"problems_per_step": 4}, **how)
        assert sorted(path.name for path in run.iterdir()) == ["config.json", "manifest.json"]


def test_a_deletion_that_was_killed_can_be_done_again(tmp_path, monkeypatch):
    run = tmp_path / "run"
    open_run(run, CONFIG)
    for name in ("a", "b", "c"):
        (run / name).mkdir()
        (run / name / "file").write_text("x")

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            open_run(run, CONFIG, clean=True)
    open_run(run, CONFIG, clean=True)
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "manifest.json"]


def test_through_a_link_the_folder_behind_it_is_emptied(tmp_path):
    open_run(tmp_path / "real", CONFIG)
    (tmp_path / "real/old").write_text("old")
    (tmp_path / "link").symlink_to("real")
    open_run(tmp_path / "link", CONFIG, clean=True)
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["config.json", "manifest.json"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("work", [None, "header", "row"])
def test_a_failed_start_frees_the_folder_unless_work_was_kept(tmp_path, work):
    run, store = tmp_path / "run", tmp_path / "run" / "reference.jsonl"
    open_run(run, CONFIG)
    if work:
        store.write_text('{"settings": {}}\n' + '{"id": "1"}\n' * (work == "row"))
    with pytest.raises(ZeroDivisionError), undo_failed_start(run, store):
        raise ZeroDivisionError
    assert run.exists() == (work == "row")


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_damaged_json_is_named_and_can_be_deleted(tmp_path, name):
    open_run(tmp_path, CONFIG)
    (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match=rf"{name}: damaged \(not valid JSON: .*\); restore the file, or begin again"):
        open_run(tmp_path, CONFIG, resume=True)
    open_run(tmp_path, CONFIG, clean=True)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "not valid JSON: Expecting value"),
        ('{"attempts": [', "not valid JSON: Expecting value"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "attempts: Field required"),
        ('{"made_from": {}}', "attempts: Field required"),
        ('{"attempts": null}', "attempts: Input should be a valid list"),
        ('{"attempts": [1]}', "attempts.0: Input should be a valid dictionary"),
        ('{"attempts": [], "made_from": ["a"]}', "made_from: Input should be a valid dictionary"),
        ('{"attempts": [], "made_from": {"the weights": 1}}', "made_from.the weights: Input should be a valid string"),
    ],
)
def test_a_damaged_manifest_is_one_line_and_nothing_is_changed(tmp_path, content, fault):
    made_from = {"the weights": "12"}
    open_run(tmp_path, CONFIG, made_from=made_from)
    (tmp_path / "manifest.json").write_text(content)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, CONFIG, made_from=made_from, resume=True)
    assert str(caught.value) == (
        f"{tmp_path / 'manifest.json'}: damaged ({fault}); restore the file, or begin again with --clean"
    )
    assert snapshot(tmp_path) == before


# ---- what a resumed run is compared with ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIG)
def test_a_setting_that_is_younger_than_the_run_had_its_default(tmp_path, name):
    open_run(tmp_path, {key: value for key, value in CONFIG.items() if key != name})
    with pytest.raises(UserError, match=f"{name} was 'x' and is now "):
        open_run(tmp_path, CONFIG, defaults=CONFIG | {name: "x"}, resume=True)
    open_run(tmp_path, CONFIG, defaults=CONFIG, resume=True)
    assert read(tmp_path / "config.json") == CONFIG


def test_what_a_run_was_made_from_must_be_what_it_was(tmp_path):
    open_run(tmp_path, CONFIG)  # by an older version
    for _ in range(2):
        open_run(tmp_path, CONFIG, made_from={"the problems": "a", "the weights": "b"}, resume=True)
    with pytest.raises(UserError, match="cannot go on: the problems changed since it began; put back"):
        open_run(tmp_path, CONFIG, made_from={"the problems": "c", "the weights": "b"}, resume=True)


def test_a_run_that_was_deleted_is_noticed(tmp_path):
    run = open_run(tmp_path / "run", CONFIG)
    log = MetricsLog(run / "metrics.jsonl")
    log.write({"step": 1})
    check_run(run)
    shutil.rmtree(run)
    with pytest.raises(UserError, match=r"metrics.jsonl' was deleted or replaced while it was in use"):
        log.write({"step": 2})
    with pytest.raises(UserError, match=r"run folder '.*' was deleted or replaced"):
        check_run(run)
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics.jsonl' was deleted or replaced"):
        log.write({"step": 2})


def test_a_step_that_was_changed_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] * 2 + "".join(lines[1:]))  # doubled: counts once
    MetricsLog(path, keep_steps=3).check(log.digests)
    path.write_text("".join(lines).replace('2, "loss": 0.5', '2, "loss": 0.6'))
    with pytest.raises(UserError, match="step 2 is not as the training wrote it; restore the file"):
        MetricsLog(path, keep_steps=3).check(log.digests)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_json_holds_no_password(tmp_path):
    write_json(tmp_path / "a.json", {"endpoint": ["http://me:pw@host"]})
    assert read(tmp_path / "a.json") == {"endpoint": ["http://***@host"]}


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read(tmp_path / "real.json") == {"a": 1}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_folder_that_replaces_another_is_readable_under_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for content in ("old", "new"):
            with replace_folder(tmp_path / "model") as folder:
                folder.mkdir()
                (folder / content).write_text("")
                (folder / content).chmod(0o600)
        assert [(path.name, path.stat().st_mode & 0o777) for path in (tmp_path / "model").iterdir()] == [("new", mode)]
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
