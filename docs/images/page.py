"""Take the pictures of the page: `python docs/images/page.py http://127.0.0.1:8080`.

It writes page.png and page-phone.png from a running `kshot serve --http` with `drawings`. With
`--all FOLDER` it writes every width, theme, count of classes and kind of picture there instead, to
look at after a change of the page; that takes `photos` too.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import skimage
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser, FilePayload, Locator, Page, ViewportSize, sync_playwright
from sklearn.datasets import load_sample_image

CHROMIUM = "/usr/bin/chromium"
DESKTOP, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=360, height=780)
MOST_SECONDS = 120
SHOTS = 4
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("horse", "hubble_deep_field", "moon", "motorcycle_left", "page", "phantom", "retina"),
    *("rocket", "text", "china", "flower"),
)


def drawings(way: int) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yield letters and a few drawings of each."""
    path = font_manager.findfont("DejaVu Sans")
    random = np.random.default_rng(1)
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:way]:
        pictures = []
        for _ in range(SHOTS):
            picture = Image.new("L", (200, 200), 255)
            font = ImageFont.truetype(path, int(random.integers(100, 140)))
            ImageDraw.Draw(picture).text((100, 100), letter, 0, font, anchor="mm")
            pictures.append(picture.rotate(float(random.normal(0, 8)), fillcolor=255))
        yield letter, pictures


def photographs(way: int) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yield names of photographs and a few parts of each."""
    folder = Path(skimage.__file__).with_name("data")
    random = np.random.default_rng(1)
    for name in PHOTOGRAPHS[:way]:
        found = next(folder.glob(f"{name}.*"), None)
        whole = Image.open(found) if found else Image.fromarray(load_sample_image(f"{name}.jpg"))
        whole = whole.convert("RGB")
        pictures = []
        for _ in range(SHOTS):
            wide, tall = (int(length * random.uniform(0.6, 0.9)) for length in whole.size)
            left, top = (
                random.integers(0, whole.width - wide),
                random.integers(0, whole.height - tall),
            )
            pictures.append(whole.crop((int(left), int(top), int(left) + wide, int(top) + tall)))
        yield name.replace("_", " "), pictures


def files_of(pictures: Sequence[Image.Image]) -> list[FilePayload]:
    """Return pictures as the browser takes them."""
    files = []
    for number, picture in enumerate(pictures):
        content = io.BytesIO()
        picture.save(content, "PNG")
        name = f"{number}.png"
        files.append(FilePayload(name=name, mimeType="image/png", buffer=content.getvalue()))
    return files


def opened(browser: Browser, address: str, size: ViewportSize, theme: str) -> Page:
    """Open the page as somebody new sees it."""
    context = browser.new_context(
        viewport=size,
        reduced_motion="reduce",
        color_scheme="dark" if theme == "dark" else "light",
        has_touch=size == PHONE,
    )
    page = context.new_page()
    page.set_default_timeout(1e3 * MOST_SECONDS)
    page.goto(address)
    return page


def give(page: Page, classes: Sequence[tuple[str, list[Image.Image]]]) -> None:
    """Name the classes, give their pictures, and ask about the last one."""
    for number, (name, pictures) in enumerate(classes):
        if number >= page.locator(".class").count():
            page.locator("#add-class").click()
        card = page.locator(".class").nth(number)
        card.get_by_label("Name of the class").fill(name)
        choose(page, card.get_by_role("button", name="Pictures"), pictures[1:])
        card.locator(".thumbs li").nth(len(pictures) - 2).wait_for()
    choose(page, page.locator("#query-file"), classes[-1][1][:1])
    page.locator("#answer .verdict").wait_for()
    adapted(page)


def choose(page: Page, button: Locator, pictures: Sequence[Image.Image]) -> None:
    """Choose files with a button."""
    with page.expect_file_chooser() as choosing:
        button.click()
    choosing.value.set_files(files_of(pictures))


def adapted(page: Page) -> None:
    """Wait until the newest examples have been adapted to, and answered with."""
    page.locator("#status").filter(has_text="adapted in").wait_for()
    page.wait_for_load_state("networkidle")


def draw_ring(page: Page) -> None:
    """Draw a ring on the pad of the question."""
    pad = page.locator("#query-pad")
    pad.scroll_into_view_if_needed()
    x, y, radius = pad.evaluate(
        """(pad) => {
            const box = pad.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2, box.height / 3];
        }"""
    )
    for step in range(65):
        angle = step * math.pi / 32
        page.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
        if step == 0:
            page.mouse.down()
    page.mouse.up()
    page.locator("#answer .verdict").filter(has_text="Ring").wait_for()


def take_published(browser: Browser, address: str, folder: Path) -> None:
    """Write the two pictures of README and docs: three shapes, and a ring asked about."""
    for size, name in ((DESKTOP, "page"), (PHONE, "page-phone")):
        page = opened(browser, address, size, "light")
        page.locator("#sample").click()
        adapted(page)
        draw_ring(page)
        adapted(page)
        taken = Image.open(io.BytesIO(page.screenshot()))
        taken.quantize().save(folder / f"{name}.png", optimize=True)
        page.context.close()


def take_all(browser: Browser, address: str, folder: Path) -> None:
    """Write whole pages in every form."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"desktop": DESKTOP, "phone": PHONE}
    kinds = {"drawings": drawings, "photographs": photographs}
    for (size, viewport), way, kind in itertools.product(sizes.items(), (2, 20), kinds):
        page = opened(browser, address, viewport, "light")
        give(page, list(kinds[kind](way)))
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            page.screenshot(path=folder / f"{size}-{way}-{kind}-{theme}.png", full_page=True)
        page.context.close()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="of a running page, such as http://127.0.0.1:8080")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="write every form there")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        if arguments.all is None:
            take_published(browser, arguments.address, Path(__file__).parent)
        else:
            take_all(browser, arguments.address, arguments.all)
        browser.close()


if __name__ == "__main__":
    main()
