#!/usr/bin/env python3
"""Build the documentation site from docs/ into build/site, or serve it while it is written.

Usage: .venv-docs/bin/python scripts/build_docs.py [serve]

Pages of docs/ link to files elsewhere in the repository, as they are read there too. On the site such a file is a page
of its own under repository/: Markdown as it is, code as a listing, a folder as a list. Any warning ends the build, and
so does a link or an anchor that leads nowhere, and a page that would load something from elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
DOCS, PAGES, SITE = ROOT / "docs", ROOT / "build" / "pages", ROOT / "build" / "site"
ELSEWHERE = Path("repository")  # where files outside docs/ are on the site
LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash", ".yaml": "yaml", ".txt": "text", "": "text"}
FENCE = re.compile(r"^ *(`{3,}|~{3,})")
LINK = re.compile(r"(?<=\]\()([^)\s]+)")
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}  # what a page loads itself
UNREAD = re.compile(r"^\s*(?:\* |\|[-:]{3}).*", re.MULTILINE)  # a list or a table that only GitHub reads as one
VERBATIM = {"pre", "script", "style"}
ZENSICAL = Path(sys.executable).with_name("zensical")


def place(path: Path) -> Path:
    """Return where a file of the repository is on the site, as a path within the pages."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    own = ELSEWHERE / path.relative_to(ROOT)
    if path.is_dir():
        return own / "folder.md"
    return own.with_name(f"{own.name}.md") if path.suffix in LANGUAGES else own


def rewrite_links(page: Path, text: str, found: set[Path]) -> str:
    """Return a page's text with its links as they must be on the site; add the files they lead to to `found`."""
    here = place(page).parent

    def rewrite(match: re.Match[str]) -> str:
        link = urlsplit(match[0])
        if link.scheme or not link.path:
            return match[0]
        target = (page.parent / unquote(link.path)).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            sys.exit(f"{page.relative_to(ROOT)} links to {match[0]}, which does not exist")
        found.add(target)
        return os.path.relpath(place(target), here) + (f"#{link.fragment}" if link.fragment else "")

    lines, fence = [], ""
    for line in text.splitlines():
        if mark := FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        lines.append(line if fence or mark else LINK.sub(rewrite, line))
    return "\n".join(lines) + "\n"


def make_listing(path: Path) -> str:
    """Return the page of a file of code; the search leaves it out."""
    text = path.read_text(encoding="utf-8")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    front = "---\nsearch:\n  exclude: true\n---\n"
    return f"{front}# {path.name}\n\n`{path.relative_to(ROOT)}`\n\n{fence}{LANGUAGES[path.suffix]}\n{text}{fence}\n"


def make_folder_page(folder: Path, found: set[Path]) -> str:
    """Return the page of a folder: a list of its files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found.update(files)
    links = (f"* [{path.name}]({os.path.relpath(place(path), place(folder).parent)})\n" for path in files)
    return f"# {folder.relative_to(ROOT)}\n\n{''.join(links)}"


def make_pages() -> Iterator[tuple[Path, bytes]]:
    """Yield every file of the site's source: docs/, and what its pages lead to, page by page."""
    found = {path for path in DOCS.rglob("*") if path.is_file()}
    done: set[Path] = set()
    while waiting := sorted(found - done):
        for path in waiting:
            if path.is_dir():
                content = make_folder_page(path, found).encode()
            elif path.suffix == ".md":
                content = rewrite_links(path, path.read_text(encoding="utf-8"), found).encode()
            elif path.suffix in LANGUAGES and not path.is_relative_to(DOCS):
                content = make_listing(path).encode()
            else:
                content = path.read_bytes()
            yield place(path), content
        done.update(waiting)


def stage() -> None:
    """Bring build/pages up to date; files that are as they should be are left alone."""
    kept = set()
    for name, content in make_pages():
        path = PAGES / name
        kept.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
    for path in PAGES.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


@dataclass
class Page(HTMLParser):
    """The anchors of one page of the site, what it links to, what it loads, and Markdown that was left as it was."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    verbatim: int = 0  # how deep within <pre>, <script>

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag defines and needs."""
        self.verbatim += tag in VERBATIM
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id",) + ("name",) * (tag == "a") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if (address := values.get(LOADED.get(tag, ""))) and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(address)

    def handle_endtag(self, tag: str) -> None:
        """Note the end of what is shown as it is."""
        self.verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        """Note Markdown in the text."""
        if not self.verbatim:
            self.unread += UNREAD.findall(data)


def read_page(path: Path) -> Page:
    """Return what is in a page of the built site."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def find_faults(site: Path) -> list[str]:
    """Say which links of a built site lead nowhere, and which of its pages load something from elsewhere."""
    pages = {path: read_page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(site)
        faults += [f"{name} shows Markdown: {text.strip()[:60]}" for text in page.unread]
        for address in [*page.links, *page.loaded]:
            link = urlsplit(address)
            if link.scheme or link.netloc:
                if address in page.loaded and link.scheme != "data":
                    faults.append(f"{name} loads {address}")
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            if not target.is_file():
                faults.append(f"{name}: {address} does not exist")
            elif link.fragment and target in pages and unquote(link.fragment) not in pages[target].anchors:
                faults.append(f"{name}: {address} has no such anchor")
    return faults


def build() -> None:
    """Build the site, and check it."""
    stage()
    if subprocess.run([ZENSICAL, "build", "--strict", "--clean"], cwd=ROOT, check=False).returncode:
        sys.exit("the site was not built: see the warnings above")
    index = (SITE / "search.json").read_text(encoding="utf-8")
    (SITE / "search.js").write_text(f"var __index = {index}", encoding="utf-8")  # what pages of file:// can load
    if faults := find_faults(SITE):
        sys.exit("\n".join(["the site has faults:", *faults]))
    print(f"{len(list(SITE.rglob('*.html')))} pages, every link checked: {(SITE / 'index.html').relative_to(ROOT)}")


def serve() -> None:
    """Serve the site until interrupted, and bring it up to date as docs/ changes."""
    stage()
    with subprocess.Popen([ZENSICAL, "serve"], cwd=ROOT) as server:
        try:
            while server.poll() is None:
                time.sleep(1)
                stage()
        except KeyboardInterrupt:
            server.terminate()


if __name__ == "__main__":
    {(): build, ("serve",): serve}.get(tuple(sys.argv[1:]), lambda: sys.exit(__doc__))()
