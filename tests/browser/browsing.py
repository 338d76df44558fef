"""A real Chromium for tests, and what a page is checked for in it; without playwright and a browser its tests skip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: scripts/setup_browser.sh")

INSTALLED = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 900}

# Every visible piece of text with less contrast than 4.5 to what lies behind it (WCAG 2.2, success criterion 1.4.3).
FAINT_TEXT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b]
    .map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  let count = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    if (!text || element.closest("script") || !element.checkVisibility()) continue;
    count += 1;
    const style = getComputedStyle(element);
    const [a, b] = [rgba(element.closest("svg") ? style.fill : style.color), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return {faint, count};
}"""

# What sticks out of the page to the right and cannot be scrolled within a box of its own.
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter(one => !one.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 0.5)
  .map(one => `${one.tagName} ${one.className.baseVal ?? one.className}: ${one.textContent.slice(0, 40)}`)"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser: what the system has, else the one that playwright brings."""
    with api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, INSTALLED)), None)
        try:
            started = playwright.chromium.launch(executable_path=found)
        except api.Error as error:
            pytest.skip(f"no browser could be started: {str(error).splitlines()[0]}; scripts/setup_browser.sh")
        yield started
        started.close()
