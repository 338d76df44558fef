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

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from adaptthink.errors import UserError
from adaptthink.storage.jsonl import Appender, encode, read_lines, read_record, read_records, replace_file
from adaptthink.storage.settings import refuse_changes

PACKAGES = ("adaptthink", "torch", "transformers", "tokenizers", "numpy")
METRICS_REMEDY = "restore the file, or train again in another folder: later steps depend on all earlier ones"


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    content = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with replace_file(path) as file:
        file.write(content.encode("utf-8", "backslashreplace"))  # half a character becomes an escape, as JSON has it


def open_run(
    folder: Path,
    config: Mapping[str, Any],
    *,
    ignoring: Collection[str] = (),
    resume: bool = False,
    clean: bool = False,
) -> Path:
    """Make (or with `resume` re-enter, with `clean` empty first) a run's folder and record the attempt.

    `ignoring` names settings in which a resumed run may differ from its beginning. Raises UserError if the folder is in
    use, or if a resumed run was made with another configuration.
    """
    config_file, manifest_file = folder / "config.json", folder / "manifest.json"
    if resume and clean:
        raise UserError("--resume goes on with an earlier run and --clean deletes it; give one of the two")
    in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if clean and in_use:
        if not (config_file.is_file() and manifest_file.is_file()):  # a model folder has a config.json too
            raise UserError(f"'{folder}' is not empty and no run of ours; --clean empties only run folders")
        shutil.rmtree(folder)
    elif in_use and not resume:
        raise UserError(f"output folder '{folder}' is in use: give another --output, --resume to go on, or --clean")
    if resume and config_file.is_file():
        refuse_changes(f"run '{folder}'", json.loads(config_file.read_text("utf-8")), config, ignoring=ignoring)
    elif resume and in_use:
        raise UserError(f"'{folder}' holds no config.json, so there is no run to resume; give another --output")
    write_json(config_file, dict(config))
    record_attempt(manifest_file, resume=resume)
    return folder


def read_recorded(folder: Path, key: str, *, resume: bool) -> Any:
    """Return a setting of the run that is resumed; None if there is none."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(key) if resume else None
    except (OSError, ValueError, AttributeError):  # whoever opens the run says what is wrong with it
        return None


def check_store_outside(store: Path | None, run: Path, *, clean: bool) -> None:
    """Raise UserError if emptying a run's folder would take the reference store with it that the run is to use."""
    if clean and store and store.resolve().is_relative_to(run.resolve()):
        raise UserError(
            f"--clean would delete the reference store '{store}', which lies in the run folder; move it elsewhere first"
        )


def record_attempt(path: Path, *, resume: bool) -> None:
    """Append when, with what versions and by which command this attempt was made."""
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"attempts": []}
    manifest["attempts"].append(
        {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "resumed": resume,
            "command": sys.argv,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "packages": {name: _version(name) for name in PACKAGES},
            "git_commit": _git_commit(),
        }
    )
    write_json(path, manifest)


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
    """`metrics.jsonl`: one line per step, on disk before the next step begins."""

    def __init__(self, path: Path, *, keep_steps: int = 0) -> None:
        """Open for appending; lines of steps beyond `keep_steps` (redone after a resume) are dropped.

        Raises UserError if one of the steps to keep is missing, or if its line is damaged.
        """
        self.path = path
        drop_steps(path, keep_steps)
        self.log = Appender(path, sync_seconds=0)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one step."""
        self.last = self.log.write(row)

    def replace_last(self, row: Mapping[str, Any]) -> None:
        """Replace the last row, with metrics that were not known when it was written."""
        self.log.close()
        with replace_file(self.path) as file:
            file.write(self.path.read_bytes()[: self.last] + encode(row))
        self.log = Appender(self.path, sync_seconds=0)

    def close(self) -> None:
        """Close the file."""
        self.log.close()


def drop_steps(path: Path, keep_steps: int) -> None:
    """Remove from a log all lines after its first `keep_steps` steps; raises UserError if one of these is missing."""
    kept = 0
    for line in read_lines(path):
        if kept == keep_steps:
            os.truncate(path, line.start)
            return
        step = read_record(line, check_step, remedy=METRICS_REMEDY)["step"]
        if step > kept + 1:
            break
        kept = max(kept, step)  # a step that is there twice counts once
    if kept < keep_steps:
        raise UserError(f"{path} lacks step {kept + 1} of the {keep_steps} that are done; {METRICS_REMEDY}")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the steps of a log, none if there is no file; raises UserError for a damaged line.

    A last line that was cut is ignored; of a step that is there twice the first line counts.
    """
    rows = read_records(read_lines(path), check_step, key=lambda row: row["step"], remedy=METRICS_REMEDY)
    return list(rows)


def check_step(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a log; raises ValueError if it has no step number."""
    if not isinstance(row["step"], int):
        raise ValueError("no number under 'step'")
    return row
