"""Rows of files, one at a time: JSON lines, a JSON array, CSV, Parquet. No file is held in memory whole.

A row that cannot be read is yielded as a `BadRow`, in order; the caller decides whether to stop there.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adaptthink.errors import UserError
from adaptthink.storage.jsonl import parse_integer

CHUNK_BYTES = 1 << 18
PARQUET_ROWS = 256  # read at a time
TOO_DEEP = "not usable: JSON nested too deeply"
CUT_OFF = 16  # a JSON fault this near the end of the text read so far may be a value that goes on

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are not UTF-8
_SPACE = re.compile(r"[ \t\r\n]*")


class RowError(Exception):
    """A row cannot be used; the message is the reason, without the location."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values by column, its location ("p.jsonl, line 3"), and the number in that."""

    where: str
    number: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, and the reason."""

    where: str
    reason: str

    def __str__(self) -> str:
        """Return location and reason as one line."""
        return f"{self.where}: {self.reason}"


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a file; its suffix decides the format (.csv, .parquet, .json, else JSON lines)."""
    match path.suffix.lower():
        case ".csv":
            with path.open("rb") as file:
                yield from read_csv(file, str(path))
        case ".parquet":
            yield from read_parquet(path)
        case ".json" if starts_array(path):
            yield from read_json_array(path)
        case _:
            yield from read_json_lines(path)


def starts_array(path: Path) -> bool:
    """Return whether the first character of a file is the bracket that opens a JSON array."""
    with path.open("rb") as file:
        return TextWindow(file).skip("[")


def read_json_lines(path: Path) -> Iterator[Row | BadRow]:
    """Yield one row per line that is not blank."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield parse_line(line, f"{path}, line {number}", number)


def parse_line(line: bytes, where: str, number: int) -> Row | BadRow:
    """Return the row of one JSON object, or a `BadRow` for anything else."""
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_int=parse_integer)
    except UnicodeDecodeError as error:
        return BadRow(where, f"not UTF-8 text ({error.reason} at byte {error.start} of the line)")
    except json.JSONDecodeError as error:
        return BadRow(where, f"not valid JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        return BadRow(where, TOO_DEEP)
    return make_row(value, where, number)


def make_row(value: object, where: str, number: int) -> Row | BadRow:
    """Return a JSON object as a row, and anything else as a `BadRow`."""
    if not isinstance(value, dict):
        return BadRow(where, f"expected a JSON object with 'prompt' and 'answer', found {type(value).__name__}")
    return Row(where, number, value)


def read_json_array(path: Path) -> Iterator[Row | BadRow]:
    """Yield the elements of a JSON array, read piece by piece. Nothing can be read after broken JSON."""
    number = 0
    with path.open("rb") as file:
        window = TextWindow(file)
        window.skip("[")
        while not window.skip("]" if number == 0 else ""):
            number += 1
            where = f"{path}, row {number}"
            try:
                value, broken = window.next_value()
                goes_on = window.skip(",")
                if not goes_on and not window.skip("]"):
                    raise json.JSONDecodeError("Expecting ',' delimiter", "", 0)
            except RecursionError:
                yield BadRow(where, TOO_DEEP)
                return
            except json.JSONDecodeError as error:
                yield BadRow(where, f"not valid JSON: {error.msg}; the rows after it are lost")
                return
            yield BadRow(where, "not UTF-8 text") if broken else make_row(value, where, number)
            if not goes_on:
                return


class TextWindow:
    """A window on a JSON text: drops what has been read, and reads on where a value is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.json = json.JSONDecoder(parse_int=parse_integer)
        self.text, self.position, self.ended = "", 0, False

    def read_on(self) -> None:
        """Read at least as much as the window holds, so that the number of attempts at a long value is logarithmic."""
        piece = self.file.read(max(CHUNK_BYTES, len(self.text) - self.position))
        self.ended = not piece
        self.text = self.text[self.position :] + self.decoder.decode(piece, final=self.ended)
        self.position = 0

    def skip(self, sign: str) -> bool:
        """Skip white space and then `sign` if it is next; return whether it was."""
        while True:
            space = _SPACE.match(self.text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self.text) or self.ended:
                break
            self.read_on()
        found = bool(sign) and self.text.startswith(sign, self.position)
        self.position += found
        return found

    def next_value(self) -> tuple[object, bool]:
        """Return the value that begins here, and whether it holds bytes that are not UTF-8.

        Raises json.JSONDecodeError, at once where reading on cannot help.
        """
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                may_go_on = error.pos > len(self.text) - CUT_OFF or error.msg.startswith("Unterminated string")
                if self.ended or not may_go_on:
                    raise
            else:
                if end < len(self.text) or self.ended:  # a number may go on
                    broken = _NOT_UTF8.search(self.text, self.position, end) is not None
                    self.position = end
                    return value, broken
            self.read_on()


def read_csv(file: BinaryIO, name: str, *, header: tuple[str, ...] | None = None) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file. Its first line has the column names, unless `header` gives them.

    The location of a row that spans several lines is its first one.
    """
    reader = csv.reader(decode_lines(file), strict=True)
    next_line = 1
    while True:
        line, where = next_line, f"{name}, line {next_line}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(where, f"not valid CSV: {error}")
            next_line = reader.line_num + 1
            continue
        next_line = reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = tuple(cells)
        elif any(map(_NOT_UTF8.search, cells)):
            yield BadRow(where, "not UTF-8 text")
        elif len(cells) != len(header):
            yield BadRow(where, f"{len(cells)} cells where {len(header)} were expected")
        else:
            yield Row(where, line, dict(zip(header, cells, strict=True)))


def decode_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Decode lines; bytes that are not UTF-8 become lone surrogates, so that their row can be reported."""
    for number, line in enumerate(lines):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", errors="surrogateescape")


def read_parquet(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet file; raises UserError if it is not one."""
    import pyarrow as pa  # noqa: PLC0415  (takes a fifth of a second)
    from pyarrow import parquet  # noqa: PLC0415

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", number, values)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None
