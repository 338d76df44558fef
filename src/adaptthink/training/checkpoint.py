"""Checkpoints: written beside the last one, verified by hash, renamed into place; the newest good one is resumed.

Everything random in training is derived from (seed, step), so weights, optimiser state and the step are the whole
state: a resumed run on a CPU repeats an uninterrupted one bit for bit.

Tensors are in safetensors files, everything else is JSON: reading a checkpoint runs no code that came with it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from adaptthink.errors import UserError
from adaptthink.processes import Interruption, postpone_interrupts
from adaptthink.storage.jsonl import parse_object
from adaptthink.storage.records import Count, from_json
from adaptthink.storage.runs import MetricsLog, apply_umask

MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"
GROUPS = "optimizer.json"  # the optimiser's settings
METRICS = "metrics.json"  # the digests of the steps' metrics, which later steps depend on
WRITING = ".writing-"  # begins the name of a checkpoint that is being written
SPARE = 1.05  # of a checkpoint's size, that has to be free on the disk


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of: written last, so that one without it is none."""

    step: Count
    sha256: dict[str, str]  # of each file, by its name


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints of one training; `step` is the last one whose weights and metrics are complete.

    They are `whole` unless the weights were changed since, by a step that did not come to its end.
    """

    folder: Path
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    log: MetricsLog
    keep: int
    step: int
    saved: int = field(init=False)
    whole: bool = field(init=False, default=True)
    failed: bool = field(init=False, default=False)  # whether the last attempt to save failed

    def __post_init__(self) -> None:
        self.saved = self.step

    def save(self) -> None:
        """Save a checkpoint of the last complete step."""
        save_checkpoint(self.folder, self.step, self.model, self.optimizer, keep=self.keep, metrics=self.log.digests)
        self.saved, self.failed = self.step, False

    def save_if_due(self, every: int, last: int, warn: Callable[[str], None]) -> None:
        """Save every so many steps, after the last one, and where it failed before.

        Where the disk is full or cannot be written, say so and let the training go on: the checkpoint before stays, and
        the next step tries again. After the `last` step it raises UserError.
        """
        if not (self.failed or self.step % every == 0 or self.step == last):
            return
        try:
            self.save()
        except OSError as error:
            self.failed = True
            reason = f"the checkpoint of step {self.step} cannot be written: {error.strerror or error}"
            kept = f"that of step {self.saved} stays" if self.saved else "there is none yet"
            if self.step == last:
                raise UserError(f"{reason}; {kept}; make room in {self.folder} and give --resume") from error
            warn(f"warning: {reason}; {kept}, training goes on and tries again after the next step; make room")

    @contextmanager
    def change_weights(self, step: int) -> Iterator[None]:
        """Let interruptions wait for the block, within which weights and metrics are not of the same step."""
        with postpone_interrupts():
            self.whole = False
            yield
            self.step, self.whole = step, True

    @contextmanager
    def save_when_interrupted(self) -> Iterator[None]:
        """Save the last complete step, if it is not yet, before an `Interruption` of the block goes on."""
        try:
            yield
        except Interruption:
            if self.whole and self.saved < self.step:
                with postpone_interrupts():
                    self.save()
            raise


def save_checkpoint(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    metrics: Sequence[str] = (),
) -> Path:
    """Write what is trained and its optimiser after `step` steps, and drop all but the newest `keep` checkpoints.

    `metrics` are digests of the steps' metrics (`storage.runs.MetricsLog`).
    """
    final = get_path(folder, step)
    temporary = folder / f"{WRITING}{step:06d}"
    for killed in folder.glob(f"{WRITING}*"):
        shutil.rmtree(killed)
    parameters = {name: parameter.detach().contiguous() for name, parameter in select_trained_parameters(model)}
    state, groups = split_state(optimizer)
    temporary.mkdir(parents=True)
    try:
        check_space(temporary, [*parameters.values(), *state.values()])
        save_tensors(parameters, temporary / MODEL)
        save_tensors(state, temporary / OPTIMIZER)
        (temporary / GROUPS).write_text(json.dumps(groups))
        (temporary / METRICS).write_text(json.dumps(list(metrics)))
        hashes = {name: compute_file_hash(temporary / name) for name in (MODEL, OPTIMIZER, GROUPS, METRICS)}
        (temporary / MANIFEST).write_text(json.dumps(asdict(Manifest(step, hashes))))
        apply_umask(temporary)
        for path in temporary.iterdir():
            _sync(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # gives back the room that it took
        raise
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def split_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return an optimiser's tensors, named PARAMETER.NAME, and its settings."""
    whole = optimizer.state_dict()
    state = {f"{number}.{name}": value for number, own in whole["state"].items() for name, value in own.items()}
    return {name: value.contiguous() for name, value in state.items()}, whole["param_groups"]


def join_state(tensors: Mapping[str, torch.Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what an optimiser loads, from the two that `split_state` returns."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, _, own = name.partition(".")
        state.setdefault(int(number), {})[own] = value
    return {"state": dict(sorted(state.items())), "param_groups": groups}  # in the order of the parameters


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, also where the library has an error of its own for it."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error


def check_space(folder: Path, tensors: Iterable[torch.Tensor]) -> None:
    """Raise OSError if the disk has no room for tensors, before any of them is written."""
    needed = int(SPARE * sum(tensor.numel() * tensor.element_size() for tensor in tensors))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it takes {needed / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB are free")


def find_checkpoint(folder: Path, *, warn: Callable[[str], None]) -> int:
    """Return the step of the newest checkpoint whose hashes hold; 0 if there is none.

    `warn` is called with a message for each damaged checkpoint that was passed over.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        fault = find_fault(path)
        if not fault:
            return read_manifest(path).step
        warn(f"checkpoint {path} is not usable ({fault}); falling back to the one before")
    return 0


def load_checkpoint(folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the checkpoint after `step` steps."""
    path = get_path(folder, step)
    saved = load_file(path / MODEL)
    for name, parameter in select_trained_parameters(model):
        parameter.data.copy_(saved[name])
    groups = json.loads((path / GROUPS).read_text())
    optimizer.load_state_dict(join_state(load_file(path / OPTIMIZER), groups))


def get_path(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:06d}"


def select_trained_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Return the parameters that training changes, by name: all, or those of an adapter."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def find_fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, None if it is intact."""
    try:
        manifest = read_manifest(path)
        if path.name != f"step-{manifest.step:06d}":
            return f"its manifest is of step {manifest.step}"
        for name in dict.fromkeys((MODEL, OPTIMIZER, GROUPS, *manifest.sha256)):
            if name not in manifest.sha256:
                return f"its manifest has no hash of {name}"
            if compute_file_hash(path / name) != manifest.sha256[name]:
                return f"{name} does not match its hash"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def read_metrics_digests(folder: Path, step: int) -> list[str]:
    """Return the digests of the steps' metrics that the checkpoint after `step` steps holds; none if it is older."""
    path = get_path(folder, step) / METRICS
    return json.loads(path.read_text()) if path.is_file() else []


def read_manifest(path: Path) -> Manifest:
    """Read a checkpoint's manifest; raises ValueError if it is damaged."""
    return from_json(Manifest, parse_object((path / MANIFEST).read_bytes()), exact=True)


def compute_file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
