"""The pages: where each stands, and what names them."""

import re
import tomllib
from pathlib import Path

import pytest

import adaptthink

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
UNASKED = {  # entries that answer none of the questions; they are there for the record
    "2026-11-22-demo-after-fast-path.md",
    "2026-11-27-packages-and-library.md",
}
KINDS = {"tutorials", "how-to", "explanation", "reference", "log"}
NAME = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.(?:md|png)")  # of a page or picture, in code, messages and prose
PLACES = ("src", "tests", "benchmarks", "scripts", "examples", "docs", "*.md", "*.toml")
TEXTS = {".py", ".md", ".toml", ".sh", ".j2"}


def flatten(nav):
    for entry in nav:
        [(_, target)] = entry.items()
        yield from [target] if isinstance(target, str) else flatten(target)


def test_every_page_is_of_a_kind_and_in_the_navigation_once():
    with (ROOT / "zensical.toml").open("rb") as file:
        listed = list(flatten(tomllib.load(file)["project"]["nav"]))
    pages = [str(path.relative_to(DOCS)) for path in PAGES]
    assert {page.split("/")[0] for page in pages} == {*KINDS, "index.md"}
    assert sorted(listed) == [page for page in pages if not page.startswith("log/2")]


def test_the_home_page_links_every_page():
    linked = re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    pages = {str(path.relative_to(DOCS)) for path in PAGES} - {"index.md"}
    assert {page for page in pages if not page.startswith("log/2")} - set(linked) == set()


def test_every_entry_of_the_log_is_listed_by_date_and_answers_a_question():
    index = (DOCS / "log" / "index.md").read_text(encoding="utf-8")
    questions, dates = index.split("## By date")
    entries = [path for path in PAGES if path.parent.name == "log" and path.name != "index.md"]
    expected = [
        f"* {path.name[:10]} · [{path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}]({path.name})"
        for path in entries
    ]
    listed = dates.split("\n\n")[1].strip().splitlines()
    assert sorted(listed) == sorted(expected)
    assert [line[2:12] for line in listed] == sorted((line[2:12] for line in listed), reverse=True), "newest first"
    for path in entries:
        assert f"({path.name})" in questions or path.name in UNASKED


@pytest.mark.parametrize("place", PLACES)
def test_what_is_named_exists(place):
    """Comments, messages and pages name pages by their path."""
    found = [path for one in ROOT.glob(place) for path in ([one] if one.is_file() else one.rglob("*"))]
    texts = [path for path in found if path.suffix in TEXTS and path.is_file() and path.name != "test_site.py"]
    assert texts
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        for name in NAME.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / name).is_file()
    }
    assert missing == set()


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## (\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert versions[0] == adaptthink.__version__
    assert versions == sorted(versions, reverse=True)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 120
    blocks = [block.strip() for block in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n\n")]
    prose = [block for block in blocks if block and not block.startswith(("#", "|", "!", "<", "* ", "1. "))]
    assert len(prose) >= 8
    assert all(block.count("\n") < 4 for block in prose)
