"""Checkpoints: what was saved comes back exactly, and nothing that can happen to the newest one stops a run."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from adaptthink.errors import UserError
from adaptthink.storage.runs import MetricsLog
from adaptthink.training import checkpoint
from adaptthink.training.checkpoint import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    Checkpoints,
    find_checkpoint,
    find_fault,
    load_checkpoint,
    save_checkpoint,
)


def make(seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def advance(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.tensor([[1.0, -2.0, 3.0]])).square().sum().backward()
        optimizer.step()


def state(model, optimizer):
    """Everything in flat tensors, to be compared bit for bit."""
    state = optimizer.state_dict()["state"]
    return [parameter.detach().clone() for parameter in model.parameters()] + [
        state[index][name].clone() for index in sorted(state) for name in ("step", "exp_avg", "exp_avg_sq")
    ]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path):
    """A folder with steps 10 and 20; returns it with the state at each step."""
    model, optimizer = make(0)
    states = {}
    for step in (10, 20):
        advance(model, optimizer, 10)
        save_checkpoint(tmp_path, step, model, optimizer, keep=2)
        states[step] = state(model, optimizer)
    return tmp_path, states


def load(folder):
    """Load into a fresh model; returns the step, its state and the warnings."""
    model, optimizer = make(1)
    warnings = []
    step = find_checkpoint(folder, warn=warnings.append)
    if step:
        load_checkpoint(folder, step, model, optimizer)
    return step, state(model, optimizer), warnings


def test_what_was_saved_comes_back_exactly(saved):
    folder, states = saved
    step, loaded, warnings = load(folder)
    assert (step, warnings) == (20, [])
    assert len(loaded) == 8  # weight and bias, three numbers of Adam for each
    assert same(loaded, states[20])
    assert not same(loaded, states[10])


def test_a_resumed_optimizer_goes_on_bit_for_bit(saved):
    folder, _ = saved
    whole, resumed = make(0), make(1)
    load_checkpoint(folder, find_checkpoint(folder, warn=pytest.fail), *resumed)
    advance(*whole, 25)
    advance(*resumed, 5)
    assert same(state(*whole), state(*resumed))


def test_no_checkpoint_is_step_0(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert find_checkpoint(folder, warn=pytest.fail) == 0


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    model, optimizer = make(0)
    for step in (5, 90, 100, 1000):
        final = save_checkpoint(tmp_path, step, model, optimizer, keep=keep)
        assert final == tmp_path / f"step-{step:06d}"
    assert names(tmp_path) == ["step-000005", "step-000090", "step-000100", "step-001000"][-keep:]


def test_saving_a_step_again_replaces_it(saved):
    folder, _ = saved
    model, optimizer = make(5)
    advance(model, optimizer)
    save_checkpoint(folder, 20, model, optimizer, keep=2)
    step, loaded, _ = load(folder)
    assert step == 20
    assert same(loaded, state(model, optimizer))
    assert names(folder) == ["step-000010", "step-000020"]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def change_manifest(path, change):
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


DAMAGES = {
    "model cut": lambda path: (path / MODEL).write_bytes((path / MODEL).read_bytes()[:-1]),
    "model empty": lambda path: (path / MODEL).write_bytes(b""),
    "model flipped": lambda path: flip(path / MODEL, -3),
    "model missing": lambda path: (path / MODEL).unlink(),
    "optimizer cut": lambda path: (path / OPTIMIZER).write_bytes((path / OPTIMIZER).read_bytes()[:-1]),
    "optimizer flipped": lambda path: flip(path / OPTIMIZER, 200),
    "optimizer missing": lambda path: (path / OPTIMIZER).unlink(),
    "manifest cut": lambda path: (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes()[:40]),
    "manifest of another type": lambda path: (path / MANIFEST).write_text("[1]"),
    "manifest empty": lambda path: (path / MANIFEST).write_bytes(b""),
    "manifest no JSON": lambda path: (path / MANIFEST).write_bytes(b"\x89PNG\xff"),
    "manifest nested": lambda path: (path / MANIFEST).write_text("[" * 100_000),
    "manifest with a step of another type": lambda path: (path / MANIFEST).write_text('{"step": null, "sha256": {}}'),
    "manifest without a step": lambda path: change_manifest(path, lambda one: one.pop("step")),
    "manifest without hashes": lambda path: change_manifest(path, lambda one: one.pop("sha256")),
    "manifest with a list of hashes": lambda path: change_manifest(path, lambda one: one.update(sha256=["a"])),
    "manifest without a file's hash": lambda path: change_manifest(path, lambda one: one["sha256"].pop(MODEL)),
    "manifest a folder": lambda path: ((path / MANIFEST).unlink(), (path / MANIFEST).mkdir()),
    "manifest missing": lambda path: (path / MANIFEST).unlink(),
    "everything missing": lambda path: [file.unlink() for file in path.iterdir()],
    "a file": lambda path: (shutil.rmtree(path), path.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_newest_falls_back_to_the_one_before(saved, damage):
    folder, states = saved
    newest = folder / "step-000020"
    damage(newest)
    step, loaded, warnings = load(folder)
    assert step == 10
    assert same(loaded, states[10])
    (warning,) = warnings
    assert warning.startswith(f"checkpoint {newest} is not usable (")
    assert warning.endswith("); falling back to the one before")


def test_what_is_said_of_each_damage(saved):
    folder, _ = saved
    newest = folder / "step-000020"
    assert find_fault(newest) is None
    flip(newest / OPTIMIZER, 0)
    assert find_fault(newest) == f"{OPTIMIZER} does not match its hash"
    flip(newest / MODEL, 0)
    assert find_fault(newest) == f"{MODEL} does not match its hash"
    (newest / MANIFEST).write_text((newest / MANIFEST).read_text().replace("20", "21", 1))
    assert find_fault(newest) == "its manifest is of step 21"
    change_manifest(newest, lambda one: one.update(step=20, sha256={}))
    assert find_fault(newest) == f"its manifest has no hash of {MODEL}"
    (newest / MANIFEST).write_text('{"step": 20}')
    assert find_fault(newest) == "ValueError: sha256: Field required"
    (newest / MANIFEST).write_text('{"step": 2')
    assert find_fault(newest) == "ValueError: not valid JSON: Expecting ',' delimiter"
    (newest / MANIFEST).unlink()
    assert find_fault(newest).startswith("FileNotFoundError: ")


def test_a_flipped_bit_anywhere_in_a_manifest_is_found(saved):
    """The step stands in the manifest: a wrong one would repeat or skip training steps without a word."""
    path = saved[0] / "step-000020" / MANIFEST
    good = path.read_bytes()
    for position in range(len(good)):
        for bit in (0, 4):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
            assert find_fault(path.parent), (position, bit)
    path.write_bytes(good)
    assert find_fault(path.parent) is None


def test_both_damaged_begins_at_nothing(saved):
    folder, _ = saved
    for path in folder.iterdir():
        (path / MODEL).unlink()
    step, loaded, warnings = load(folder)
    assert step == 0
    assert [("step-000020" in text, "step-000010" in text) for text in warnings] == [(True, False), (False, True)]
    assert same(loaded, state(*make(1)))


def test_half_written_folder_is_no_checkpoint(saved):
    folder, states = saved
    shutil.copytree(folder / "step-000020", folder / ".writing-000030")
    (folder / ".writing-000030" / MANIFEST).unlink()
    step, loaded, warnings = load(folder)
    assert (step, warnings) == (20, [])
    assert same(loaded, states[20])


def half_saved(value, path):
    path.write_bytes(b"half")
    raise OSError("disk full")


def half_of_the_optimizer(tensors, path):
    save = half_saved if path.name == OPTIMIZER else save_file
    save(tensors, path)


def no_room(folder):
    return SimpleNamespace(free=10)


def fail(*args):
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (checkpoint, "save_file", half_of_the_optimizer),
        (checkpoint, "save_file", half_saved),
        (checkpoint, "compute_file_hash", fail),
        (checkpoint, "_sync", fail),
        (checkpoint.Path, "replace", fail),
    ],
)
def test_crash_while_saving_leaves_the_last_one_usable(saved, monkeypatch, where, name, fault):
    folder, states = saved
    model, optimizer = make(0)
    advance(model, optimizer, 30)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fault)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(folder, 30, model, optimizer, keep=2)
    step, loaded, warnings = load(folder)
    assert (step, warnings) == (20, [])
    assert same(loaded, states[20])
    save_checkpoint(folder, 30, model, optimizer, keep=2)  # the next attempt is not in the way of the first
    assert names(folder) == ["step-000020", "step-000030"]
    step, loaded, _ = load(folder)
    assert step == 30
    assert same(loaded, state(model, optimizer))


def test_too_little_room_is_seen_before_anything_is_written(saved, monkeypatch):
    folder, _ = saved
    model, optimizer = make(0)
    advance(model, optimizer, 30)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", no_room)
    monkeypatch.setattr(checkpoint, "save_file", lambda *args: pytest.fail("written"))
    with pytest.raises(OSError, match=r"it takes 0 MiB and 0 MiB are free"):
        save_checkpoint(folder, 30, model, optimizer, keep=2)
    assert names(folder) == ["step-000010", "step-000020"]


def test_a_full_disk_does_not_end_a_training(saved, tmp_path, monkeypatch):
    """It is said, the checkpoint before stays, the next step tries again, and the last step's failure is an error."""
    folder, _ = saved
    model, optimizer = make(0)
    advance(model, optimizer, 20)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    checkpoints = Checkpoints(folder, model, optimizer, log, keep=2, step=20)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", half_saved)
        with checkpoints.change_weights(30):
            advance(model, optimizer)
        checkpoints.save_if_due(10, 99, said.append)
        assert "the checkpoint of step 30 cannot be written: disk full; that of step 20 stays" in said[0]
        assert names(folder) == ["metrics.jsonl", "step-000010", "step-000020"]
        with pytest.raises(UserError, match=r"step 30 cannot be written.*make room in .* and give --resume"):
            checkpoints.save_if_due(10, 30, said.append)
        with checkpoints.change_weights(31):
            advance(model, optimizer)
    checkpoints.save_if_due(10, 99, said.append)  # which it would not, had it not failed
    assert len(said) == 1
    assert find_checkpoint(folder, warn=said.append) == 31
    with checkpoints.change_weights(32):
        advance(model, optimizer)
    checkpoints.save_if_due(10, 99, said.append)
    assert find_checkpoint(folder, warn=said.append) == 31


def test_nothing_in_a_checkpoint_can_run_code(saved):
    folder, _ = saved
    assert {path.suffix for path in (folder / "step-000020").iterdir()} == {".safetensors", ".json"}
