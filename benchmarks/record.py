"""What every result carries: date, machine, versions, command; and how a ratio with its spread is put down."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")


def surroundings(packages: Sequence[str]) -> dict[str, Any]:
    """Return date, machine, versions and the command that is running."""
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {model[0] if model else platform.processor()}, {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "command": shlex.join(["python", *sys.argv]),
    }


def device_name(device: str) -> str:
    """Return the name of an accelerator, or cpu."""
    if device == "cpu":
        return device
    import torch  # noqa: PLC0415

    return torch.cuda.get_device_name()


def measure_peak_mb(device: str) -> float:
    """Return the peak memory of this process in MB: allocated on the accelerator, or resident."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    import torch  # noqa: PLC0415

    return torch.cuda.max_memory_allocated() / 2**20


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def shown(values: Mapping[str, float], form: str = ".3g") -> str:
    """Write a spread as text: 5.1 (4.9 to 5.3, n = 5)."""
    low, high = format(values["min"], form), format(values["max"], form)
    return f"{values['median']:{form}} ({low} to {high}, n = {values['n']:.0f})"


def write_result(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result under results/, or where BENCHMARK_RESULTS says, named by what it is and its date."""
    path = RESULTS / f"{name}-{result['date']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
