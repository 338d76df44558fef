"""Comparing benchmark results: ratios by hand; and pages' tables from the files of results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPARE = ROOT / "benchmarks/compare.py"
sys.path.insert(0, str(COMPARE.parent))

import compare  # noqa: E402
import mismatch  # noqa: E402


def spread(median, low, high):
    return {"median": median, "min": low, "max": high, "n": 3}


def result(over, *, work="2x8", machine="one", **more):
    figures = {"native_over": {"transformers": over}, "sync_seconds": {"native": spread(1, 1, 1)}} | more
    return {"date": "2026-01-01", "machine": machine, "versions": {}, "works": {work: figures}}


def write(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def run(*arguments):
    return subprocess.run([sys.executable, COMPARE, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("new", "ratio", "low", "high", "verdict"),
    [
        (spread(2.0, 1.8, 2.2), 0.5, 1.8 / 5.0, 2.2 / 3.2, "SLOWER"),
        (spread(8.0, 6.0, 9.0), 2.0, 6.0 / 5.0, 9.0 / 3.2, "faster"),
        (spread(3.0, 2.8, 3.3), 0.75, 2.8 / 5.0, 3.3 / 3.2, "same within the spread"),
    ],
)
def test_a_change_by_hand(new, ratio, low, high, verdict):
    [change] = compare.compare(result(spread(4.0, 3.2, 5.0)), result(new), compare.PEERS)
    assert (change.ratio, change.low, change.high) == pytest.approx((ratio, low, high))
    assert (change.verdict, change.figure) == (verdict, "2x8 native_over transformers")


def test_only_the_same_work_and_only_speeds_are_compared():
    rate = {"tokens_per_second": {"native": spread(10, 9, 11)}}
    old, new = result(spread(4, 3, 5), **rate), result(spread(4, 3, 5), **rate)
    figures = [change.figure for change in compare.compare(old, new, compare.SPEEDS)]
    assert figures == ["2x8 native_over transformers", "2x8 tokens_per_second native"]
    assert compare.compare(old, result(spread(4, 3, 5), work="2x9"), compare.SPEEDS) == []


def test_results_from_before_there_were_works_are_read():
    old = {"rows": 32, "max_tokens": [8], "native_over": {"native": spread(1, 1, 1), "transformers": spread(4, 3, 5)}}
    [change] = compare.compare(old, result(spread(2, 2, 2)), compare.PEERS)
    assert change.ratio == 0.5


def test_folders_are_paired_by_name_and_the_newest_counts(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "rollout-tiny-2026-01-01.json", result(spread(9, 9, 9)))
    write(old, "rollout-tiny-2026-01-02.json", result(spread(4, 4, 4)))
    write(old, "other-2026-01-03.json", result(spread(1, 1, 1)))
    write(new, "rollout-tiny-2026-01-05.json", result(spread(2, 2, 2), machine="two"))
    done = run(old, new)
    assert done.returncode == 0, done.stderr
    assert "rollout-tiny-2026-01-05.json against rollout-tiny-2026-01-02.json" in done.stdout
    assert "machine differs: one, now two" in done.stdout
    assert "0.50 (0.50 to 0.50)  SLOWER" in done.stdout
    assert "other" not in done.stdout


def test_what_cannot_be_compared_is_said(tmp_path):
    write(tmp_path / "old", "a-2026-01-01.json", result(spread(1, 1, 1)))
    write(tmp_path / "new", "b-2026-01-01.json", result(spread(1, 1, 1)))
    for arguments in ((tmp_path / "old", tmp_path / "none"), (tmp_path / "old", tmp_path / "new"), ()):
        done = run(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("compare.py: error: ")


def test_the_page_opens_with_the_table_of_the_files():
    table = "\n".join(compare.make_table(ROOT / "benchmarks/results"))
    page = (ROOT / "docs/explanation/performance.md").read_text(encoding="utf-8")
    assert table.count("\n") > 10
    assert page.split("\n\n")[1] == table, "python benchmarks/compare.py --table prints the table of the files"


def test_the_page_on_mismatch_has_the_table_of_its_result():
    page = (ROOT / "docs/explanation/mismatch.md").read_text(encoding="utf-8")
    [name] = re.findall(r"benchmarks/results/(mismatch-.*?\.json)", page)
    table = "\n".join(mismatch.make_table(ROOT / "benchmarks/results" / name))
    assert table.count("\n") == 6
    assert f"\n\n{table}\n\n" in page, "python benchmarks/mismatch.py --table RESULT prints it"
