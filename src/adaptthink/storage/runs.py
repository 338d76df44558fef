"""A run's folder: made once, never silently reused, written so that a crash loses nothing.

config.json       the resolved configuration
manifest.json     version of each package, git commit, and every attempt (start, resume) with its time
metrics.jsonl     one line per training step
reference.jsonl   the reference store
checkpoints/      resumable states
model/            the trained model
evaluations/      every evaluated sample, of the original and of the trained model
summary.json, report.html, report.md
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError, redact_all
from adaptthink.storage.jsonl import (
    TEMPORARY,
    Appender,
    encode,
    read_lines,
    read_object,
    read_record,
    read_records,
    replace_file,
)
from adaptthink.storage.kinds import PathKind, identify
from adaptthink.storage.records import read_record_file
from adaptthink.storage.settings import refuse_changes

CONFIG, MANIFEST = "config.json", "manifest.json"
BEGINNING = {CONFIG + TEMPORARY, MANIFEST + TEMPORARY}  # all that a start may leave that was killed at its first file
PACKAGES = ("adaptthink", "torch", "transformers", "tokenizers", "numpy")
ADDED = ("alarms", "probe_")  # begin the names of metrics that come later than the others of a step
METRICS_REMEDY = "restore the file, or train again in another folder: later steps depend on all earlier ones"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds: every attempt, and a digest of each thing that the run depends on, by its name."""

    attempts: list[dict[str, Any]]
    made_from: dict[str, str] = field(default_factory=dict)


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it; no password in a URL."""
    content = json.dumps(redact_all(value), indent=1, ensure_ascii=False) + "\n"
    with replace_file(path) as file:
        file.write(content.encode("utf-8", "backslashreplace"))  # half a character becomes an escape, as JSON has it


def open_run(
    folder: Path,
    config: Mapping[str, Any],
    *,
    ignoring: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    made_from: Mapping[str, str] | None = None,
    resume: bool = False,
    clean: bool = False,
) -> Path:
    """Make (or with `resume` re-enter, with `clean` empty first) a run's folder and record the attempt.

    `ignoring` names settings in which a resumed run may differ from its beginning; `defaults` are the values of those
    that an older version did not have. `made_from` has a digest of each thing that the run depends on, by its name for
    people. Raises UserError if the folder is in use, or if a resumed run was made with another configuration or from
    other things.
    """
    config_file, manifest_file = folder / CONFIG, folder / MANIFEST
    if resume and clean:
        raise UserError("--resume goes on with an earlier run and --clean deletes it; give one of the two")
    in_use = folder.exists() and (not folder.is_dir() or not list_names(folder) <= BEGINNING)
    if clean and in_use:
        empty_run(folder)
    elif in_use and not resume:
        raise UserError(f"output folder '{folder}' is in use: give another --output, --resume to go on, or --clean")
    manifest = Manifest([])
    if resume and config_file.is_file():
        remedy = "restore the file, or begin again with --clean"
        if manifest_file.exists():
            manifest = read_record_file(Manifest, manifest_file, remedy=remedy)
        old = read_object(config_file, remedy=remedy)
        refuse_changes(f"run '{folder}'", old, redact_all(dict(config)), ignoring=ignoring, defaults=defaults)
        refuse_other_inputs(folder, manifest.made_from, made_from or {})
    elif resume and in_use:
        raise UserError(f"'{folder}' holds no {CONFIG}, so there is no run to resume; give another --output")
    write_json(config_file, dict(config))
    digests = manifest.made_from | dict(made_from or {})
    attempts = [*manifest.attempts, describe_attempt(resume=resume)]
    write_json(manifest_file, {"attempts": attempts} | ({"made_from": digests} if digests else {}))
    return folder


def read_recorded(folder: Path, key: str, *, resume: bool) -> Any:
    """Return a setting of the run that is resumed; None if there is none."""
    path = folder / CONFIG
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(key) if resume else None
    except (OSError, ValueError, AttributeError):  # whoever opens the run reports what is wrong with it
        return None


def list_names(folder: Path) -> set[str]:
    """Return the names of what is in a folder."""
    return {path.name for path in folder.iterdir()}


def empty_run(folder: Path) -> None:
    """Delete what is in a run's folder; raises UserError for another folder, of a model or of notes, say."""
    names = list_names(folder) if folder.is_dir() else set()
    kinds = (PathKind.RUN, PathKind.COLD_START, PathKind.REPRODUCTION, PathKind.BENCHMARK)
    begun = names <= {CONFIG, *BEGINNING} and identify(folder) in kinds
    if not ({CONFIG, MANIFEST} <= names or begun):  # a model folder has a config.json too
        raise UserError(f"'{folder}' is not empty and no run of ours; --clean empties only run folders")
    delete_run(folder)


def delete_run(folder: Path) -> None:
    """Delete what is in a folder; what shows that it is a run's goes last, as a kill may come before the end."""
    for name in list_names(folder) - {MANIFEST, CONFIG}:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name in (MANIFEST, CONFIG):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def undo_failed_start(folder: Path, store: Path) -> Iterator[None]:
    """Remove what `open_run` made if the block fails before any work was kept, so that the folder is free again.

    `store` is the reference store in the folder, which begins with a line that is no work.
    """
    try:
        yield
    except BaseException:
        begun = {CONFIG, MANIFEST, *BEGINNING, "trackers.json", "trackers.log"}
        if store.is_file() and sum(1 for _ in read_lines(store)) <= 1:
            begun.add(store.name)
        if folder.is_dir() and list_names(folder) <= begun:
            delete_run(folder)
            with suppress(OSError):  # of a link, or of a volume
                folder.rmdir()
        raise


def refuse_other_inputs(folder: Path, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Raise UserError naming what a run depends on that is not what it was; a run of an older version noted nothing."""
    changed = [name for name, digest in new.items() if old.get(name, digest) != digest]
    if changed:
        raise UserError(
            f"run '{folder}' cannot go on: {' and '.join(changed)} changed since it began; "
            "put back what it began with, or give another --output"
        )


def apply_umask(folder: Path) -> None:
    """Give every file in a folder the permissions that the umask leaves; safetensors files are their owner's alone."""
    umask = os.umask(0o077)  # which cannot be read without being set
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path` when the block ends: no reader sees half of it."""
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary
    apply_umask(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def check_run(folder: Path) -> None:
    """Raise UserError if a run's folder is no longer there: what is written now would be half a run."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"run folder '{folder}' was deleted or replaced while it was in use; what was in it is lost")


def check_store_outside(store: Path | None, run: Path, *, clean: bool) -> None:
    """Raise UserError if emptying a run's folder would take the reference store with it that the run is to use."""
    if clean and store and store.resolve().is_relative_to(run.resolve()):
        raise UserError(
            f"--clean would delete the reference store '{store}', which lies in the run folder; move it elsewhere first"
        )


def describe_attempt(*, resume: bool) -> dict[str, Any]:
    """Return when, with what versions and by which command this attempt was made."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": resume,
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from, if it runs from one."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


class MetricsLog:
    """`metrics.jsonl`: one line per step, on disk before the next step begins. `digests` has one of each step."""

    def __init__(self, path: Path, *, keep_steps: int = 0) -> None:
        """Open for appending; lines of steps beyond `keep_steps` (redone after a resume) are dropped.

        Raises UserError if one of the steps to keep is missing, or if its line is damaged.
        """
        self.path = path
        self.digests = drop_steps(path, keep_steps)
        self.log = Appender(path, sync_seconds=0)

    def check(self, digests: Iterable[str]) -> None:
        """Raise UserError for a step that is not the one whose digest was noted when it was written."""
        for step, (found, noted) in enumerate(zip(self.digests, digests, strict=False), start=1):
            if found != noted:
                raise UserError(f"{self.path}: step {step} is not as the training wrote it; {METRICS_REMEDY}")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one step."""
        self.log.write(row)
        self.digests.append(compute_digest(row))

    def replace_last(self, row: Mapping[str, Any]) -> None:
        """Replace the last row, with metrics that were not known when it was written."""
        self.log.close()
        content = self.path.read_bytes()
        before = content[: content.rfind(b"\n", 0, -1) + 1]
        with replace_file(self.path) as file:
            file.write(before + encode(row))
        self.log = Appender(self.path, sync_seconds=0)
        self.digests[-1] = compute_digest(row)

    def close(self) -> None:
        """Close the file."""
        self.log.close()


def compute_digest(row: Mapping[str, Any]) -> str:
    """Return 16 hex digits that change with the content of a row, but for what is added after it was written."""
    first = {key: value for key, value in row.items() if not key.startswith(ADDED)}
    return hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:16]


def drop_steps(path: Path, keep_steps: int) -> list[str]:
    """Remove from a log all lines after its first `keep_steps` steps; return the digests of these.

    Raises UserError if one of these is missing.
    """
    kept: list[str] = []
    for line in read_lines(path):
        if len(kept) == keep_steps:
            os.truncate(path, line.start)
            return kept
        row = read_record(line, check_step, remedy=METRICS_REMEDY)
        if row["step"] > len(kept) + 1:
            break
        if row["step"] > len(kept):  # a step that is there twice counts once
            kept.append(compute_digest(row))
    if len(kept) < keep_steps:
        raise UserError(f"{path} lacks step {len(kept) + 1} of the {keep_steps} that are done; {METRICS_REMEDY}")
    return kept


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the steps of a log, none if there is no file; raises UserError for a damaged line.

    A last line that was cut is ignored; of a step that is there twice the first line counts.
    """
    rows = read_records(read_lines(path), check_step, key=lambda row: row["step"], remedy=METRICS_REMEDY)
    return list(rows)


def check_step(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a log; raises ValueError if it has no step number."""
    if type(row["step"]) is not int or row["step"] < 1:
        raise ValueError("no number under 'step'")
    return row
