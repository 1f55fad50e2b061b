"""Calls that deploy/try-server.sh makes to a server, with the tested container's Python.

exercise.py draw FOLDER: draw FOLDER/support/CLASS/*.png and FOLDER/queries/*.png
exercise.py use ADDRESS FOLDER: adapt, predict, print the ids; fail if too few answers are right
exercise.py again ADDRESS FOLDER IDS: predict with stored adapted models
exercise.py page ADDRESS: read the page, and ask by HTTP with and without a key
exercise.py drain ADDRESS FOLDER: send many adaptations; print `sent` and wait for their ends
"""

from __future__ import annotations

import json
import os
import random
import ssl
import subprocess
import sys
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
from PIL import Image, ImageDraw

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1 import adaptation_pb2_grpc as wire_grpc

BUNDLES = ("drawings", "photos")
MODELS = "/v1/adapted_models"
DRAINED = "drawings"
SHOT, QUERIES = 3, 4
SIDE, INK, PAPER, STROKE = 28, 0, 255, 2
LEAST_RIGHT = 0.8
CALLS, STEPS = 8, 200
TIMEOUT_SECONDS = 120.0
# Each class is a set of lines; coordinates in pixels.
SHAPES = {
    "arrow": [[(5, 14), (22, 14)], [(15, 7), (22, 14), (15, 21)]],
    "cross": [[(7, 7), (20, 20)], [(20, 7), (7, 20)]],
    "ladder": [[(8, 5), (8, 22)], [(19, 5), (19, 22)], [(8, 10), (19, 10)], [(8, 17), (19, 17)]],
    "triangle": [[(14, 6), (22, 21), (6, 21), (14, 6)]],
    "zigzag": [[(6, 8), (20, 8), (7, 20), (21, 20)]],
}


def draw(folder: Path) -> None:
    """Draw the support set and the queries, each image slightly shifted and bent."""
    generator = random.Random(0)  # noqa: S311 -- pictures need no secrets
    for name, lines in SHAPES.items():
        support = folder / "support" / name
        support.mkdir(parents=True)
        (folder / "queries").mkdir(exist_ok=True)
        for number in range(SHOT + QUERIES):
            image = Image.new("L", (SIDE, SIDE), PAPER)
            pen = ImageDraw.Draw(image)
            left, top = generator.randint(-2, 2), generator.randint(-2, 2)
            for line in lines:
                points = [
                    (x + left + generator.randint(-1, 1), y + top + generator.randint(-1, 1))
                    for x, y in line
                ]
                pen.line(points, fill=INK, width=STROKE)
            if number < SHOT:
                image.save(support / f"{number}.png")
            else:
                image.save(folder / "queries" / f"{name}-{number}.png")


def use(address: str, folder: Path) -> None:
    """Adapt and predict with kshot's own commands."""
    names = []
    for model in BUNDLES:
        adapted = _kshot("adapt", str(folder / "support"), "--model", model, "--server", address)
        steps, took = adapted["step_count"], adapted["timing_ms"]["round_trip"]
        print(f"adapted {model} in {steps} steps, {took:.0f} ms", flush=True)
        names.append(adapted["adapted_model"])
    again(address, folder, " ".join(names))
    print(*names, flush=True)


def again(address: str, folder: Path, adapted_models: str) -> None:
    """Predict with models named side by side; exit with 1 if too few answers are right."""
    queries = sorted(map(str, (folder / "queries").iterdir()))
    for adapted_model in adapted_models.split():
        answer = _kshot("predict", adapted_model, *queries, "--server", address)
        right = sum(
            Path(one["file"]).name.startswith(one["label"] + "-") for one in answer["predictions"]
        )
        print(f"predicted {right} of {len(queries)} right", flush=True)
        if right < LEAST_RIGHT * len(queries):
            raise SystemExit(f"expected at least {LEAST_RIGHT:.0%} right")


def page(address: str) -> None:
    """Read the page; ask for the adapted models without a key, and with it."""
    trusted = ssl.create_default_context(cafile=os.environ["KSHOT_CA"])
    key = Path(os.environ["KSHOT_API_KEY_FILE"]).read_text().strip()
    wanted = (("/", {}, 200), (MODELS, {}, 401), (MODELS, {"Authorization": f"Bearer {key}"}, 200))
    for path, headers, status in wanted:
        connection = HTTPSConnection(address, context=trusted, timeout=TIMEOUT_SECONDS)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != status:
            raise SystemExit(f"{path}: expected {status}, got {answer.status}")
        print(f"the page's server answered {path} with {answer.status}", flush=True)
        connection.close()


def drain(address: str, folder: Path) -> None:
    """Send many adaptations; print `sent` when the server has all calls, then how they ended."""
    files = sorted((folder / "support").glob("*/*.png"))
    names = sorted(SHAPES)
    request = wire.AdaptRequest(
        model=DRAINED,
        support_set=wire.SupportSet(
            images=wire.Images(encoded=wire.EncodedImages(items=[f.read_bytes() for f in files])),
            class_indices=[names.index(file.parent.name) for file in files],
            class_names=names,
        ),
        options=wire.AdaptOptions(step_count=STEPS),
    )
    with grpc.insecure_channel(address) as channel:
        stub = wire_grpc.AdaptationServiceStub(channel)
        capabilities = wire.GetCapabilitiesRequest()
        stub.GetCapabilities(capabilities, timeout=TIMEOUT_SECONDS)
        calls = [stub.Adapt.future(request, timeout=TIMEOUT_SECONDS) for _ in range(CALLS)]
        stub.GetCapabilities(capabilities, timeout=TIMEOUT_SECONDS)  # some calls arrived
        print(f"sent {sum(not call.done() for call in calls)}", flush=True)
        ends = [_end(call) for call in calls]
    done = ends.count("done")
    if not done:
        raise SystemExit("expected a running call, but all came too late")
    print(f"{done} of them took all their steps, {CALLS - done} came too late", flush=True)


def _end(call: Any) -> str:  # noqa: ANN401 -- grpc has no type for a call that is a future
    """Wait for a call; exit with 1 if it started and did not finish."""
    if call.exception() is None:
        steps = len(call.result().report.support_loss)
        if steps != STEPS:
            raise SystemExit(f"steps of a call: expected {STEPS}, got {steps}")
        return "done"
    if call.code() != grpc.StatusCode.UNAVAILABLE or "shutting down" not in call.details():
        raise SystemExit(f"a call ended with {call.code().name}: {call.details()}")
    return "refused"


def _kshot(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "kshot", *arguments, "--json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603 -- kshot's own
    if ran.returncode != 0:
        raise SystemExit(f"kshot {arguments[0]} ended with exit code {ran.returncode}")
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def main() -> None:
    """Run the command that the first argument names."""
    match sys.argv[1:]:
        case ["draw", folder]:
            draw(Path(folder))
        case ["use", address, folder]:
            use(address, Path(folder))
        case ["again", address, folder, adapted_models]:
            again(address, Path(folder), adapted_models)
        case ["page", address]:
            page(address)
        case ["drain", address, folder]:
            drain(address, Path(folder))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
