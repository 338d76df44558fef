"""Standard output and standard error that may fail: a closed pipe or a full disk must not end the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO


class Output:
    """A text stream that falls silent at its first fault, which it keeps; in all else the stream it is made of."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, or drop it after a fault."""
        with self._falling_silent():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._falling_silent():
            self.stream.flush()

    @contextmanager
    def _falling_silent(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fault = self.fault or error
            # What is buffered, at the exit too, and what children write goes nowhere from here on.
            with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def outlasting_output() -> Iterator[Output | None]:
    """Let a fault of standard output or standard error end nothing; yields standard output, None if it is closed."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks
    out, err = (Output(stream) if stream else None for stream in before)
    sys.stdout, sys.stderr = out or _open_nowhere(), err or _open_nowhere()
    try:
        yield out
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
