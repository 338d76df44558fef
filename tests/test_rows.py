"""Rows of files: each format gives the same rows, a fault is named where it stands, and nothing is read whole."""

import csv
import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from adaptthink.errors import UserError
from adaptthink.storage import rows
from adaptthink.storage.rows import BadRow, Row, read_rows

VALUES = [{"prompt": f"größer {n}?\nja", "answer": str(n), "tags": ["a", "]"]} for n in range(3)]


def write(path, values):
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(value) + "\n" for value in values))
        case ".json":
            path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, values[0])
                writer.writeheader()
                writer.writerows(values)
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(values), path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 18])
def test_formats_give_the_same_rows(tmp_path, monkeypatch, ending, chunk):
    monkeypatch.setattr(rows, "CHUNK_BYTES", chunk)
    path = write(tmp_path / f"p{ending}", VALUES)
    found = list(read_rows(path))
    assert [row.values for row in found] == VALUES
    assert [row.number for row in found] == [1, 2, 3]
    unit = "line" if ending == ".jsonl" else "row"
    assert found[2].where == f"{path}, {unit} 3"


def test_csv_counts_lines_and_not_rows(tmp_path):
    path = write(tmp_path / "p.csv", VALUES)
    found = list(read_rows(path))
    assert [row.values["prompt"] for row in found] == [value["prompt"] for value in VALUES]
    assert [row.where for row in found] == [f"{path}, line {n}" for n in (2, 4, 6)]  # two lines each


def test_byte_order_mark_of_spreadsheets(tmp_path):
    for name, text in (("p.csv", "prompt,answer\na,1\n"), ("p.jsonl", '{"prompt": "a", "answer": "1"}\n')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [row.values for row in read_rows(tmp_path / name)] == [{"prompt": "a", "answer": "1"}]
    (tmp_path / "p.json").write_bytes(b'\xef\xbb\xbf [{"a": 1}]')
    assert [row.values for row in read_rows(tmp_path / "p.json")] == [{"a": 1}]


def test_json_lines_in_a_file_called_json(tmp_path):
    (tmp_path / "p.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert [row.values for row in read_rows(tmp_path / "p.json")] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "good", "fault"),
    [
        (b"[]", 0, None),
        (b' [ {"a": "]"} , {"a": "\\ud83d\\ude00"} ] ', 2, None),
        (b'[{"a": 1}, 5, {"a": 2}]', 2, "row 2: expected a JSON object, found int"),
        (b'[{"a": 1}, {"a": oops}, {"a": 3}]', 1, "row 2: not valid JSON: Expecting value; the rows after it are lost"),
        (b'[{"a": 1} {"a": 2}]', 0, "row 1: not valid JSON: Expecting ',' delimiter; the rows after it are lost"),
        (b'[{"a": 1}, {"a": 2', 1, "row 2: not valid JSON: Expecting ',' delimiter; the rows after it are lost"),
        (b'[{"a": 1}', 0, "row 1: not valid JSON: Expecting ',' delimiter; the rows after it are lost"),
        (b'[{"a": "\xff"}, {"a": "\xef\xbf\xbd"}]', 1, "row 1: not UTF-8 text; save the file in UTF-8"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 18])
def test_arrays(tmp_path, monkeypatch, text, good, fault, chunk):
    monkeypatch.setattr(rows, "CHUNK_BYTES", chunk)
    path = tmp_path / "p.json"
    path.write_bytes(text)
    found = list(read_rows(path))
    assert sum(isinstance(row, Row) for row in found) == good
    assert [str(row) for row in found if isinstance(row, BadRow)] == ([f"{path}, {fault}"] if fault else [])


def test_broken_array_is_not_read_to_its_end(tmp_path, monkeypatch):
    """A fault that is not at the end of what was read is final: reading on would take the whole file into memory."""
    (tmp_path / "p.json").write_bytes(b'[{"a": oops, "b": "' + b"x" * 4_000_000 + b'"}]')
    pieces = []
    read = rows.TextWindow.read_on
    monkeypatch.setattr(rows.TextWindow, "read_on", lambda self: pieces.append(read(self)))
    assert len(list(read_rows(tmp_path / "p.json"))) == 1
    assert len(pieces) == 1


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"only one\n", "1 cells where 2 were expected"),
        (b"a,b,c\n", "3 cells where 2 were expected"),
        (b"\xff,1\n", "not UTF-8 text; save the file in UTF-8"),
        (b'"a" b,1\n', "not valid CSV: ',' expected after '\"'"),
    ],
)
def test_bad_csv_row_is_named_and_the_rest_is_read(tmp_path, line, fault):
    path = tmp_path / "p.csv"
    path.write_bytes(b'prompt,answer\n"a\nb",1\n\n' + line + b"c,3\n")
    found = list(read_rows(path))
    assert [str(row) for row in found if isinstance(row, BadRow)] == [f"{path}, line 5: {fault}"]
    assert [row.values["answer"] for row in found if isinstance(row, Row)] == ["1", "3"]


def test_csv_quote_that_never_closes(tmp_path):
    (tmp_path / "p.csv").write_text('prompt,answer\na,1\n"b,2\nc,3\n')
    found = list(read_rows(tmp_path / "p.csv"))
    assert str(found[-1]) == (
        f"{tmp_path / 'p.csv'}, line 3: not valid CSV: unexpected end of data: "
        "the quote that begins a cell here never closes, and all rows after it are lost"
    )


def test_file_that_is_no_parquet(tmp_path):
    (tmp_path / "p.parquet").write_text("no")
    with pytest.raises(UserError, match=r"p\.parquet: not a Parquet file that can be read: Parquet file size"):
        list(read_rows(tmp_path / "p.parquet"))


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_reading_row_by_row_takes_little_memory(tmp_path, ending):
    values = [{"prompt": f"{n} " + "x" * 380, "answer": str(n)} for n in range(20_000)]
    path = write(tmp_path / f"p{ending}", values)
    assert path.stat().st_size > 100_000  # Parquet packs repeats
    del values
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000  # of the 8 MB that the rows hold
