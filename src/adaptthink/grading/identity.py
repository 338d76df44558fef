"""Which grader gave a verdict: an identity that changes with its code, its libraries and its settings."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy", "reasoning-gym")  # that decide what is equal


@cache
def grader_id(*, boxed_only: bool, seconds: float) -> str:
    """16 hex digits for this grader: its source, the libraries it asks, and the two settings that change verdicts."""
    digest = hashlib.sha256(f"{boxed_only} {seconds:g}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {installed(library)}".encode())
    return digest.hexdigest()[:16]


def installed(library: str) -> str:
    """The version of a library, or "none"."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
