"""The documentation site in a real browser, from a folder: phone and desk, light and dark, and its search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import DESK, FAINT_TEXT, PHONE, chromium
from waiting import WAIT_SECONDS

SITE = Path(__file__).resolve().parents[2] / "build" / "site"
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="no site is built: make docs")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser):
    """Open a page of the site; it must neither complain nor ask for anything that is not in its folder."""
    complaints: list[str] = []
    contexts = []

    def open_page(name: str, viewport: dict[str, int] = DESK, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        context.set_default_timeout(WAIT_SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto((SITE / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    foreign = [one for one in complaints if not one.startswith((SITE.as_uri(), "data:", "about:srcdoc"))]
    assert foreign == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_pages_fit_and_can_be_read(show, viewport, scheme):
    page = show("index.html", viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    seen = page.evaluate(FAINT_TEXT.replace("document.body", "document.querySelector('article')"))
    assert seen["count"] > 50
    assert seen["faint"] == []
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (lightness > 128) == (scheme == "light")


def test_the_search_works_without_a_server(show):
    page = show("index.html")
    page.locator(".md-search__button").first.click()
    page.locator("input:focus").wait_for()
    page.keyboard.type("second look", delay=20)
    page.get_by_role("option", name="A second look").first.wait_for()
