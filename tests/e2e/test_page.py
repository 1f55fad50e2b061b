"""The page in a browser, beside a real server."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, FilePayload, Page, Route, ViewportSize, expect

from kshot.client import Client
from kshot.server.access.access_file import AccessFile, change_access
from kshot.server.access.key import Role, new_key
from tests.e2e.chromium import choose, chromium, contrast, draw, drop, needs_chromium, wait_for
from tests.server.front.secured import WRONG

pytestmark = needs_chromium


@dataclass(frozen=True)
class Starting:
    """A server with a page that starts, and the key that it wants."""

    process: subprocess.Popen[bytes]
    key: str


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starting]:
    folder = tmp_path_factory.mktemp("page")
    key, text = new_key("acme", Role.USER, None, datetime.now(UTC))
    change_access(folder / "access.json", lambda _: AccessFile(keys=(key,)), create=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "kshot", "serve", "--bundle", "drawings"),
            *("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", folder / "store"),
            *("--access", folder / "access.json"),
        ],
        stdout=subprocess.PIPE,
        # Without a compiler no step is compiled beside the tests.
        env=os.environ | {"KSHOT_ENGINES": "1", "OMP_NUM_THREADS": "1", "PATH": str(folder)},
    )
    assert process.stdout is not None
    try:
        yield Starting(process, text)
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


@dataclass(frozen=True)
class Served:
    """The addresses of a server with a page, and its key."""

    grpc: str
    http: str
    key: str

    def client(self) -> Client:
        return Client(self.grpc, api_key=self.key)


@pytest.fixture(scope="module")
def served(starting: Starting) -> Served:
    assert starting.process.stdout is not None
    ready = json.loads(starting.process.stdout.readline())
    return Served(ready["grpc"], ready["http"], starting.key)


@dataclass(frozen=True)
class Tab:
    """A tab of the browser, and what its console says; a new one would cost a process."""

    page: Page
    said: list[str]

    @classmethod
    def open(cls, browser: Browser, key: str) -> Tab:
        size = ViewportSize(width=1000, height=720)
        page = browser.new_context(viewport=size, reduced_motion="reduce").new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(f"sessionStorage['kshot-key'] ??= '{key}'")
        tab = cls(page, [])
        page.on("console", lambda message: tab.said.append(message.text))
        page.on("pageerror", lambda error: tab.said.append(str(error)))
        return tab

    def forget(self) -> None:
        """Lose all that a test left."""
        self.page.context.set_offline(False)
        self.page.context.clear_permissions()
        self.page.unroute_all()
        self.page.evaluate(
            """() => new Promise((resolve, reject) => {
                sessionStorage.clear();
                localStorage.clear();
                const forgetting = indexedDB.deleteDatabase("kshot");
                Object.assign(forgetting, { onsuccess: resolve, onerror: reject });
            })"""
        )
        self.said.clear()


@pytest.fixture(scope="module")
def tab(starting: Starting) -> Iterator[Tab]:
    """Start the browser while the server starts."""
    with chromium() as browser:
        yield Tab.open(browser, starting.key)


@pytest.fixture
def page(tab: Tab, served: Served) -> Iterator[Page]:
    """The page of somebody new with a key; whatever its console complains of fails the test."""
    tab.page.goto(f"http://{served.http}/", wait_until="commit")
    yield tab.page
    # The browser itself logs answers that are errors; tests look at what the page makes of them.
    said = [line for line in tab.said if "Failed to load resource" not in line]
    tab.forget()
    assert said == []


# 16 x 16 white pixels, saved by pillow-heif 1.8.1.
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAACIAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAAD"
    "AIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAEAAAAAEA"
    "AAAQAAAAAf///9AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAKm1k"
    "YXQAAAAeKAGvBBISTOD4BE5fbugwVQEgrOi0dKHIlxCTu2rA"
)

GRPCURL = r"""#!/bin/sh
# grpcurl -plaintext -d @ -expand-headers -H HEADER ADDRESS METHOD
test "$1 $2 $3 $4 $5" = "-plaintext -d @ -expand-headers -H" || exit 2
header=$(echo "$6" | sed "s/\${KSHOT_API_KEY}/$KSHOT_API_KEY/")
exec buf curl --protocol grpc --http2-prior-knowledge --header "$header" --reflect-header "*" \
    --data @- "http://$7/$8"
"""


def add_drawing(page: Page, number: int, shape: str) -> None:
    card = f".class:nth-child({number})"
    draw(page, f"{card} .pad", shape)
    page.locator(card).get_by_role("button", name="Add drawing").click()


def ready(page: Page) -> None:
    wait_for(page, "#status", "adapted in")


def sample(page: Page) -> None:
    """Take four drawings of each of three shapes, and wait for their model."""
    page.locator("#sample").click()
    ready(page)


def wait_for_answer(page: Page, text: str) -> None:
    wait_for(page, "#answer .verdict", text)


def test_one_draws_adapts_and_asks(page: Page, served: Served) -> None:
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

    expect(page.locator("#answer .took")).to_contain_text(re.compile(r"Round trip \d+\sms"))
    expect(page.locator(".class .notes").first).to_contain_text("the same as")
    model_id = page.locator("#model-id").text_content()
    with served.client() as client:
        assert client.get(str(model_id)).class_names == ("ring", "cross")
    page.locator("#use summary").click()
    with page.expect_download() as downloading:
        page.locator("#download").click()
    assert downloading.value.suggested_filename == f"{model_id}.onnx"
    assert Path(downloading.value.path()).stat().st_size > 10_000
    spoken = page.locator("#status").text_content() or ""
    (took,) = re.findall(r"adapted in ([\d.]+\sm?s)", spoken)
    expect(page.locator("#hint")).to_contain_text(f"last in {took}.")


def test_the_snippets_run_as_they_are_shown(page: Page, served: Served, tmp_path: Path) -> None:
    """With the key that the page has; a stand-in for grpcurl gives its JSON to `buf curl`."""
    sample(page)
    picture = page.locator(".class:nth-child(3) .thumbs img").first.get_attribute("src") or ""
    (tmp_path / "query.png").write_bytes(base64.b64decode(picture.partition(",")[2]))
    (tmp_path / "grpcurl").write_text(GRPCURL)
    (tmp_path / "grpcurl").chmod(0o755)
    tools = Path(sys.executable).parent
    environment = os.environ | {
        "KSHOT_API_KEY": served.key,
        "PATH": f"{tmp_path}:{tools}:{os.environ['PATH']}",
    }
    page.locator("#use summary").click()
    shown = page.locator("#snippets pre").all_text_contents()

    for code, command in zip(
        shown, ([sys.executable, "-c"], ["sh", "-c"], ["sh", "-c"]), strict=True
    ):
        assert served.key not in code
        done = subprocess.run(
            [*command, code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (code, done.stderr)
        assert "'Cross'" in done.stdout or re.search(r'"class_?[nN]ame": ?"Cross"', done.stdout), (
            code
        )
    plain = page.evaluate(
        """() => import("/page/words.js")
        .then(({ snippets }) => Object.values(snippets("ID", "https://host", "host:1", false)))"""
    )
    assert not [code for code in plain if "KSHOT_API_KEY" in code or "-plaintext" in code]


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


def test_a_model_that_is_replaced_or_deleted_is_gone(page: Page, served: Served) -> None:
    sample(page)
    first = str(page.locator("#model-id").text_content())
    page.locator(".thumbs button").first.click()
    page.get_by_role("menuitem", name="Remove").click()
    expect(page.locator("#model-id")).not_to_have_text(first)
    expect(page.locator(".count").first).to_have_text("3 examples")
    second = str(page.locator("#model-id").text_content())

    page.locator("#use summary").click()
    page.locator("#delete").click()

    expect(page.locator("#status")).to_contain_text("Deleted")
    with served.client() as client:
        # The page does not wait for the server's word; pytest's time limit ends this.
        while {first, second} & {adapted.id for adapted in client.list()}:
            page.wait_for_timeout(50)


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


def test_examples_move_and_work_outlives_a_reload(page: Page) -> None:
    """By keyboard, and by dragging: also to the question."""
    sample(page)
    page.locator(".thumbs button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Move to Cross")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".count").nth(2)).to_have_text("5 examples")
    expect(page.locator(".notes").nth(2)).to_contain_text("looks like “Ring”")
    first = page.locator(".thumbs button").first
    first.drag_to(page.locator(".class").nth(1))
    expect(page.locator(".count")).to_have_text(["2 examples", "5 examples", "5 examples"])
    expect(page.locator(".over")).to_have_count(0)
    first.drag_to(page.locator("#query"))
    expect(page.locator("#query-photo")).to_be_visible()
    wait_for_answer(page, "Ring")

    page.reload()

    expect(page.locator(".count")).to_have_text(["2 examples", "5 examples", "5 examples"])
    ready(page)


def test_the_accuracy_over_steps_is_measured(page: Page) -> None:
    sample(page)

    page.locator("#sweep").click()

    expect(page.locator("#steps-chart svg")).to_have_attribute(
        "aria-label", re.compile(r"Accuracy by left-out examples .* best: \d+ % at \d+ steps")
    )
    page.locator("#settings summary").click()
    page.locator("#steps").fill("5")
    page.locator("#steps").press("Enter")
    expect(page.locator("#status")).to_contain_text("5 steps")
    expect(page.locator("#loss-chart svg")).to_have_attribute(
        "aria-label", re.compile("Loss (falls|rises) from .* in 5 steps")
    )
    expect(page.locator("#report")).to_contain_text("Press “measure”")
    page.locator("#steps").fill("100000")
    page.locator("#steps").press("Enter")
    expect(page.locator("#banner")).to_contain_text("options.step_count: expected")


def test_what_is_no_picture_is_named_and_nothing_is_lost(page: Page) -> None:
    add_drawing(page, 1, "ring")
    card, problem = page.locator(".class").first, page.locator("#problem")
    button = card.get_by_role("button", name="Pictures")
    blank = io.BytesIO()
    Image.new("L", (20, 20), 255).save(blank, "PNG")
    cut = FilePayload(name="cut.png", mimeType="image/png", buffer=blank.getvalue()[:-30])
    photo = FilePayload(name="photo.heic", mimeType="image/heic", buffer=base64.b64decode(HEIC))

    drop(page, card, {f"{number}.txt": "no picture" for number in range(5)})
    expect(problem).to_contain_text("0.txt: this is not a picture that the browser can read")
    expect(problem).to_contain_text("2 more files are no pictures")
    choose(page, button, photo)
    expect(problem).to_contain_text("photo.heic: this browser cannot read HEIC photographs")
    choose(page, button, cut)
    expect(problem).to_contain_text("cut.png: the picture is damaged, or its 20 \u00d7 20 pixels")
    drop(page, card, {})
    expect(problem).to_contain_text("Only pictures can be dropped here")
    drop(page, page.locator("header"), {"note.txt": "no picture"})
    expect(problem).to_contain_text("Drop pictures on a class")
    problem.get_by_role("button", name="Close").click()
    expect(problem).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("two classes or more")
    expect(page.locator(".count").first).to_have_text("1 example")

    # What can be read of several files is taken; the rest is named until one has seen it.
    add_drawing(page, 2, "cross")
    whole = FilePayload(name="whole.png", mimeType="image/png", buffer=blank.getvalue())
    choose(page, button, cut, whole)
    expect(page.locator(".count").first).to_have_text("2 examples")
    ready(page)
    expect(problem).to_contain_text("cut.png: the picture is damaged")


def test_a_photograph_of_50_megapixels_is_made_small(page: Page, tmp_path: Path) -> None:
    Image.new("L", (8700, 5800), 255).save(tmp_path / "large.jpg")

    with page.expect_file_chooser() as choosing:
        page.locator(".class").first.get_by_role("button", name="Pictures").click()
    choosing.value.set_files(tmp_path / "large.jpg")

    expect(page.locator(".count").first).to_have_text("1 example")
    expect(page.locator("#problem")).to_be_hidden()
    assert page.locator(".thumbs img").evaluate(
        "each => [each.naturalWidth, each.naturalHeight]"
    ) == [
        1536,
        1024,
    ]  # the shorter side that `drawings` uses


def test_a_picture_is_pasted(page: Page) -> None:
    """Into the class that one last used, or into the question."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """() => new Promise((resolve) => {
            const canvas = document.createElement("canvas");
            canvas.toBlob(resolve);
        }).then((blob) => navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]))"""
    )

    page.locator(".class").nth(1).get_by_label("Name of the class").click()
    page.keyboard.press("ControlOrMeta+v")
    expect(page.locator(".count")).to_have_text(["0 examples", "1 example"])
    page.locator("#query-pad").focus()
    page.keyboard.press("ControlOrMeta+v")

    expect(page.locator("#query-photo")).to_be_visible()
    expect(page.locator(".count")).to_have_text(["0 examples", "1 example"])


def test_the_camera_takes_examples_and_a_question(page: Page) -> None:
    page.context.grant_permissions(["camera"])
    shoot = page.get_by_role("button", name="Take picture")
    page.locator(".class").nth(1).get_by_role("button", name="Camera").click()
    for count in (1, 2):
        shoot.click()
        expect(page.locator("#taken")).to_have_text(f"{count} taken")
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#camera")).to_be_hidden()
    expect(page.locator(".count")).to_have_text(["0 examples", "2 examples"])
    assert page.locator("#video").evaluate("each => each.srcObject === null")

    page.locator("#query-camera").click()
    shoot.click()

    expect(page.locator("#camera")).to_be_hidden()
    expect(page.locator("#query-photo")).to_be_visible()
    pixels = page.locator("#query-photo").evaluate(
        """(image) => {
            const canvas = document.createElement("canvas");
            const pen = canvas.getContext("2d");
            pen.drawImage(image, 0, 0, 64, 64);
            return new Set(pen.getImageData(0, 0, 64, 64).data).size;
        }"""
    )
    assert pixels > 10  # the pattern of the browser's own camera, not an empty frame


def test_a_camera_that_cannot_be_used_is_told_of(page: Page) -> None:
    add_drawing(page, 1, "ring")
    camera = page.locator(".class").first.get_by_role("button", name="Camera")
    refuse = (
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{}'))"
    )
    cases = {
        "undefined": "This page may not use the camera: allow it in the browser",
        refuse.format("NotFoundError"): "There is no camera. Choose a picture instead.",
        refuse.format("NotReadableError"): "Another program uses the camera.",
        "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })": "over https",
    }

    for cause, words in cases.items():
        page.evaluate(f"() => {{ {cause}; }}")
        camera.click()
        expect(page.locator("#problem")).to_contain_text(words)
        expect(page.locator("#camera")).to_be_hidden()
    expect(page.locator(".count").first).to_have_text("1 example")


def test_a_server_that_goes_while_one_draws_is_waited_for(page: Page, served: Served) -> None:
    """And has lost the model when it is back."""
    sample(page)
    first = str(page.locator("#model-id").text_content())
    page.locator("#reject").uncheck()
    page.context.set_offline(True)
    draw(page, "#query-pad", "ring")
    expect(page.locator("#banner")).to_have_text("The server does not answer.")
    page.locator(".class").first.get_by_label("Name of the class").fill("hoop")
    add_drawing(page, 1, "ring")
    expect(page.locator("#status")).to_have_text("Trying again soon…")
    with served.client() as client:
        client.delete(first)

    page.context.set_offline(False)

    wait_for_answer(page, "hoop")
    ready(page)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator(".count").first).to_have_text("5 examples")
    # Where the model is still there, an answer alone tells that the server is back.
    page.context.set_offline(True)
    page.locator("#reject").check()
    expect(page.locator("#banner")).to_have_text("The server does not answer.")
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden()


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
    page.locator("#reject").uncheck()
    draw(page, "#query-pad", "ring")

    wait_for_answer(page, name)
    page.locator(".class:nth-child(2) .thumbs button").first.click()
    expect(page.locator("#menu")).to_contain_text(f"Move to {name}")
    assert page.locator('img[src="x"]').count() == 0
    assert asked == []


def test_a_wrong_key_is_asked_for_again(page: Page, served: Served) -> None:
    """With the right one, an example of each class suffices for an answer."""
    add_drawing(page, 1, "ring")
    page.evaluate("sessionStorage['kshot-key'] = ''")
    page.reload()
    expect(page.locator("#key")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#banner")).to_contain_text("answers only with a key")
    page.get_by_role("button", name="Give a key").click()
    page.get_by_role("button", name="Use it").click()
    for key, why in (
        ("\u043a\u043b\u044e\u0447", ""),
        (WRONG, "That is no key: keys have letters, digits and underscores alone."),
        (served.key, "The server does not know this key, or it was revoked."),
    ):
        expect(page.locator("#key")).to_be_visible()
        expect(page.locator("#key-problem")).to_have_text(why)
        page.locator("#key-text").fill(key)
        page.get_by_role("button", name="Use it").click()

    add_drawing(page, 2, "cross")
    draw(page, "#query-pad", "cross")
    ready(page)
    wait_for_answer(page, "Class 2")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#report")).to_contain_text("two examples")


def test_it_fits_its_window_and_every_control_has_a_name(page: Page) -> None:
    sample(page)
    for summary in page.locator("summary").all():
        summary.click()
    for width in (360, 768, 1280, 1000):  # the last is that of the other tests
        page.set_viewport_size({"width": width, "height": 720})
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
