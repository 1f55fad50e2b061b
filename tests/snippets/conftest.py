"""The fork server that runs the snippets' commands, and folders to run a page's snippets in."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from PIL import Image, ImageDraw

from kshot.bundle import builtin_bundle
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SHAPES = "ring", "cross", "bar", "corner", "steps", "dot"
ENCODER = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[n,3,16,16] x) => (float[n,12] y) {
        maps = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(x)
        y = Flatten<axis = 1>(maps)
    }"""
PARTS = "train", "val", "test"


@dataclass(frozen=True)
class Stage:
    """Where blocks run: the socket of the fork server, ports, and the server that runs there."""

    commands: Path
    folder: Path
    serving: Path
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)

    def environment(self) -> dict[str, str]:
        """Return the environment of a shell: no setting of this process's but the cache."""
        kept = {name: os.environ[name] for name in ("KSHOT_CACHE", "LANG") if name in os.environ}
        tools = Path(sys.executable).parent
        return kept | {
            "HOME": str(self.folder),
            "PATH": f"{self.commands}:{tools}:/usr/local/bin:/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "KSHOT_ENGINES": "1",
            "KSHOT_FAKE_ENGINE_PIPES": str(self.folder),
            "KSHOT_DATA": str(self.folder / "DATA"),
            "KSHOT_LISTEN": f"127.0.0.1:{self.grpc_port}",
            "KSHOT_SERVER": f"127.0.0.1:{self.grpc_port}",
            "SNIPPETS_SOCKET": str(self.commands / "socket"),
            "SNIPPETS_SERVING": str(self.serving),
        }

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script; a command that fails ends it."""
        return subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def end(self) -> None:
        """End the server that runs, if one does."""
        if self.serving.exists():
            self.shell("kshot end-server")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `kshot` and `python`, which the fork server runs."""
    folder = tmp_path_factory.mktemp("commands")
    shim = f'exec "{sys.executable}" -S -E "{HERE / "shim.py"}"'
    texts = {
        "kshot": f'{shim} kshot "$@"',
        "python": f'case "$1" in studies/*) SNIPPETS_PARSE_ONLY=1 {shim} python "$@";; '
        f'*) exec "{sys.executable}" "$@";; esac',
    }
    for name, text in texts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    command = [sys.executable, str(HERE / "fork_server.py"), str(folder / "socket")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder  # closing its standard input ends it


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' readers have: pictures, class folders, data sets, networks, bundles."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("pictures", "class-folders"):
        draw_classes(folder / name, SHAPES[:2], count=3)
    draw_classes(folder / "birds", SHAPES, count=22)
    for part in PARTS:
        draw_classes(folder / "DATA" / "mine" / part, SHAPES[:5], count=3, prefix=part)
    for name in ("zero", "one", "other", "picture", "new/first", "new/second"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        draw("ring", 1).save(path)
    network = onnx.parser.parse_model(ENCODER).SerializeToString()
    for name in ("encoder", "backbone"):
        (folder / f"{name}.onnx").write_bytes(network)
    for name in ("omniglot", "mine"):
        (folder / "trained" / "mine" / name).mkdir(parents=True)
        (folder / "trained" / "mine" / name / "1").symlink_to(builtin_bundle("omniglot"))
    for name in ("backup", "etc/kshot", "srv", "var/log/kshot"):
        (folder / name).mkdir(parents=True)
    for name in ("deploy", "docs", "examples", "proto", "studies"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def draw_classes(folder: Path, names: tuple[str, ...], *, count: int, prefix: str = "") -> None:
    """Make a subfolder of drawings for each name."""
    for name in names:
        place = folder / f"{prefix}{name}"
        place.mkdir(parents=True)
        for number in range(count):
            draw(name, number).save(place / f"{number}.png")


def draw(name: str, number: int) -> Image.Image:
    """Draw one of `SHAPES`, at a place that the number decides."""
    picture = Image.new("L", (48, 48), 255)
    pen, (left, top) = ImageDraw.Draw(picture), (2 + number % 5, 2 + number // 5)
    box = (left, top, left + 34, top + 34)
    lines = {
        "cross": [(box[0], box[1], box[2], box[3]), (box[0], box[3], box[2], box[1])],
        "bar": [(left + 17, top, left + 17, top + 34)],
        "corner": [(left, top, left, top + 34), (left, top + 34, left + 34, top + 34)],
        "steps": [(left, top, left + 17, top + 17), (left + 17, top + 17, left + 34, top + 17)],
        "dot": [(left + 15, top + 15, left + 19, top + 19)],
    }
    if name == "ring":
        pen.ellipse(box, width=4)
    for line in lines.get(name, []):
        pen.line(line, fill=0, width=5)
    pixels = np.asarray(picture)
    return Image.fromarray(pixels if pixels.min() == 0 else 255 - pixels)
