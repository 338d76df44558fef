"""What a path of data stands for: packed files, other encodings, folders, patterns, archives, and their splits."""

import bz2
import gzip
import json
import lzma
import os
import zipfile

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from adaptthink.errors import UserError
from adaptthink.storage.rows import read_rows

ROWS = [{"prompt": "größer?", "answer": "1"}, {"prompt": "b", "answer": "2"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "prompt,answer\ngrößer?,1\nb,2\n"


def read(path, split=None):
    return [row.values for row in read_rows(path, split)]


def refuse(path, split=None):
    with pytest.raises(UserError) as caught:
        read(path, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pack_zst(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("ending", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", pack_zst)],
)
def test_packing_and_encoding_do_not_matter(tmp_path, name, encoding, ending, pack):
    path = tmp_path / (name + ending)
    path.write_bytes(pack((TABLE if name == "p.csv" else LINES).encode(encoding)))
    assert read(path) == ROWS


def test_a_name_that_says_the_wrong_packing(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "q.jsonl.gz").write_bytes(LINES.encode())
    assert read(tmp_path / "p.jsonl") == read(tmp_path / "q.jsonl.gz") == ROWS


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", pack_zst)])
def test_packed_file_that_was_cut_off(tmp_path, ending, pack):
    path = tmp_path / f"p.jsonl{ending}"
    path.write_bytes(pack(os.urandom(3000).hex().encode())[:-20])
    assert refuse(path).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"\x7fELF\0\0", "not a text file, as it holds NUL bytes; give a file of JSON lines, JSON, CSV"),
        ("p.jsonl", "{}".encode("utf-16-le"), "not a text file, as it holds NUL bytes"),
        ("p.xlsx", b"PK", "is a spreadsheet; save it as CSV in UTF-8"),
        ("p.tar.gz", b"", "is an archive; unpack it"),
        (
            "p.parquet.gz",
            gzip.compress(b"PAR1", mtime=0),
            "a Parquet file cannot be read while it is packed; unpack it",
        ),
        ("p.csv", b"q,q\n1,2\n", "2 columns are called 'q'; rename all but one"),
        ("p.csv", b"\xff,answer\n1,2\n", "its first line is not UTF-8 text; save the file in UTF-8"),
    ],
)
def test_what_is_no_data(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refuse(tmp_path / name)


def test_what_cannot_be_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is no regular file" in refuse(tmp_path / "pipe.jsonl")

    def deny(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "p.jsonl").write_text(LINES)
    monkeypatch.setattr("adaptthink.storage.rows.open_text", deny)
    assert refuse(tmp_path / "p.jsonl") == f"{tmp_path / 'p.jsonl'}: cannot be read: Permission denied"


def write_shards(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        parquet.write_table(pa.Table.from_pylist([{"name": name}]), folder / f"{name}.parquet")


def test_shards_are_read_in_order_as_a_folder_or_by_a_pattern(tmp_path):
    names = [f"train-0000{n}-of-00003" for n in range(3)]
    write_shards(tmp_path / "shards", *reversed(names))
    expected = [{"name": name} for name in names]
    assert read(tmp_path / "shards") == read(tmp_path / "shards/*.parquet") == expected
    assert read(tmp_path / "shards", "train") == expected
    assert refuse(tmp_path / "shards/*.csv").startswith(f"no file matches '{tmp_path}/shards/*.csv'")


def test_splits_of_a_folder_as_on_the_hub(tmp_path):
    folder = tmp_path / "set"
    write_shards(folder / "data", "test-00000-of-00001", "train-00000-of-00001")
    (folder / "dataset_infos.json").write_text("{}")
    (folder / "README.md").write_text("")
    assert read(folder, "test") == [{"name": "test-00000-of-00001"}]
    inside = folder / "data"
    assert refuse(folder) == f"'{inside}' holds several splits; give one: {inside}:test, {inside}:train"
    assert refuse(folder, "dev") == f"'{inside}' has no split 'dev'; give one: {inside}:test, {inside}:train"
    write_shards(folder / "other", "train-00000-of-00001")
    assert refuse(folder, "train") == f"'{folder}' holds several folders with data; give one: {inside}, {folder}/other"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_datasets_saved(tmp_path):
    data = Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one", num_shards=2)
    DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "two")
    DatasetDict({"train": data.filter(lambda row: row["answer"] == "2")}).save_to_disk(tmp_path / "three")
    assert read(tmp_path / "one") == read(tmp_path / "two", "train") == ROWS
    assert read(tmp_path / "two", "test") == read(tmp_path / "three") == ROWS[1:]
    assert refuse(tmp_path / "two").endswith(f"give one: {tmp_path}/two:train, {tmp_path}/two:test")
    assert refuse(tmp_path / "one", "train") == (
        f"'{tmp_path}/one' has no splits, and so no 'train'; give '{tmp_path}/one'"
    )


def test_folders_without_one_kind_of_data(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is a folder and holds no file of JSON lines" in refuse(tmp_path / "empty")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.csv").write_text(TABLE)
    (tmp_path / "mixed/b.jsonl").write_text(LINES)
    assert "holds files of several formats (1 .csv, 1 .jsonl)" in refuse(tmp_path / "mixed")


def test_archives(tmp_path):
    def write(name, **members):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member.replace("_", "."), content)
        return tmp_path / name

    assert read(write("one.zip", p_csv=TABLE, README_md="x")) == ROWS
    two = write("two.zip", train_jsonl=LINES, test_jsonl=LINES[: LINES.index("\n")])
    assert read(two, "test") == ROWS[:1]
    assert refuse(two).endswith(f"holds several splits; give one: {two}:test, {two}:train")
    assert "holds no file of JSON lines" in refuse(write("none.zip", a_txt="x"))
    with zipfile.ZipFile(tmp_path / "sheet.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    assert "is a spreadsheet" in refuse(tmp_path / "sheet.csv")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"version": 1, "tags": [1], "data": ROWS, "after": {}}),
        json.dumps({"problems": ROWS}, indent=2),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        json.dumps(ROWS, indent=2),
        LINES,
    ],
)
def test_forms_of_json(tmp_path, text):
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    assert read(tmp_path / "p.json") == ROWS


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("q;a\n1,5;2,5\n", {"q": "1,5", "a": "2,5"}),
        ("q\ta\n1,5\t2\n", {"q": "1,5", "a": "2"}),
        ("q|a\n1|2\n", {"q": "1", "a": "2"}),
        ('"q, text", a \n"x;y",2\n', {"q, text": "x;y", "a": "2"}),
        ("q,a\r1,2\r", {"q": "1", "a": "2"}),
        ("q;a\n", None),
    ],
)
def test_delimiters_and_line_ends_of_csv(tmp_path, text, row):
    (tmp_path / "p.csv").write_bytes(text.encode())
    assert read(tmp_path / "p.csv") == ([row] if row else [])


def test_long_cells_of_csv(tmp_path):
    (tmp_path / "p.csv").write_text('q,a\n"' + "1+1 " * 40_000 + '",2\n')
    assert len(read(tmp_path / "p.csv")[0]["q"]) == 160_000


@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_a_number_of_more_digits_than_python_converts_is_its_text(tmp_path, monkeypatch, name):
    monkeypatch.setattr("adaptthink.storage.rows.CHUNK_BYTES", 100)
    rows = ['{"a": ' + "7" * 5000 + "}", '{"a": 1}']
    (tmp_path / name).write_text("[" + ",".join(rows) + "]" if name == "p.json" else "\n".join(rows))
    assert [row.values for row in read_rows(tmp_path / name)] == [{"a": "7" * 5000}, {"a": 1}]


def test_a_lone_surrogate_in_utf16_is_one_bad_row(tmp_path):
    (tmp_path / "p.csv").write_bytes("q,a\nx\ud800,1\ny,2\n".encode("utf-16", "surrogatepass"))
    bad, good = read_rows(tmp_path / "p.csv")
    assert bad.reason == "not UTF-8 text; save the file in UTF-8"
    assert good.values == {"q": "y", "a": "2"}
