"""Figures on the pages: each is the one of its result file, and a page that says another is found with its line."""

import re
import sys
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import pytest
from page_blocks import read_blocks

from adaptthink.benchmark.measure import Result
from adaptthink.report.benchmark import make_section
from adaptthink.storage.records import from_json

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import figures  # noqa: E402

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def find_fault(piece, page):
    """Return what is wrong with a page that does not have a piece of text, however its lines are broken."""
    words = [re.escape(word) for word in piece.split()]
    if re.search(r"\s+".join(words), page):
        return None
    alike = re.compile(r"\s+".join(NUMBER.sub(r"[\\d.,]+", word.replace(r"\.", ".")) for word in words))
    found = max(alike.finditer(page), key=lambda one: SequenceMatcher(None, one[0], piece).ratio(), default=None)
    if not found:
        return f"has nowhere '{piece}'"
    return f"line {page.count(chr(10), 0, found.start()) + 1} has '{' '.join(found[0].split())}', its file '{piece}'"


PAGE = "A page.\n\n| 8 | 1.5 ms |\n| 16 | 2.5 ms |\n\nIt loses −1.5\npoints.\n"


@pytest.mark.parametrize(
    ("piece", "fault"),
    [
        ("It loses −1.5 points.", None),
        ("| 16 | 3.5 ms |", "line 4 has '| 16 | 2.5 ms |', its file '| 16 | 3.5 ms |'"),
        ("loses −1,234 points.", "line 6 has 'loses −1.5 points.', its file 'loses −1,234 points.'"),
        ("It gains 1.5 points.", "has nowhere 'It gains 1.5 points.'"),
    ],
)
def test_a_page_that_says_something_else_is_found_with_its_line(piece, fault):
    assert find_fault(piece, PAGE) == fault


@pytest.mark.parametrize("name", figures.PAGES)
def test_the_figures_of_a_page_are_those_of_its_files(name):
    page = (ROOT / name).read_text(encoding="utf-8")
    pieces = [piece for make in figures.PAGES[name] for piece in make()]
    faults = [f"{name} {fault}" for fault in (find_fault(piece, page) for piece in pieces) if fault]
    assert pieces
    assert not faults, "\n" + "\n".join(faults)


def find_unprinted(shown, printed):
    """The first part of an output that a page shows and that was not printed; `...` stands for what is left out."""
    shown, printed = ("\n".join(line.strip() for line in text.splitlines()) for text in (shown, printed))
    printed = f"\n{printed}\n"
    for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE):
        lines = part.strip()
        if lines:
            _, found, rest = printed.partition(f"\n{lines}\n")
            if not found:
                return lines
            printed = f"\n{rest}"
    return None


@pytest.mark.parametrize(
    ("shown", "unprinted"),
    [
        ("a 1\nb 2", None),
        ("a 1\n...\nc 3", None),
        ("...\nb 2\n...", None),
        ("a 1\nc 3", "a 1\nc 3"),
        ("c 3\n...\na 1", "a 1"),
        ("b 3", "b 3"),
        ("b", "b"),
    ],
)
def test_an_output_that_was_not_printed_is_found(shown, unprinted):
    assert find_unprinted(shown, "a 1  \nb 2\nc 3\n") == unprinted


@pytest.mark.parametrize("name", figures.TUTORIALS)
def test_the_outputs_of_a_tutorial_are_those_of_its_blocks(name):
    recorded = figures.read(figures.TUTORIALS[name])["blocks"]
    blocks = read_blocks((ROOT / name).read_text(encoding="utf-8"))
    run = [block for block in blocks if block.is_run]
    assert [block.text for block in run] == [one["run"] for one in recorded], (
        f"run benchmarks/tutorials.py {name} again"
    )
    printed = {block: one["printed"] for block, one in zip(run, recorded, strict=True)}
    shown = [(block, output) for block, output in pairwise(blocks) if block.is_run and output.language == "text"]
    assert shown
    for block, output in shown:
        unprinted = find_unprinted(output.text, printed[block])
        assert unprinted is None, f"{name}:{output.line} shows what was not printed:\n{unprinted}"


def test_the_page_of_the_table_of_methods_has_the_section_of_its_result():
    page = (ROOT / "docs/explanation/benchmark.md").read_text(encoding="utf-8")
    result = from_json(Result, figures.read("bench-tiny-2026-11-28"))
    assert page.endswith(f"\n## Results on tiny\n\n{make_section(result, 'benchmark-tiny')}\n")
