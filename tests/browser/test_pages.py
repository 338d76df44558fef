"""The reports in a real browser: on a phone, in the dark, on paper, and what can be downloaded from them.

Needs playwright and a Chromium (scripts/setup_browser.sh brings both); without them these tests skip.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from browsing import DESK, FAINT_TEXT, PHONE, TOO_WIDE, api, chromium
from PIL import Image
from report_folders import ACCURACY, BINS, DIAL, TOKENS, make_evaluation, make_run
from waiting import WAIT_SECONDS

from adaptthink.report import write_report

PAGES = ("run", "one", "several", "bare")
CLICKS, CLICK_SECONDS = 7, 12  # twice as long each time, 25 minutes together


@pytest.fixture(scope="module")  # playwright's event loop runs meanwhile: other modules' tests have loops of their own
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A training run's page, an evaluation's, that of several models with long names, and one without extras."""
    root = tmp_path_factory.mktemp("pages")
    one, bare = make_evaluation(root / "one"), make_evaluation(root / "bare", extras=False)
    long = make_evaluation(root / f"a-model-{'with-a-very-long-name' * 3}", temperature=1.0)
    folders = {"run": [make_run(root / "run")], "one": [one], "several": [one, long, bare], "bare": [bare]}
    return {name: write_report(*given, output=root / "reports" / name)[0] for name, given in folders.items()}


@pytest.fixture
def show(browser, pages):
    """Open a report; the page must neither complain on its console nor ask for anything but itself."""
    opened = []
    complaints: list[str] = []

    def open_page(name: str, viewport: dict[str, int] = DESK, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True)
        context.set_default_timeout(WAIT_SECONDS * 1000)
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(pages[name].as_uri())
        assert complaints.pop(0) == pages[name].as_uri()
        return page

    yield open_page
    for context in opened:
        context.close()
    assert [one for one in complaints if not one.startswith("data:")] == []


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out_on_a_phone(show, name):
    page = show(name, PHONE)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate(TOO_WIDE) == []


def test_the_width_check_can_fail(show):
    page = show("one", PHONE)
    page.evaluate("document.querySelector('h1').style.width = '400px'")
    assert page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]
    assert any(line.startswith("H1") for line in page.evaluate(TOO_WIDE))


def test_a_thought_unfolds_and_folds(show):
    page = show("one", PHONE)
    thinking = page.locator("details.thought").first
    text = thinking.locator("pre")
    assert not text.is_visible()
    thinking.locator("summary").click()
    assert text.is_visible()
    assert "<script>" in text.inner_text()  # hostile thinking, shown as text
    thinking.locator("summary").click()
    assert not text.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_can_be_read(show, name, scheme):
    page = show(name, scheme=scheme)
    unfold(page)
    found = page.evaluate(FAINT_TEXT)
    assert found["faint"] == []
    assert found["count"] > 200


def test_the_contrast_check_can_fail(show):
    page = show("one")
    page.evaluate("document.querySelector('h1').style.color = '#888'")  # 3.5 on white
    (faint,) = page.evaluate(FAINT_TEXT)["faint"]
    assert faint.startswith("Evaluation: one: 3.5")


def test_the_dark_has_a_dark_ground_and_paper_never_has(show):
    def ground(page: Any) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = show("one"), show("one", scheme="dark")
    assert ground(light) == "rgb(255, 255, 255)"
    red, green, blue = map(int, re.findall(r"\d+", ground(dark)))
    assert max(red, green, blue) < 40
    line = "getComputedStyle(document.querySelector('figure svg text')).fill"
    assert light.evaluate(line) != dark.evaluate(line)
    dark.emulate_media(media="print", color_scheme="dark")
    assert ground(dark) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("name", PAGES)
def test_paper_unfolds_everything_and_shows_no_links(show, name):
    page = show(name)
    shown = "(query) => [...document.querySelectorAll(query)].map(one => one.checkVisibility())"
    assert all(page.evaluate(shown, ".files"))
    assert not any(page.evaluate(shown, "details.thought pre"))
    page.emulate_media(media="print")
    assert not any(page.evaluate(shown, ".files"))
    thinkings = page.evaluate(shown, "details.thought pre")
    assert len(thinkings) >= 10
    assert all(thinkings)


def test_where_the_style_sheet_cannot_unfold_the_script_does_and_folds_again(show):
    page = show("several")
    count = "document.querySelectorAll('details[open]').length"
    page.locator("details").first.locator("summary").first.click()
    assert page.evaluate(count) == 1
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(count) == page.locator("details").count()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(count) == 1


def test_it_prints(show):
    page = show("one")
    sheets = page.pdf(prefer_css_page_size=True)
    assert sheets.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", sheets)) >= 2
    assert re.search(rb"/MediaBox\s*\[\s*0 0 59[45][.\d]* 84[12]", sheets)  # A4


# ---- downloads ------------------------------------------------------------------------------------------------------


def download(page: Any, name: str) -> bytes:
    """Click on a link and return the file that the browser saves.

    Now and then headless Chromium drops one of many downloads in a row without a word: a click is repeated, as a
    person would.
    """
    for left in reversed(range(CLICKS)):
        try:
            with page.expect_download(timeout=CLICK_SECONDS * 1000 * 2 ** (CLICKS - 1 - left)) as started:
                page.locator(f"a[download='{name}']").click()
            break
        except api.TimeoutError:
            if not left:
                raise
    assert started.value.suggested_filename == name
    return Path(started.value.path()).read_bytes()


def numbers(page: Any, figure: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(download(page, f"{figure}.csv").decode())))


def value(text: str) -> float | None:
    return float(text) if text else None


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_downloads_in_three_forms(show, name):
    page = show(name)
    figures = page.locator("figure").count()
    assert figures == {"run": 14, "one": 5, "several": 5, "bare": 4}[name]
    links = page.evaluate("[...document.querySelectorAll('figure a[download]')].map(one => [one.download, one.title])")
    assert len(links) == 3 * figures
    for file, title in links:
        content = download(page, file)
        if file.endswith(".csv"):
            header, *rows = csv.reader(io.StringIO(content.decode()))
            assert rows
            assert {len(row) for row in rows} == {len(header)}
            assert any(re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell) for cell in rows[0])
        elif file.endswith(".svg"):
            root = ElementTree.fromstring(content)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert b"var(" not in content
            assert not [one for one in root.iter() if "script" in one.tag or one.tag.endswith("}image")]
            links_inside = [one.get("{http://www.w3.org/1999/xlink}href", "#") for one in root.iter()]
            assert all(link.startswith("#") for link in links_inside)
        else:
            image = Image.open(io.BytesIO(content))
            image.load()
            assert f"{image.width} × {image.height} pixels" in title
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            assert image.width in {int(320 / 72 * 300), int(360 / 72 * 300)}  # points, as on the page
            assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_svg_and_png_have_the_same_size(show):
    page = show("one", scheme="dark")
    for figure in ("accuracy-and-tokens", "reliability"):
        svg, png = (download(page, f"{figure}.{ending}") for ending in ("svg", "png"))
        image = Image.open(io.BytesIO(png))
        width, height = (
            float(ElementTree.fromstring(svg).get(side).removesuffix("pt")) for side in ("width", "height")
        )
        assert (image.width, image.height) == (int(width / 72 * 300), int(height / 72 * 300))


@pytest.mark.parametrize("name", ["one", "run"])
def test_bars_are_as_high_as_their_numbers(show, name):
    page = show(name)
    rows = numbers(page, "tokens-by-level")
    by_row = {
        "one": {"auto": "adaptthink", "think": "original_think", "no_think": "original_no_think"},
        "run": {
            "Original, Thinking": "original_think", "Original, NoThinking": "original_no_think",
            "AdaptThink": "adaptthink",
        },
    }[name]  # fmt: skip
    assert len(rows) == 15
    for row in rows:
        expected = TOKENS[by_row[row["row"]]][int(row["level"]) - 1]
        written = [value(row[column]) for column in ("mean_tokens", "low", "high")]
        assert written == pytest.approx([expected, 0.9 * expected, 1.2 * expected])
    colours = {"adaptthink": "adapt", "original_think": "think", "original_no_think": "no-think"}
    heights = page.evaluate(
        """() => [...document.querySelectorAll("figure svg[aria-label='Mean tokens'] path")]
          .filter(one => /^fill: var/.test(one.getAttribute("style")))
          .map(one => [one.getAttribute("style").match(/--([\\w-]+)/)[1], one.getBBox().height])"""
    )
    for shown, mode in by_row.items():
        drawn = [height for colour, height in heights if colour == colours[mode]]
        given = [float(row["mean_tokens"]) for row in rows if row["row"] == shown]
        assert drawn == pytest.approx([drawn[-1] * one / given[-1] for one in given], rel=1e-4)


def test_points_and_the_dial_are_the_files_numbers(show):
    rows = numbers(show("one"), "accuracy-and-tokens")
    modes = {row["name"]: row for row in rows if row["kind"] == "mode"}
    assert list(modes) == ["auto", "think", "no_think"]
    assert float(modes["auto"]["accuracy_percent"]) == pytest.approx(100 * sum(ACCURACY["adaptthink"]) / 5)
    assert float(modes["think"]["mean_tokens"]) == pytest.approx(sum(TOKENS["original_think"]) / 5)
    dial = [row for row in rows if row["kind"] == "dial"]
    written = [[float(row[key]) for key in ("threshold", "accuracy_percent", "mean_tokens")] for row in dial]
    assert written == [pytest.approx([threshold, 100 * accuracy, tokens]) for threshold, _, accuracy, tokens in DIAL]


def test_reliability_is_the_files_numbers(show):
    rows = numbers(show("one"), "reliability")
    written = [[float(row[key]) for key in ("probability_percent", "pays_percent", "num_problems")] for row in rows]
    assert written == [pytest.approx([100 * at, 100 * pays, count]) for at, pays, count in BINS]
