"""What the tutorials print: runs their commands and their Python, and stores the output of each.

    python benchmarks/tutorials.py docs/tutorials/first_training.md docs/tutorials/reading_a_report.md

Each page runs in a folder and a session of Python of its own, as a reader would run it; some minutes of two cores.
tests/test_figures.py compares what a page says that a block prints with what it printed here.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import surroundings, write_result

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from page_blocks import read_blocks  # noqa: E402


def run_block(language: str, text: str, session: dict[str, Any]) -> str:
    """Run a block in the current folder, and return what it printed to its standard output."""
    if language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(text, session)
        return printed.getvalue()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-e", "-c", text]
    return subprocess.run(
        command, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def main() -> None:
    """Run the pages that are named, and store what they printed."""
    pages = {name: read_blocks((ROOT / name).read_text(encoding="utf-8")) for name in sys.argv[1:]}
    if not pages:
        sys.exit(__doc__)
    for name, blocks in pages.items():
        session: dict[str, Any] = {"__name__": "__main__"}
        printed = []
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for block in blocks:
                if block.is_run:
                    print(f"{name}:{block.line}", flush=True)
                    printed.append({"run": block.text, "printed": run_block(block.language, block.text, session)})
        result = surroundings(["adaptthink", "torch"]) | {"page": name, "blocks": printed}
        print(write_result(f"tutorial-{Path(name).stem.replace('_', '-')}", result), flush=True)


if __name__ == "__main__":
    main()
