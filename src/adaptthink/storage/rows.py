"""Rows of data files, one at a time: JSON lines, JSON, CSV, TSV, Parquet, Arrow. No file is held in memory whole.

A row that cannot be read is yielded as a `BadRow`, in order; the caller decides whether to stop there.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from adaptthink.errors import UserError
from adaptthink.storage.datafiles import CHUNK_BYTES, HEAD_BYTES, DataFile, find_data_files, open_text
from adaptthink.storage.jsonl import parse_integer

TABLE_ROWS = 256  # of Parquet and Arrow, converted at a time
BEGINNING_CHARACTERS = 1 << 16  # of a CSV file, by which its delimiter is found out
CELL_CHARACTERS = 1 << 24  # of CSV, at most: what a quote that never closes may take into memory
DELIMITERS = ",;\t|"
TOO_DEEP = "not usable: JSON nested too deeply"
NOT_UTF8 = "not UTF-8 text"
SAVE_AS_UTF8 = f"{NOT_UTF8}; save the file in UTF-8"
LISTS = ("data", "problems", "questions", "rows", "examples")  # the keys under which a JSON object may hold its rows
CUT_OFF = 16  # a JSON fault this near the end of the text read so far may be a value that goes on
SHOWN_FIELDS, SHOWN_CHARACTERS = 20, 60

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are not UTF-8
_SURROGATE = re.compile("[\ud800-\udfff]")
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
    """A row that cannot be used: its location, the reason, and the number in the location."""

    where: str
    reason: str
    number: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """Return location and reason as one line."""
        return f"{self.where}: {self.reason}"


def read_rows(path: Path, split: str | None = None) -> Iterator[Row | BadRow]:
    """Yield the rows of all files that a path stands for (see `storage.datafiles`), the format by their suffix.

    Raises UserError for what is no data file, and for one that cannot be read on.
    """
    for file in find_data_files(path, split):
        with readable(file.name):
            match file.format:
                case ".parquet" | ".arrow":
                    yield from read_table(file)
                case ".csv" | ".tsv":
                    with open_text(file) as opened:
                        yield from read_csv(opened, file.name, delimiter="\t" if file.format == ".tsv" else None)
                case _:
                    yield from read_json(file)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what may go wrong while a file is read into a UserError."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read to its end, it is damaged or cut off ({error})") from None
    except (OSError, RuntimeError, NotImplementedError) as error:  # the last two: ZIP with a password, or packed newly
        raise UserError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def show_fields(values: Iterable[object]) -> str:
    """Return the names of fields as text, in double quotes where one has a comma; only the first if there are many."""
    names = [" ".join(str(name).encode("utf-8", "backslashreplace").decode().split()) for name in values]
    shown = [name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…" for name in names[:SHOWN_FIELDS]]
    more = [f"and {len(names) - SHOWN_FIELDS} more"] if len(names) > SHOWN_FIELDS else []
    return ", ".join([*(f'"{name}"' if "," in name else name for name in shown), *more]) or "none"


def check_text(text: str, name: str) -> str:
    """Return a text; raises RowError if it holds half a character (a lone surrogate), which nothing can encode."""
    found = _SURROGATE.search(text)
    if found:
        raise RowError(f"'{name}' holds half a character (the lone surrogate \\u{ord(found[0]):04x}); repair the text")
    return text


# ---- JSON -----------------------------------------------------------------------------------------------------------


def read_json(file: DataFile) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON file: one object a line; an array, or an object that holds one; objects over lines."""
    with open_text(file) as opened:
        begun = opened.peek(HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
        if begun.startswith(b"[") or file.format == ".json":
            window = TextWindow(opened)
            if window.skip("[") or enter_list(window):
                yield from read_json_values(window, file.name)
                return
    spread = file.format == ".json" and begins_over_lines(file)
    with open_text(file) as opened:
        if spread:
            yield from read_json_values(TextWindow(opened), file.name, closing="")
        else:
            yield from read_json_lines(opened, file.name)


def enter_list(window: TextWindow) -> bool:
    """Go into the list of rows of a JSON object that has one under one of the keys `LISTS`; return whether it has."""
    goes_on = window.skip("{")
    try:
        while goes_on:
            window.skip("")
            key, _ = window.next_value()
            if not window.skip(":"):
                return False
            if key in LISTS and window.skip("["):
                return True
            window.skip("")
            window.next_value()
            goes_on = window.skip(",")
    except (json.JSONDecodeError, RecursionError):
        return False
    return False


def begins_over_lines(file: DataFile) -> bool:
    """Return whether the first JSON value of a file is whole and goes over several lines."""
    with open_text(file) as opened:
        window = TextWindow(opened)
        window.skip("")
        try:
            window.next_value()
        except (json.JSONDecodeError, RecursionError):
            return False
        return "\n" in window.text[: window.position].strip()


def read_json_lines(lines: Iterable[bytes], name: str) -> Iterator[Row | BadRow]:
    """Yield one row per line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse_line(line, f"{name}, line {number}", number)


def parse_line(line: bytes, where: str, number: int) -> Row | BadRow:
    """Return the row of one JSON object, or a `BadRow` for anything else."""
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_int=parse_integer)
    except UnicodeDecodeError as error:
        return BadRow(where, f"{NOT_UTF8} ({error.reason} at byte {error.start} of the line)", number)
    except json.JSONDecodeError as error:
        return BadRow(where, f"not valid JSON: {error.msg} (column {error.colno})", number)
    except RecursionError:
        return BadRow(where, TOO_DEEP, number)
    return make_row(value, where, number)


def make_row(value: object, where: str, number: int) -> Row | BadRow:
    """Return a JSON object as a row, and anything else as a `BadRow`."""
    if not isinstance(value, dict):
        return BadRow(where, f"expected a JSON object, found {type(value).__name__}", number)
    return Row(where, number, value)


def read_json_values(window: TextWindow, name: str, *, closing: str = "]") -> Iterator[Row | BadRow]:
    """Yield the elements of a JSON array, read piece by piece; without `closing` values up to the end of the file.

    Nothing can be read after broken JSON.
    """
    number, goes_on = 0, not window.skip(closing)
    while goes_on:
        number += 1
        where = f"{name}, row {number}"
        try:
            value, fault = window.next_value()
            goes_on = window.skip(",") if closing else not window.is_at_end()
            if closing and not goes_on and not window.skip(closing):
                raise json.JSONDecodeError("Expecting ',' delimiter", "", 0)
        except RecursionError:
            yield BadRow(where, TOO_DEEP, number)
            return
        except json.JSONDecodeError as error:
            yield BadRow(where, f"not valid JSON: {error.msg}; the rows after it are lost", number)
            return
        yield BadRow(where, fault, number) if fault else make_row(value, where, number)
        window.skip("")


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

    def is_at_end(self) -> bool:
        """Return whether nothing but white space is left."""
        self.skip("")
        return self.position == len(self.text)

    def next_value(self) -> tuple[object, str | None]:
        """Return the value that begins here, and why it cannot be used, if so.

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
                    fault = SAVE_AS_UTF8 if _NOT_UTF8.search(self.text, self.position, end) else None
                    self.position = end
                    return value, fault
            self.read_on()


# ---- CSV ------------------------------------------------------------------------------------------------------------


def read_csv(
    file: BinaryIO, name: str, *, header: tuple[str, ...] | None = None, delimiter: str | None = ","
) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file. Its first line has the column names, unless `header` gives them.

    Without `delimiter` it is found out (see `find_delimiter`). The location of a row that spans several lines is its
    first one. Raises UserError for a header that cannot be used.
    """
    csv.field_size_limit(CELL_CHARACTERS)  # of the whole process; the default refuses cells of 128 KiB
    lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    begun: list[str] = []
    if delimiter is None:
        begun = read_beginning(lines)
        delimiter = find_delimiter(begun)
    reader = csv.reader(chain(begun, lines), strict=True, delimiter=delimiter)
    next_line = 1
    while True:
        line, where = next_line, f"{name}, line {next_line}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(where, describe_csv_error(error), line)
            next_line = reader.line_num + 1
            continue
        next_line = reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = read_header(cells, name)
        elif any(map(_NOT_UTF8.search, cells)):
            yield BadRow(where, SAVE_AS_UTF8, line)
        elif len(cells) != len(header):
            yield BadRow(where, f"{len(cells)} cells where {len(header)} were expected", line)
        else:
            yield Row(where, line, dict(zip(header, cells, strict=True)))


def describe_csv_error(error: csv.Error) -> str:
    """Return why a row is not valid CSV."""
    if str(error) == "unexpected end of data":
        return f"not valid CSV: {error}: the quote that begins a cell here never closes, and all rows after it are lost"
    return f"not valid CSV: {error}"


def read_header(cells: list[str], name: str) -> tuple[str, ...]:
    """Return the names of the columns; raises UserError for two of the same name, and for one that is not UTF-8."""
    header = tuple(cell.strip() for cell in cells)
    if any(map(_NOT_UTF8.search, header)):
        raise UserError(f"{name}: its first line is {SAVE_AS_UTF8}")
    for column in header:
        if column and header.count(column) > 1:
            raise UserError(f"{name}: {header.count(column)} columns are called '{column}'; rename all but one")
    return header


def read_beginning(lines: Iterator[str]) -> list[str]:
    """Return the first lines, some thousand characters."""
    begun: list[str] = []
    size = 0
    for line in lines:
        begun.append(line)
        size += len(line)
        if size > BEGINNING_CHARACTERS:
            break
    return begun


def find_delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that divides the first two rows into the same number of cells, the most; else a comma."""

    def count_cells(delimiter: str) -> tuple[bool, int]:
        try:
            rows = list(islice(filter(None, csv.reader(lines, delimiter=delimiter)), 2))
        except csv.Error:
            return False, 0
        sizes = [len(row) for row in rows]
        return len(set(sizes)) == 1 and sizes[0] > 1, max(sizes[:1], default=0)

    return max(DELIMITERS, key=count_cells)


# ---- tables ---------------------------------------------------------------------------------------------------------


def read_table(file: DataFile) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet or Arrow file; raises UserError if it is not one."""
    kind = file.format[1:].capitalize()
    if file.member or file.path.suffix.lower() != file.format:
        raise UserError(f"{file.name}: a {kind} file cannot be read while it is packed; unpack it")
    number = 0
    try:
        for batch in read_batches(file):
            for start in range(0, len(batch), TABLE_ROWS):
                for values in batch.slice(start, TABLE_ROWS).to_pylist():
                    number += 1
                    yield Row(f"{file.name}, row {number}", number, values)
    except Exception as error:  # noqa: BLE001  (the file may hold anything, and pyarrow raises not only its own errors)
        fault = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file.name}: not a {kind} file that can be read: {fault}") from None


def read_batches(file: DataFile) -> Iterator[Any]:
    """Yield the record batches of a Parquet file, or of an Arrow file in either form."""
    import pyarrow as pa  # noqa: PLC0415  (as above)
    from pyarrow import parquet  # noqa: PLC0415

    if file.format == ".parquet":
        with parquet.ParquetFile(file.path) as opened:
            yield from opened.iter_batches(batch_size=TABLE_ROWS)
        return
    with pa.OSFile(str(file.path)) as opened:
        if opened.read(6) == b"ARROW1":
            table = pa.ipc.open_file(opened)
            yield from (table.get_batch(index) for index in range(table.num_record_batches))
        else:
            opened.seek(0)
            yield from pa.ipc.open_stream(opened)
