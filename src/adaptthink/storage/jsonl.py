"""Files of JSON lines: one record a line, only ever appended to, and one policy for all of them.

* A record is with the operating system when `Appender.write` returns, so a process that is killed loses none. Records
  are forced to the disk about once a second and at the end, so a machine that stops loses few.
* A last line without its line end was cut by a crash. Readers ignore it, since another process may be writing it just
  now; `Appender` removes it before it writes on.
* Any other line that is not a record is damage: reading it raises UserError with file and line. None is skipped.
* Of several records with the same key the first counts: what was made of a file stays true however the file grows.
  A record that is out of date is removed (`keep_lines`) before it is made again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from adaptthink.errors import UserError

SYNC_SECONDS = 1.0  # between two times that lines are forced to the disk
BLOCK = 2**16  # bytes that are read at once in search of the last line end
REMEDY = "remove that line, and what it held is made again"
REMEDY_FILE = "put the file back, or remove what is in its place"
TEMPORARY = ".tmp"  # ends the name of a file that is being written
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line of a file, line end included; `number` counts from 1, `start` is the number of bytes before it."""

    path: Path
    number: int
    start: int
    content: bytes


# ---- reading --------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the whole lines of a file, none if there is no file; a last line without its line end is left out.

    Raises UserError for what is no file, as a folder.
    """
    if not path.exists():
        return
    start = 0
    with readable(path, REMEDY_FILE), path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            if not content.endswith(b"\n"):
                return
            yield Line(path, number, start, content)
            start += len(content)


def read_records(
    lines: Iterable[Line],
    make: Callable[[dict[str, Any]], T],
    *,
    key: Callable[[T], Hashable] | None = None,
    remedy: str = REMEDY,
) -> Iterator[T]:
    """Turn lines into records; with a `key`, only the first record of each.

    Raises UserError with file and line for a line that is no JSON object, or that `make` refuses (see `read_record`).
    """
    seen = set()
    for line in lines:
        record = read_record(line, make, remedy=remedy)
        if key is not None:
            name = key(record)
            if name in seen:
                continue
            seen.add(name)
        yield record


def read_record(line: Line, make: Callable[[dict[str, Any]], T], *, remedy: str = REMEDY) -> T:
    """Turn one line into a record; `make` refuses an object with ValueError, KeyError, TypeError or OverflowError."""
    try:
        return make(parse_object(line.content))
    except KeyError as error:
        reason = f"no {error}"
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error)
    raise UserError(f"{line.path}, line {line.number}: damaged ({reason}); {remedy}")


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line; raises ValueError that names what was found instead."""
    try:
        value = json.loads(line.decode("utf-8"), parse_int=parse_integer)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start} of the line)") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {getattr(error, 'msg', 'nested too deeply')}") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def parse_integer(digits: str) -> int | str:
    """Return a JSON integer; as its text where Python refuses to convert it, beyond 4,300 digits."""
    try:
        return int(digits)
    except ValueError:
        return digits


# ---- writing --------------------------------------------------------------------------------------------------------


def encode(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line; in ASCII, as text from a server may hold half a character."""
    return json.dumps(record).encode() + b"\n"


class Appender:
    """Appends records to a file that may be there, after a last line that was cut has been removed; for one thread.

    A file without a whole line begins with `header`. Lines are forced to the disk when `sync_seconds` have passed since
    the last time, and at the end.
    """

    def __init__(
        self, path: Path, *, header: Mapping[str, Any] | None = None, sync_seconds: float = SYNC_SECONDS
    ) -> None:
        repair(path)
        self.path, self.file = path, path.open("ab")
        self.sync_seconds, self.synced = sync_seconds, time.monotonic()
        if header is not None and self.file.tell() == 0:
            self.write(header)

    def write(self, record: Mapping[str, Any]) -> int:
        """Append a record; return the number of bytes before it. Raises UserError if the file is no longer there."""
        self.check_file()
        start = self.file.tell()
        self.file.write(encode(record))
        self.file.flush()
        if time.monotonic() - self.synced >= self.sync_seconds:
            self.sync()
        return start

    def check_file(self) -> None:
        """Raise UserError if the file was deleted or replaced: what is written into it would be lost."""
        try:
            if os.path.samestat(self.path.stat(), os.fstat(self.file.fileno())):
                return
        except FileNotFoundError:
            pass
        raise UserError(f"'{self.path}' was deleted or replaced while it was in use; what came after it is lost")

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self.file.fileno())
        self.synced = time.monotonic()

    def close(self) -> None:
        """Force what was written to the disk, and close the file; does nothing where it is closed."""
        if not self.file.closed:
            self.sync()
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def repair(path: Path) -> None:
    """Remove what follows the last line end of a file, which a crash cut; nothing happens if there is no file."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            whole = file.read(end - start).rfind(b"\n") + 1
            if whole:
                file.truncate(start + whole)
                return
            end = start
        file.truncate(0)


def keep_lines(path: Path, keep: Callable[[Line], bool]) -> None:
    """Remove the whole lines of a file that `keep` refuses, all at once."""
    with replace_file(path) as file:
        file.writelines(line.content for line in read_lines(path) if keep(line))


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces `path` when the block ends; after an error the old one stays.

    A reader sees the old file or the new one, never half of it. Of a link, the file that it leads to is replaced; into
    what is no file, such as /dev/stdout, is written at once.
    """
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises FileNotFoundError where there is none, and UserError with the file, what is wrong and the remedy.
    """
    try:
        with readable(path, remedy):
            return parse_object(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {remedy}") from None


@contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into a UserError, but not that it is missing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
