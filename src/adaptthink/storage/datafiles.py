"""The data files that a path stands for, and how each is opened: unpacked, and as UTF-8.

A path is a file, a ZIP archive, a pattern (``shards/*.parquet``), a folder of files, or a data set that the library
`datasets` saved (`save_to_disk`). Its split can be named where there are several.
"""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import io
import lzma
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, BinaryIO, TypeVar, cast

from pydantic import Field

from adaptthink.errors import UserError
from adaptthink.storage.jsonl import read_object
from adaptthink.storage.records import from_json

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
FORMAT_NAMES = "JSON lines, JSON, CSV, TSV, Parquet or Arrow"
PACKED = (".gz", ".bz2", ".xz", ".zst")
OTHER_FORMATS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), "a spreadsheet; save it as CSV in UTF-8"),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), "an archive; unpack it, and give the file or folder inside"),
}
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # beside a data set's files
SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"}
HEAD_BYTES = 4096  # by which a file's packing and encoding are recognised
CHUNK_BYTES = 1 << 18  # read at a time
SHOWN_NAMES = 8
PlainName = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")]  # of what lies beside a file, and nowhere else
T = TypeVar("T")

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")  # the hub's and `datasets`' way to number the files of a split
_ENCODINGS = (  # by byte order mark; UTF-32 first, as its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of rows: on disk, or inside a ZIP archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file as messages name it."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def format(self) -> str:
        """The suffix that tells the format, in lower case: ``.csv`` of ``P.CSV.gz``."""
        return PurePath(self.inner_name).suffix.lower()

    @property
    def stem(self) -> str:
        """The name without suffixes."""
        return PurePath(self.inner_name).stem

    @property
    def inner_name(self) -> str:
        """The name without folders and without the suffix of a packer."""
        name = PurePath(self.member or self.path).name
        return PurePath(name).stem if PurePath(name).suffix.lower() in PACKED else name


# ---- which files ----------------------------------------------------------------------------------------------------


def exists(path: str | Path) -> bool:
    """Return whether something can be read there; False for what cannot be a path at all."""
    return os.path.exists(path)  # noqa: PTH110  (Path.exists raises for a name that is too long)


def is_pattern(path: str | Path) -> bool:
    """Return whether a path is none itself and holds one of the signs * ? [ of a pattern."""
    return not exists(path) and glob.has_magic(str(path))


def find_data_files(path: Path, split: str | None = None) -> list[DataFile]:
    """Return the files that a path stands for, in order; raises UserError that names what is there instead."""
    if is_pattern(path):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        files = [DataFile(Path(name)) for name in names if Path(name).is_file()]
        if not files:
            raise UserError(f"no file matches '{path}'; quote a pattern, and check it with: ls {path}")
        return files if split is None else choose_split(path, files, split)
    if path.is_dir():
        return list_folder(path, split)
    if not path.is_file():
        raise UserError(f"'{path}' is no regular file; give the path of a file of {FORMAT_NAMES}")
    file = DataFile(path)
    if file.format in OTHER_FORMATS:
        raise UserError(f"'{path}' is {OTHER_FORMATS[file.format]}")
    with path.open("rb") as opened:
        if opened.read(2) == b"PK" and zipfile.is_zipfile(path):
            return list_archive(path, split)
    if split is not None:
        raise UserError(f"'{path}' is one file, without a split '{split}'; give '{path}'")
    return [file]


def list_folder(folder: Path, split: str | None) -> list[DataFile]:
    """Return the files of rows in a folder, or in the one folder inside that has some."""
    if (folder / "dataset_dict.json").is_file():
        splits = read_list(folder / "dataset_dict.json", "splits", list[PlainName])
        if split is None and len(splits) == 1:
            [split] = splits
        if split is None or split not in splits:
            raise make_split_error(folder, splits, split)
        return list_saved(folder / split)
    if (folder / "state.json").is_file():
        if split is not None:
            raise make_split_error(folder, [], split)
        return list_saved(folder)
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [DataFile(entry) for entry in entries if entry.is_file() and is_data_file(entry)]
    if files:
        return choose_split(folder, files, split)
    inside = [entry for entry in entries if entry.is_dir() and holds_data(entry)]
    named = [entry for entry in inside if entry.name == split]
    if named or len(inside) == 1:
        return list_folder(*((named[0], None) if named else (inside[0], split)))
    if inside:
        raise UserError(f"'{folder}' holds several folders with data; give one: {show_names(map(str, inside))}")
    found = f"only {show_names(entry.name for entry in entries)}" if entries else "nothing"
    raise UserError(f"'{folder}' is a folder and holds no file of {FORMAT_NAMES}, but {found}; give the path of a file")


def holds_data(folder: Path) -> bool:
    """Return whether a folder itself holds a file of rows."""
    return any(is_data_file(entry) or entry.name in METADATA for entry in folder.iterdir())


def is_data_file(path: PurePath) -> bool:
    """Return whether a name is that of a file of rows, packed or not."""
    return DataFile(Path(path)).format in FORMATS and path.name not in METADATA and not path.name.startswith(".")


def list_saved(folder: Path) -> list[DataFile]:
    """Return the files of a data set that was saved with `save_to_disk`, in its order."""
    entries = read_list(folder / "state.json", "_data_files", list[SavedFile])
    return [DataFile(folder / entry.filename) for entry in entries]


@dataclass(frozen=True, slots=True)
class SavedFile:
    """What `datasets` notes of each file of a data set."""

    filename: PlainName


def read_list(path: Path, key: str, kind: type[T]) -> T:
    """Return a list in a JSON file of `datasets`; raises UserError if it is damaged."""
    remedy = "save the data set again"
    try:
        return from_json(kind, read_object(path, remedy=remedy).get(key))
    except ValueError as error:
        raise UserError(f"{path}: damaged, it has no list '{key}' ({error}); {remedy}") from None


def list_archive(path: Path, split: str | None) -> list[DataFile]:
    """Return the files of rows in a ZIP archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a ZIP archive that can be read ({error}); fetch it again") from None
    if "[Content_Types].xml" in names:
        raise UserError(f"'{path}' is {OTHER_FORMATS['.xlsx']}")
    files = [DataFile(path, name) for name in names if is_data_file(PurePath(name))]
    if not files:
        raise UserError(f"'{path}' holds no file of {FORMAT_NAMES}, but only {show_names(names) or 'nothing'}")
    return choose_split(path, files, split)


def choose_split(path: Path, files: Sequence[DataFile], split: str | None) -> list[DataFile]:
    """Return the files of one split, or all where names show at most one split; raises UserError if none is left."""
    by_split: dict[str | None, list[DataFile]] = {}
    for file in files:
        by_split.setdefault(find_split(file), []).append(file)
    names = [name for name in by_split if name is not None]
    if split is not None and split not in names:
        raise make_split_error(path, names, split)
    if split is None and len(names) > 1:
        raise make_split_error(path, names, None)
    chosen = list(files) if split is None else by_split[split]
    formats = Counter(file.format for file in chosen)
    if len(formats) > 1:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(formats.items()))
        raise UserError(f"'{path}' holds files of several formats ({found}); give one of them by its own path")
    return chosen


def find_split(file: DataFile) -> str | None:
    """Return the split that a file's name tells (``train-00000-of-00002.parquet``, ``test.jsonl``), if any."""
    shard = _SHARD.fullmatch(file.stem)
    if shard:
        return shard[1]
    return file.stem if file.stem.lower() in SPLITS else None


def make_split_error(path: Path, splits: Sequence[str], split: str | None) -> UserError:
    """Return the error for a split that is missing or has to be named."""
    if not splits:
        return UserError(f"'{path}' has no splits, and so no '{split}'; give '{path}'")
    fault = "holds several splits" if split is None else f"has no split '{split}'"
    return UserError(f"'{path}' {fault}; give one: {show_names(f'{path}:{name}' for name in splits)}")


def show_names(names: Iterator[str] | Sequence[str]) -> str:
    """Return names as text, the first few if there are many."""
    shown = list(names)
    more = f" and {len(shown) - SHOWN_NAMES} more" if len(shown) > SHOWN_NAMES else ""
    return ", ".join(shown[:SHOWN_NAMES]) + more


# ---- opening --------------------------------------------------------------------------------------------------------


@contextmanager
def open_text(file: DataFile) -> Iterator[io.BufferedReader]:
    """Open a file of text: unpacked, whatever its name says, and in UTF-8 where it has another byte order mark.

    Raises UserError for a file that holds no text.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(open_stored(file))
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        unpacked = unpack(stream, head)
        if unpacked:
            stream = stack.enter_context(unpacked)
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        encoding = next((name for mark, name in _ENCODINGS if head.startswith(mark)), None)
        if encoding:
            stream = io.BufferedReader(Transcoder(stream, encoding), CHUNK_BYTES)
        elif b"\0" in head:
            raise UserError(
                f"{file.name}: not a text file, as it holds NUL bytes; give a file of {FORMAT_NAMES}, text in UTF-8"
            )
        yield stream


@contextmanager
def open_stored(file: DataFile) -> Iterator[io.BufferedReader]:
    """Open a file as it is stored."""
    if file.member is None:
        with file.path.open("rb") as stream:
            yield stream
    else:
        with zipfile.ZipFile(file.path) as archive, archive.open(file.member) as member:
            yield io.BufferedReader(cast(io.RawIOBase, member))


def unpack(stream: BinaryIO, head: bytes) -> io.BufferedReader | None:
    """Return the unpacked content of a stream that begins with the mark of a packer, else None."""
    if head.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    if head.startswith(b"BZh"):
        return io.BufferedReader(bz2.BZ2File(stream))
    if head.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(lzma.LZMAFile(stream))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa  # noqa: PLC0415  (takes a fifth of a second)

        return io.BufferedReader(pa.CompressedInputStream(stream, "zstd"))
    return None


class Transcoder(io.RawIOBase):
    """A stream of text in another encoding, read as UTF-8; a lone surrogate becomes bytes that are not UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self.ready, self.ended = b"", False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return the number of bytes."""
        while not self.ready and not self.ended:
            piece = self.stream.read(CHUNK_BYTES)
            self.ended = not piece
            self.ready = self.decoder.decode(piece, final=self.ended).encode("utf-8", "surrogatepass")
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count
