"""A real browser for tests, and what one does in the page of `kshot serve --http`."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from playwright.sync_api import (
    Browser,
    FilePayload,
    JSHandle,
    Locator,
    Page,
    expect,
    sync_playwright,
)

CHROMIUM = "/usr/bin/chromium"
MOST_SECONDS = 60
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--use-fake-device-for-media-stream",
)

# Its own default is five seconds, whatever that of a page is.
expect.set_options(timeout=1e3 * MOST_SECONDS)

needs_chromium = pytest.mark.skipif(
    os.environ.get("KSHOT_TEST_CHROMIUM") != "1" and shutil.which(CHROMIUM) is None,
    reason=f"no {CHROMIUM}",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium, with a camera that shows a moving pattern."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def draw(page: Page, pad: str, shape: str) -> None:
    """Draw a ring or a cross on a pad."""
    page.locator(pad).scroll_into_view_if_needed()
    box = page.locator(pad).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    size = box["height"] / 4
    ring = [(math.cos(step * math.pi / 4), math.sin(step * math.pi / 4)) for step in range(9)]
    strokes = (
        [ring] if shape == "ring" else [[(-1.0, -1.0), (1.0, 1.0)], [(1.0, -1.0), (-1.0, 1.0)]]
    )
    for first, *rest in strokes:
        page.mouse.move(x + size * first[0], y + size * first[1])
        page.mouse.down()
        for right, down in rest:
            page.mouse.move(x + size * right, y + size * down)
        page.mouse.up()


def wait_for(page: Page, selector: str, text: str) -> None:
    """Wait until an element has a text in it; look often, as `expect` does each second only."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)",
        arg=[selector, text],
        polling=50,
    )


def choose(page: Page, button: Locator, *files: FilePayload) -> None:
    """Choose files with a button."""
    with page.expect_file_chooser() as choosing:
        button.click()
    choosing.value.set_files(list(files))


def drop(page: Page, target: Locator, contents: Mapping[str, str]) -> None:
    """Drop files of text, by their names."""
    moved: JSHandle = page.evaluate_handle(
        """(contents) => Object.entries(contents).reduce((moved, [name, text]) => {
            moved.items.add(new File([text], name, { type: "text/plain" }));
            return moved;
        }, new DataTransfer())""",
        dict(contents),
    )
    target.dispatch_event("drop", {"dataTransfer": moved})


def contrast(one: str, other: str) -> float:
    """Return the ratio of two colours' luminance, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        shares = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
