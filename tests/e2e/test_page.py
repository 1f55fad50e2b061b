"""The page in a browser, beside a real server."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, Route, expect, sync_playwright

from kshot.client import Client

CHROMIUM = "/usr/bin/chromium"
REQUIRED = os.environ.get("KSHOT_TEST_CHROMIUM") == "1"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MOST_SECONDS = 60

# Its own default is five seconds, whatever that of a page is.
expect.set_options(timeout=1e3 * MOST_SECONDS)

pytestmark = pytest.mark.skipif(
    not REQUIRED and shutil.which(CHROMIUM) is None, reason=f"no {CHROMIUM}"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The ready event of a server with a page."""
    store = tmp_path_factory.mktemp("page") / "store"
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "kshot", "serve", "--bundle", "drawings"),
            *("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", str(store)),
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"KSHOT_ENGINES": "1"},
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, served: dict[str, str]) -> Iterator[Page]:
    """The page of somebody new; whatever its console complains of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(1e3 * MOST_SECONDS)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"http://{served['http']}/")
    yield page
    context.close()
    # The browser itself logs answers that are errors; tests look at what the page makes of them.
    assert [line for line in said if "Failed to load resource" not in line] == []


def draw(page: Page, pad: str, shape: str) -> None:
    """Draw a ring or a cross on a pad."""
    box = page.locator(pad).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    size = box["height"] / 4
    ring = [(math.cos(step * math.pi / 8), math.sin(step * math.pi / 8)) for step in range(17)]
    strokes = (
        [ring] if shape == "ring" else [[(-1.0, -1.0), (1.0, 1.0)], [(1.0, -1.0), (-1.0, 1.0)]]
    )
    for first, *rest in strokes:
        page.mouse.move(x + size * first[0], y + size * first[1])
        page.mouse.down()
        for right, down in rest:
            page.mouse.move(x + size * right, y + size * down)
        page.mouse.up()


def add_drawing(page: Page, number: int, shape: str) -> None:
    card = f".class:nth-child({number})"
    draw(page, f"{card} .pad", shape)
    page.locator(card).get_by_role("button", name="Add drawing").click()


def ready(page: Page) -> None:
    expect(page.locator("#status")).to_contain_text("adapted in", timeout=1e3 * MOST_SECONDS)


def wait_for_answer(page: Page, text: str) -> None:
    expect(page.locator("#answer .verdict")).to_have_text(text, timeout=1e3 * MOST_SECONDS)


def test_one_draws_adapts_and_asks(page: Page, served: dict[str, str]) -> None:
    expect(page.locator("#status")).to_contain_text("two classes or more")
    page.get_by_label("Name of the class").first.fill("ring")
    page.get_by_label("Name of the class").nth(1).fill("cross")
    for _ in range(2):
        add_drawing(page, 1, "ring")
    expect(page.locator("#status")).to_contain_text("two classes or more")
    for _ in range(2):
        add_drawing(page, 2, "cross")
    ready(page)

    draw(page, "#query-pad", "ring")
    wait_for_answer(page, "ring")
    page.locator("#query-clear").click()
    draw(page, "#query-pad", "cross")
    wait_for_answer(page, "cross")

    expect(page.locator("#answer .took")).to_contain_text(re.compile(r"Round trip \d+ ms"))
    expect(page.locator(".class .notes").first).to_contain_text("the same as")
    model_id = page.locator("#model-id").text_content()
    with Client(served["grpc"]) as client:
        assert client.get(str(model_id)).class_names == ("ring", "cross")
    page.locator("#use summary").click()
    expect(page.locator("#snippets")).to_contain_text(f'Client("{served["grpc"]}")')
    with page.expect_download() as downloading:
        page.locator("#download").click()
    assert downloading.value.suggested_filename == f"{model_id}.onnx"
    assert Path(downloading.value.path()).stat().st_size > 10_000


def test_one_example_of_each_class_suffices(page: Page) -> None:
    add_drawing(page, 1, "ring")
    add_drawing(page, 2, "cross")
    ready(page)

    draw(page, "#query-pad", "cross")

    wait_for_answer(page, "Class 2")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#report")).to_contain_text("two examples")


def test_what_looks_like_no_class_is_none_of_these(page: Page) -> None:
    asked: list[float | None] = []

    def note(route: Route) -> None:
        body = route.request.post_data_json
        asked.append(body.get("reject_below"))
        response = route.fetch()
        answer = response.json()
        answer["predictions"][0]["none_of_these"] = "reject_below" in body
        route.fulfill(response=response, json=answer)

    page.locator("#sample").click()
    ready(page)
    page.route("**:predict", note)
    draw(page, "#query-pad", "ring")
    wait_for_answer(page, "None of these")

    page.locator("#reject").uncheck()

    wait_for_answer(page, "Ring")
    assert asked[0] == pytest.approx(0.05)
    assert asked[-1] is None


def test_a_model_that_is_replaced_or_deleted_is_gone(page: Page, served: dict[str, str]) -> None:
    page.locator("#sample").click()
    ready(page)
    first = str(page.locator("#model-id").text_content())
    page.locator(".thumbs button").first.click()
    page.get_by_role("menuitem", name="Remove").click()
    expect(page.locator("#model-id")).not_to_have_text(first)
    expect(page.locator(".count").first).to_have_text("3 examples")
    second = str(page.locator("#model-id").text_content())

    page.locator("#use summary").click()
    page.locator("#delete").click()

    expect(page.locator("#status")).to_contain_text("Deleted")
    with Client(served["grpc"]) as client:
        page.wait_for_timeout(200)  # the page does not wait for the server's word
        kept = {adapted.id for adapted in client.list()}
    assert not {first, second} & kept


def test_what_is_removed_comes_back(page: Page) -> None:
    page.locator("#sample").click()
    expect(page.locator(".count").first).to_have_text("4 examples")
    expect(page.locator("#undo")).to_be_hidden()  # nothing was lost
    page.locator(".thumbs button").first.click()
    page.get_by_role("menuitem", name="Remove").click()
    expect(page.locator(".count").first).to_have_text("3 examples")
    page.locator("#undo").get_by_role("button", name="Undo").click()
    expect(page.locator(".count").first).to_have_text("4 examples")

    page.locator("#clear").click()
    expect(page.locator(".count").first).to_have_text("0 examples")
    page.locator("#undo").get_by_role("button", name="Undo").click()

    expect(page.locator(".count")).to_have_text(["4 examples"] * 3)
    expect(page.locator("#undo")).to_be_hidden()


def test_work_that_the_browser_does_not_keep_is_told_of(page: Page) -> None:
    """As with a full disk or in some private windows."""
    page.evaluate(
        """() => (IDBObjectStore.prototype.put = () => {
            throw new DOMException("full", "QuotaExceededError");
        })"""
    )

    page.locator("#add-class").click()

    expect(page.locator("#unkept")).to_contain_text("does not keep your work")


def test_a_pad_takes_strokes_back(page: Page) -> None:
    card = page.locator(".class").first
    add = card.get_by_role("button", name="Add drawing")
    for take_back in ("Undo", "Clear"):
        draw(page, ".class:nth-child(1) .pad", "ring")
        expect(add).to_be_enabled()
        card.get_by_role("button", name=take_back).click()
        expect(add).to_be_disabled()
    draw(page, ".class:nth-child(1) .pad", "ring")
    card.locator(".pad").focus()
    page.keyboard.press("Enter")

    expect(card.locator(".count")).to_have_text("1 example")
    expect(add).to_be_disabled()


def test_examples_move_by_keyboard_and_work_outlives_a_reload(page: Page) -> None:
    page.locator("#sample").click()
    ready(page)
    page.locator(".thumbs button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Move to Cross")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".count").nth(2)).to_have_text("5 examples")
    expect(page.locator(".notes").nth(2)).to_contain_text("looks like “Ring”")

    page.reload()

    expect(page.locator(".count").nth(2)).to_have_text("5 examples")
    ready(page)


def test_the_accuracy_over_steps_is_measured(page: Page) -> None:
    page.locator("#sample").click()
    ready(page)

    page.locator("#sweep").click()

    expect(page.locator("#steps-chart svg")).to_have_attribute(
        "aria-label", re.compile(r"Accuracy by left-out examples .* best: \d+ % at \d+ steps")
    )
    page.locator("#settings summary").click()
    page.locator("#steps").fill("5")
    page.locator("#steps").press("Enter")
    expect(page.locator("#status")).to_contain_text("5 steps")
    expect(page.locator("#loss-chart svg")).to_have_attribute(
        "aria-label", re.compile("Loss falls from .* in 5 steps")
    )
    page.locator("#steps").fill("100000")
    page.locator("#steps").press("Enter")
    expect(page.locator("#banner")).to_contain_text("options.step_count: expected")


def test_what_is_no_picture_is_named_and_nothing_is_lost(page: Page) -> None:
    page.locator("#sample").click()
    ready(page)
    large = io.BytesIO()
    Image.new("L", (8000, 6000), 255).save(large, "PNG")  # 48 megapixels
    files = [
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a picture"},
        {"name": "photo.heic", "mimeType": "image/heic", "buffer": b"\0\0\0\x18ftypheic"},
    ]
    for file in files:
        with page.expect_file_chooser() as choosing:
            page.locator(".class").first.get_by_role("button", name="Pictures").click()
        choosing.value.set_files(file)  # type: ignore[arg-type]  # as the library documents it
        name = str(file["name"])
        expect(page.locator("#banner")).to_contain_text(f"{name}: this is not a picture")
    expect(page.locator(".count").first).to_have_text("4 examples")

    with page.expect_file_chooser() as choosing:
        page.locator(".class").first.get_by_role("button", name="Pictures").click()
    picture = {"name": "large.png", "mimeType": "image/png", "buffer": large.getvalue()}
    choosing.value.set_files(picture)  # type: ignore[arg-type]  # as the library documents it

    expect(page.locator(".count").first).to_have_text("5 examples")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator(".notes").first).to_contain_text("is blank")
    size = page.evaluate(
        """() => [...document.querySelectorAll(".class:first-child .thumbs img")]
        .map((image) => [image.naturalWidth, image.naturalHeight]).at(-1)"""
    )
    assert size == [1365, 1024]  # the shorter side that `drawings` uses


def test_a_server_that_is_gone_is_waited_for(page: Page) -> None:
    page.locator("#sample").click()
    ready(page)
    page.route("**/v1/**", lambda route: route.abort())
    page.locator(".class").first.get_by_label("Name of the class").fill("hoop")
    expect(page.locator("#banner")).to_have_text("The server does not answer.")
    expect(page.locator("#status")).to_have_text("Trying again soon…")

    page.unroute("**/v1/**")

    ready(page)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator(".count").first).to_have_text("4 examples")
    draw(page, "#query-pad", "ring")
    wait_for_answer(page, "hoop")


def test_names_are_text_wherever_they_are_shown(page: Page) -> None:
    """Else whoever gives somebody examples runs scripts with the key of the page."""
    name, asked = "<img src=x onerror=alert(1)>", list[str]()

    def note(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    page.locator("#sample").click()
    ready(page)
    page.get_by_label("Name of the class").first.fill(name)
    draw(page, "#query-pad", "ring")

    wait_for_answer(page, name)
    page.locator(".class:nth-child(2) .thumbs button").first.click()
    expect(page.locator("#menu")).to_contain_text(f"Move to {name}")
    assert page.locator('img[src="x"]').count() == 0
    assert asked == []


def test_a_server_with_keys_is_given_one(page: Page) -> None:
    """A wrong key is asked for again."""
    sent: list[str | None] = []

    def guard(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer right":
            route.continue_()
        else:
            error = {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "unknown key"}}
            route.fulfill(status=401, content_type="application/json", body=json.dumps(error))

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.locator("#key")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#banner")).to_contain_text("answers only with a key")
    page.get_by_role("button", name="Give a key").click()
    page.get_by_role("button", name="Use it").click()
    for key, why in (
        ("\u043a\u043b\u044e\u0447", "unknown key"),
        ("wrong", "That is no key"),
        ("right", "unknown key"),
    ):
        expect(page.locator("#key")).to_be_visible()
        expect(page.locator("#key-problem")).to_contain_text(why)
        page.locator("#key-text").fill(key)
        page.get_by_role("button", name="Use it").click()

    page.locator("#sample").click()
    ready(page)
    assert "Bearer wrong" in sent
    assert sent[-1] == "Bearer right"


def test_it_fits_its_window_and_every_control_has_a_name(page: Page) -> None:
    page.locator("#sample").click()
    ready(page)
    for summary in page.locator("summary").all():
        summary.click()
    for width in (360, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    question, report = (page.locator(name).bounding_box() for name in (".question", ".report"))
    assert question is not None
    assert report is not None
    assert question["y"] + question["height"] <= report["y"]  # neither covers the other
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), select, canvas")]
        .filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.length))
        .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    for theme in ("dark", "light"):
        if page.evaluate("document.documentElement.dataset.theme") != theme:
            page.locator("#theme").click()
        colours = page.evaluate(
            """() => [".hint", ".count", "figcaption", "#status"].map((name) => {
            const each = document.querySelector(name);
            let behind = each;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
                behind = behind.parentElement;
            return [getComputedStyle(each).color, getComputedStyle(behind).backgroundColor];
        })"""
        )
        for text, background in colours:
            assert contrast(text, background) >= 4.5, (theme, text, background)


def contrast(one: str, other: str) -> float:
    """Return the ratio of two colours' luminance, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        shares = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
