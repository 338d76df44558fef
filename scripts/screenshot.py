#!/usr/bin/env python3
"""Photograph a page in Chromium. Usage: .venv/bin/python scripts/screenshot.py PAGE.html PICTURE.png [WIDTH HEIGHT]

The default size is that of docs/assets/demo-report.png. Needs scripts/setup_browser.sh.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

INSTALLED = ("chromium", "chromium-browser", "google-chrome")


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """Write the upper `height` pixels of a page that is `width` pixels wide, in light colours."""
    with sync_playwright() as playwright:
        # what the system has, else the browser that playwright brings
        found = next(filter(None, map(shutil.which, INSTALLED)), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--hide-scrollbars"])
        view = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        view.goto(page.resolve().as_uri())
        view.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 5) or not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    size = [int(side) for side in sys.argv[3:]] or [1240, 1360]
    photograph(Path(sys.argv[1]), Path(sys.argv[2]), *size)
