"""Callers that have the .proto file, or not even that: Node.js and `buf curl`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from PIL import Image, ImageDraw

from tests.server.front.secured import WRONG, Secured

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "buf-curl.sh"
LOCKS = sorted(EXAMPLES.glob("*/package-lock.json"))
NODE_PACKAGES = Callable[[str], Path]


@dataclass(frozen=True)
class Served:
    """A server with TLS and a key, its environment for callers, and pictures for it."""

    environment: dict[str, str]
    folder: Path
    queries: tuple[Path, Path]

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            [str(word) for word in command],
            env=os.environ | {"PATH": tools} | self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def served(
    serving: Callable[..., AbstractContextManager[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("languages")
    for kind in ("cross", "ring"):
        (root / "classes" / kind).mkdir(parents=True)
        for place in range(3):
            drawn(kind, 4 * place).save(root / "classes" / kind / f"{place}.png")
        drawn(kind, 6).save(root / f"{kind}.png")
    secured = Secured.create(root, trustme.CA())
    files = {"access": secured.access, "tls-cert": root / "cert.pem", "tls-key": root / "key.pem"}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    with serving(root / "store", "--bundle", "drawings", *options) as address:
        environment = {
            # Node.js warns of an address where TLS wants a name.
            "KSHOT_SERVER": address.replace("127.0.0.1", "localhost"),
            "KSHOT_CA": str(root / "ca.pem"),
            "KSHOT_API_KEY": secured.keys["right"],
        }
        queries = root / "cross.png", root / "ring.png"
        yield Served(environment, root / "classes", queries)


def drawn(kind: str, place: int) -> Image.Image:
    picture = Image.new("L", (60, 60), 255)
    pen, (left, top) = ImageDraw.Draw(picture), (5 + place, 10)
    box = (left, top, left + 34, top + 34)
    if kind == "ring":
        pen.ellipse(box, width=4)
    else:
        pen.line(box, width=4)
        pen.line((box[0], box[3], box[2], box[1]), width=4)
    return picture


def test_node_adapts_predicts_and_deletes(served: Served, node_packages: NODE_PACKAGES) -> None:
    program = node_packages("node") / "classify.mjs"

    done = served.run("node", program, "drawings", served.folder, *served.queries)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["class_name"] for each in found["answers"]] == ["cross", "ring"]
    assert all(0.5 < each["probability"] <= 1 for each in found["answers"])
    assert found["support_accuracy"] == 1


@pytest.mark.parametrize(
    ("model", "environment", "code", "reason", "detail"),
    [
        ("other", {}, "NOT_FOUND", "MODEL_NOT_FOUND", "google.rpc.ResourceInfo"),
        ("drawings", {}, "INVALID_ARGUMENT", "INVALID_REQUEST", "google.rpc.BadRequest"),
        ("drawings", {"KSHOT_API_KEY": WRONG}, "UNAUTHENTICATED", "UNAUTHENTICATED", ""),
        ("drawings", {"KSHOT_DEADLINE": "0"}, "DEADLINE_EXCEEDED", None, ""),
    ],
)
def test_node_decodes_errors(
    served: Served,
    node_packages: NODE_PACKAGES,
    model: str,
    environment: dict[str, str],
    code: str,
    reason: str | None,
    detail: str,
) -> None:
    program = node_packages("node") / "classify.mjs"
    empty = detail == "google.rpc.BadRequest"
    folder = served.folder / "ring" if empty else served.folder

    done = served.run("node", program, model, folder, served.queries[0], **environment)

    assert (done.returncode, done.stdout) == (1, "")
    told = json.loads(done.stderr)
    assert (told.get("code"), told.get("reason")) == (code, reason)
    by_type = {each["type"]: each for each in told.get("details", [])}
    assert not detail or detail in by_type
    if detail == "google.rpc.ResourceInfo":
        assert by_type[detail]["resource_name"] == model
        assert told["requestId"]
    if empty:
        fields = [each["field"] for each in by_type[detail]["field_violations"]]
        assert fields
        assert all(field.startswith("support_set") for field in fields)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"KSHOT_CA": "", "KSHOT_SERVER": "example.test:1"},
            "a key goes over TLS or to this machine alone; set KSHOT_TLS=1 or KSHOT_CA",
        ),
        ({"KSHOT_DEADLINE": "soon"}, "expected a deadline of 0 or more seconds, got NaN"),
    ],
)
def test_node_refuses_before_it_calls(
    served: Served, node_packages: NODE_PACKAGES, environment: dict[str, str], message: str
) -> None:
    program = node_packages("node") / "classify.mjs"

    done = served.run("node", program, "any", served.folder, served.queries[0], **environment)

    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {"message": message}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_a_lock_pins_packages_and_names_no_host(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    pinned = json.loads((lock.parent / "package.json").read_text())["dependencies"]

    assert packages.pop("")["dependencies"] == pinned
    assert all(version[0].isdigit() for version in pinned.values())
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    assert not any("resolved" in each for each in packages.values())


def test_a_session_with_buf_curl(served: Served) -> None:
    """By reflection; the error at its end is that of a model that was deleted."""
    done = served.run(SCRIPT, served.folder, served.queries[1])

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "kshot.v1.AdaptationService/Adapt" in lines
    assert "predicted ring" in lines
    (adapted,) = [line.split()[1] for line in lines if line.startswith("adapted ")]
    assert "not_found" in done.stderr
    assert adapted in done.stderr


def test_buf_curl_takes_any_name_and_passes_over_empty_folders(
    served: Served, tmp_path: Path
) -> None:
    for name, kind in (('a "ring"', "ring"), ("c\\d", "cross")):
        shutil.copytree(served.folder / kind, tmp_path / name)
    (tmp_path / "b").mkdir()

    done = served.run(SCRIPT, tmp_path, served.queries[0])

    assert done.returncode == 0, done.stderr
    assert "predicted c\\\\d" in done.stdout.splitlines()  # as JSON has it


def test_buf_curl_keeps_its_key_to_itself(served: Served, tmp_path: Path) -> None:
    """Neither another machine without TLS gets it, nor a command line, which others can read."""
    spy = tmp_path / "buf"
    spy.write_text('#!/bin/sh\necho "$@" >&2\nexit 1\n')
    spy.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    far = served.run(
        SCRIPT, served.folder, served.queries[0], "example.test:1", KSHOT_CA="", PATH=path
    )
    near = served.run(SCRIPT, served.folder, served.queries[0], PATH=path)

    key = served.environment["KSHOT_API_KEY"]
    assert far.stderr == "a key goes over TLS or to this machine alone; set KSHOT_CA\n"
    assert "--header @" in near.stderr
    assert key not in near.stderr


def test_buf_curl_names_a_picture_that_is_not_there(served: Served, tmp_path: Path) -> None:
    done = served.run(SCRIPT, served.folder, tmp_path / "none.png")

    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'none.png'}: no such file\n")


def test_buf_curl_wants_a_folder_and_a_picture(served: Served) -> None:
    done = served.run(SCRIPT, served.folder)

    assert (done.returncode, done.stderr) == (2, "usage: buf-curl.sh FOLDER PICTURE [HOST:PORT]\n")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
