"""A run's folder: made once, never silently reused, written so that a crash loses nothing.

config.json       the resolved configuration
manifest.json     version of each package, git commit, and every attempt (start, resume) with its time
metrics.jsonl     one line per training step
reference.jsonl   the reference store
checkpoints/      resumable states
model/            the trained model
evaluations/      every evaluated sample, of the original and of the trained model (samples.py)
summary.json, report.html, report.md
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from adaptthink.config.schema import HOW
from adaptthink.errors import UserError

PACKAGES = ("adaptthink", "torch", "transformers", "tokenizers", "numpy")


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def open_run(folder: Path, config: Mapping[str, Any], *, resume: bool = False, clean: bool = False) -> Path:
    """Make (or with `resume` re-enter, with `clean` empty first) a run's folder and record the attempt.

    Raises UserError if the folder is in use, or if a resumed run was made with another configuration.
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
        check_same_config(folder, json.loads(config_file.read_text(encoding="utf-8")), dict(config))
    elif resume and in_use:
        raise UserError(f"'{folder}' holds no config.json, so there is no run to resume; give another --output")
    write_json(config_file, dict(config))
    record_attempt(manifest_file, resume=resume)
    return folder


def check_same_config(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise UserError naming each setting in which a resumed run would be another than the one that began."""
    changed = [key for key in {**new, **old} if key not in HOW and old.get(key) != new.get(key)]
    if changed:
        differences = ", ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in changed)
        raise UserError(f"cannot resume '{folder}' with other settings: {differences}")


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
        """Open for appending; lines of steps beyond `keep_steps` (redone after a resume) are dropped."""
        kept = [row for row in read_metrics(path) if row["step"] <= keep_steps]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(path)
        self.file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one step."""
        self.last = self.file.tell()
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def replace_last(self, row: Mapping[str, Any]) -> None:
        """Write the step that was written last once more, with what has become known of it since."""
        self.file.seek(self.file.truncate(self.last))
        self.write(row)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read complete lines; a last line cut short by a crash is ignored."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
