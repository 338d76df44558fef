"""The fenced blocks of a page, as test_pages_run.py runs them and benchmarks/tutorials.py records what they print."""

import re
from dataclasses import dataclass

RUN = {"sh", "python"}  # languages


@dataclass(frozen=True)
class Block:
    line: int  # of its fence
    language: str
    text: str
    reason: str | None  # why it is not run

    @property
    def is_run(self):
        return self.language in RUN and self.reason is None


def read_blocks(text):
    """The fenced blocks of a page."""
    blocks, inside, before = [], None, ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r" *```(.*)", line)
        if inside is None and fence:
            mark = re.fullmatch(r"<!-- not run:(.*)-->", before)
            inside = (number, fence[1].strip(), [], mark[1].strip() if mark else None)
        elif inside and fence:
            start, language, lines, reason = inside
            blocks.append(Block(start, language, "\n".join(lines), reason))
            inside = None
        elif inside:
            inside[2].append(line)
        if line.strip():
            before = line.strip()
    return blocks
