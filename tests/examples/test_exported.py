"""Exported adapted models without a server, in Python and in JavaScript."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from examples.exported.predict import Exported
from kshot.bundle import (
    Bundle,
    Grayscale,
    Ink,
    InputSpec,
    Normalize,
    Polarity,
    Reduce,
    Rescale,
    Resize,
    Rgb,
    Square,
    prepare,
)
from kshot.client import Client
from tests.e2e.chromium import chromium, needs_chromium

PREDICT = Path(__file__).parents[2] / "examples" / "exported" / "predict.py"
MODELS = ("drawings", "means")
UNIT = Rescale(1 / 255)
COLOURS = Normalize((127.5, 120.0, 110.0), (60.0, 61.0, 62.0))
SPECS = {
    "omniglot": InputSpec(
        (1, 28, 28),
        (Grayscale(), Polarity("light"), Reduce(35, 35), Resize(28, 28, "nearest"), UNIT),
    ),
    "ink": InputSpec((1, 28, 28), (Grayscale(), Ink(0.12), Resize(28, 28, "box"), UNIT)),
    "pad": InputSpec((3, 24, 24), (Rgb(), Square("pad"), Resize(24, 24, "bicubic"), COLOURS)),
    "crop": InputSpec((3, 24, 24), (Rgb(), Square("crop"), Resize(24, 24, "bilinear"), COLOURS)),
    "nearest": InputSpec((3, 64, 40), (Rgb(), Resize(64, 40, "nearest"), UNIT)),
    "whole": InputSpec((1, 20, 31), (Grayscale(), Resize(20, 31, "lanczos"), UNIT)),
}


def drawn(kind: str, seed: int, size: tuple[int, int] = (60, 47)) -> Image.Image:
    """A ring, a cross or a bar, in one of many colours and places."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", size, tuple(random.integers(200, 256, 3).tolist()))
    pen, ink = ImageDraw.Draw(picture), tuple(random.integers(0, 90, 3).tolist())
    left, top = random.integers(2, 14, 2).tolist()
    box = (left, top, left + 30, top + 28)
    match kind:
        case "ring":
            pen.ellipse(box, outline=ink, width=4)
        case "cross":
            pen.line(box, fill=ink, width=4)
            pen.line((box[0], box[3], box[2], box[1]), fill=ink, width=4)
        case _:
            pen.rectangle((left, top + 12, left + 30, top + 18), fill=ink)
    return picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures with all that decoding has to know of."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    clear = Image.fromarray(random.integers(0, 256, (23, 41, 4), np.uint8))
    noise = Image.fromarray(random.integers(0, 256, (70, 33, 3), np.uint8))
    made = {
        "ring": drawn("ring", 1),
        "dark": Image.eval(drawn("cross", 2).convert("L"), lambda value: 255 - value),
        "small": drawn("bar", 3).resize((13, 9)),
        "large": drawn("ring", 4).resize((1201, 1031)),
        "high": noise.resize((67, 112)),
        "wide": noise.resize((112, 67)),
        "blank": Image.new("L", (30, 20), 90),
        "clear": clear,
        "noise": noise,
        "palette": noise.quantize(12),
        "bits": drawn("cross", 6).convert("1"),
    }
    for name, picture in made.items():
        picture.save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_python_prepares_as_the_server(spec: InputSpec, pictures: list[Path]) -> None:
    exported = Exported(None, [], spec.shape, [asdict(step) for step in spec.preprocessing])

    for path in pictures:
        np.testing.assert_array_equal(
            exported.prepare(path), prepare([path.read_bytes()], spec)[0], err_msg=path.name
        )


def test_javascript_prepares_as_the_server(
    node_packages: Callable[[str], Path], pictures: list[Path]
) -> None:
    """From decoded pixels, as a browser has them, and to the last bit.

    Pillow rounds between the two directions, in an order that depends on the sizes, and adds up the
    steps of a nearest-neighbour resize.
    """
    folder = node_packages("exported")
    asked: dict[str, Any] = {
        "pictures": [pixels_of(path) for path in pictures],
        "steps": [[asdict(step) for step in spec.preprocessing] for spec in SPECS.values()],
    }
    program = """
        import { text } from "node:stream/consumers";
        import { prepare } from "./preparation.mjs";
        const { pictures, steps } = JSON.parse(await text(process.stdin));
        const prepared = steps.map((each) => pictures.map(({ width, height, rgba }) =>
            Array.from(prepare({ width, height, data: Buffer.from(rgba, "base64") }, each))));
        process.stdout.write(JSON.stringify(prepared));
    """
    found = json.loads(
        node("--input-type=module", "--eval", program, cwd=folder, sent=json.dumps(asked))
    )

    for (name, spec), rows in zip(SPECS.items(), found, strict=True):
        for path, row in zip(pictures, rows, strict=True):
            wanted = prepare([path.read_bytes()], spec)[0].ravel()
            got = np.array(row, np.float32)
            np.testing.assert_array_equal(got, wanted, err_msg=f"{name} {path.name}")


def pixels_of(path: Path) -> dict[str, object]:
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA")
    data = base64.b64encode(rgba.tobytes()).decode()
    return {"width": rgba.width, "height": rgba.height, "rgba": data}


def node(*arguments: object, cwd: Path, sent: str | None = None) -> str:
    command = ["node", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, input=sent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Kept:
    """An export, the pictures asked about, and what the server says of them, as logits."""

    path: Path
    queries: list[Path]
    spec: InputSpec
    logits: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def exports(
    serving: Callable[..., AbstractContextManager[str]],
    means_bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Kept]]:
    """Two adapted models: with ink, and behind an encoder."""
    folder, kept = tmp_path_factory.mktemp("exports"), {}
    bundles = ["drawings", str(means_bundle.path)]
    options = [word for bundle in bundles for word in ("--bundle", bundle)]
    kinds = ("ring", "cross", "bar")
    queries = [folder / f"{kind}.png" for kind in kinds]
    for seed, (kind, path) in enumerate(zip(kinds, queries, strict=True)):
        drawn(kind, 20 + seed).save(path)
    support = [drawn(kind, seed) for seed in range(3) for kind in kinds]
    with serving(folder / "store", *options) as address, Client(address, timeout=60) as client:
        for model in MODELS:
            adapted = client.adapt([np.asarray(one) for one in support], kinds * 3, model=model)
            answer = adapted.predict([path.read_bytes() for path in queries], return_logits=True)
            path = adapted.export(folder / f"{model}.onnx")
            facts = metadata(path)
            spec = input_of(model, means_bundle)
            assert json.loads(facts["kshot.applied"])[-1] == "temperature"
            assert answer.logits is not None
            kept[model] = Kept(path, queries, spec, answer.logits)
    return kept


def input_of(model: str, means_bundle: Bundle) -> InputSpec:
    from kshot.bundle import builtin_bundle, load_bundle

    found = means_bundle if model == "means" else load_bundle(builtin_bundle(model))
    return found.manifest.input


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(PREDICT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def close(logits: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    """Of the largest logit, which can be a hundred."""
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def check(answers: str, kept: Kept) -> None:
    """The logits are the server's, and the probabilities their softmax without a temperature."""
    found = json.loads(answers)
    names = json.loads(metadata(kept.path)["kshot.class_names"])
    logits = np.array([each["logits"] for each in found])
    close(logits, kept.logits)
    powers = np.exp(kept.logits - kept.logits.max(axis=1, keepdims=True))
    wanted = powers / powers.sum(axis=1, keepdims=True)
    for each, row in zip(found, wanted, strict=True):
        assert list(each["probabilities"]) == names
        np.testing.assert_allclose(list(each["probabilities"].values()), row, atol=1e-5)
        assert each["class_name"] == names[int(row.argmax())]


@pytest.mark.parametrize("model", MODELS)
def test_python_answers_as_the_server(exports: dict[str, Kept], model: str, tmp_path: Path) -> None:
    kept = exports[model]
    inputs = prepare([path.read_bytes() for path in kept.queries], kept.spec)
    np.save(tmp_path / "inputs.npy", inputs)
    exported = Exported.open(kept.path)

    done = python(kept.path, *kept.queries)

    assert done.returncode == 0, done.stderr
    check(done.stdout, kept)
    close(exported.logits(np.load(tmp_path / "inputs.npy")), kept.logits)


@pytest.mark.parametrize("model", MODELS)
def test_javascript_answers_as_the_server(
    exports: dict[str, Kept], node_packages: Callable[[str], Path], model: str, tmp_path: Path
) -> None:
    folder, kept = node_packages("exported"), exports[model]
    inputs = prepare([path.read_bytes() for path in kept.queries], kept.spec)
    (tmp_path / "inputs.f32").write_bytes(inputs.astype("<f4").tobytes())

    check(node("predict.mjs", kept.path, *kept.queries, cwd=folder), kept)
    if model == MODELS[0]:  # the rest is the same
        check(
            node("predict.mjs", kept.path, "--prepared", tmp_path / "inputs.f32", cwd=folder), kept
        )


class Files(SimpleHTTPRequestHandler):
    """Files of a folder, without a line on stderr for each."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        pass


@needs_chromium
def test_a_browser_answers_as_the_server(
    exports: dict[str, Kept], node_packages: Callable[[str], Path], tmp_path: Path
) -> None:
    """From files that one chooses; a file that is none of these is named."""
    (tmp_path / "text.png").write_text("no picture")
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Files, directory=str(node_packages("exported")))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            for kept in exports.values():
                page.locator("#model").set_input_files(kept.path)
                page.locator("#pictures").set_input_files(kept.queries)
                expect(page.locator("#answers li")).to_have_count(len(kept.queries))
                check(page.locator("#json").text_content() or "", kept)
                page.locator("#pictures").set_input_files(tmp_path / "text.png")
                expect(page.locator("#status")).to_have_text(
                    "text.png: expected a picture that the browser reads"
                )
            page.locator("#model").set_input_files(tmp_path / "text.png")
            expect(page.locator("#status")).to_contain_text("expected an export of kshot")
    finally:
        server.shutdown()
        server.server_close()


def test_an_export_says_what_is_applied(exports: dict[str, Kept]) -> None:
    """And its encoder is in it, without which it would answer nothing."""
    by_model = {model: metadata(kept.path) for model, kept in exports.items()}

    for facts in by_model.values():
        assert json.loads(facts["kshot.to_apply"]) == ["preparation", "softmax"]
        assert "kshot.temperature" not in facts
        assert "upright by Exif" in facts["kshot.pictures"]
    assert json.loads(by_model["means"]["kshot.applied"]) == ["encoder", "temperature"]
    assert json.loads(by_model["drawings"]["kshot.applied"]) == ["temperature"]
    assert float(by_model["drawings"]["kshot.temperature_applied"]) != 1


def test_what_cannot_be_classified_is_told_in_one_line(
    exports: dict[str, Kept], tmp_path: Path
) -> None:
    kept = exports["drawings"]
    (tmp_path / "text.png").write_text("no picture")
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, 28, 28), np.float32))
    cases = {
        (tmp_path / "none.onnx", kept.queries[0]): "expected an export of kshot",
        (kept.path, tmp_path / "text.png"): "text.png: expected a picture that Pillow reads",
        (kept.path, "--prepared", tmp_path / "wrong.npy"): "expected float32 (n, 1, 28, 28), got",
    }

    for arguments, message in cases.items():
        done = python(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_javascript_refuses_as_python_does(
    exports: dict[str, Kept], node_packages: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, kept = node_packages("exported"), exports["drawings"]
    (tmp_path / "text.png").write_text("no picture")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(kept.path.read_bytes()[:-20])
    cases = {
        (cut, kept.queries[0]): "expected an export of kshot",
        (kept.path, tmp_path / "text.png"): "text.png: expected a PNG file",
    }

    for arguments, message in cases.items():
        command = ["node", "predict.mjs", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_vectors_come_prepared() -> None:
    exported = Exported(None, ["a", "b"], (4, 1, 1), [])

    with pytest.raises(ValueError, match="the model takes vectors: give --prepared"):
        exported.prepare(Path("picture.png"))
    with pytest.raises(ValueError, match=r"expected float32 \(n, 4, 1, 1\), got float32 \(2, 3\)"):
        exported.logits(np.zeros((2, 3), np.float32))
