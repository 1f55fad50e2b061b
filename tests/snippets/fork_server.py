"""Runs commands in forks of itself, so that none has to import torch again.

`shim.py` sends a command's words, folder, environment and standard streams over a unix socket; a
fork runs it and sends its exit code. All data sets but digits and folders are a few patterns.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import click
import torch

# What commands import late: here it is imported once for all forks.
from kshot import __main__ as program
from kshot.bundle import BatchNormMode, builtin_bundle, load_bundle, replace_file
from kshot.learner import Network
from kshot.server import command as serve_command
from kshot.trainer.bundling import packaging
from kshot.trainer.bundling.onnx_templates import build_template
from kshot.trainer.commands.evaluation_request import PROTOCOLS
from kshot.trainer.datasets import registry
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.reader import PartRequest
from kshot.trainer.evaluate import contest
from kshot.trainer.rivals import rivals

FAKE_ENGINE = Path(__file__).parents[1] / "server" / "front" / "fake_engine.py"
REAL = {"digits", "folder"}
CLASSES, PER_CLASS = 24, 22


def patterns(request: PartRequest) -> ImageDataset:
    """Return classes of coarse patterns with noise, in the input's size."""
    channels, *sides = request.input_spec.shape
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(CLASSES, 1, channels, 4, 4, generator=generator).round() * 200
    clean = torch.nn.functional.interpolate(coarse.flatten(0, 1), sides).unflatten(0, (-1, 1))
    noise = torch.rand(CLASSES, PER_CLASS, channels, *sides, generator=generator) * 55
    images = (clean + noise).to(torch.uint8).flatten(0, 1)
    names = tuple(f"pattern{number}" for number in range(CLASSES))
    dataset = make_dataset("patterns", images, torch.arange(CLASSES + 1) * PER_CLASS, names)
    trained = load_bundle(builtin_bundle("omniglot")).manifest.provenance
    return replace(dataset, split_digest=trained.split_digest)  # the bundle may be measured on them


def build_once(folder: Path, network: Network, mode: BatchNormMode) -> bytes:
    """Return a template, built by the first command that wants it: that takes seconds."""
    path = folder / hashlib.sha256(f"{network} {mode}".encode()).hexdigest()
    if not path.exists():
        replace_file(path, build_template(network, mode))
    return path.read_bytes()


def make_commands_cheap(folder: Path) -> None:
    """Replace data sets by patterns, and measure on few tasks, beside one trivial classifier.

    Templates of networks are kept in the folder.
    """
    packaging.build_template = partial(build_once, folder)
    registry.DATASETS = {
        name: reader if name in REAL else patterns for name, reader in registry.DATASETS.items()
    }
    PROTOCOLS.update(dict.fromkeys(PROTOCOLS, (2, 1)))
    contest.TASKS = 4
    contest.RIVALS = MappingProxyType({"pixels-1nn": rivals.RIVALS["pixels-1nn"]})


def without_running() -> None:
    """Let commands read their options and arguments, and do nothing."""
    run = click.Command.invoke

    def invoke(self: click.Command, context: click.Context) -> object:
        return run(self, context) if isinstance(self, click.Group) else None

    click.Command.invoke = invoke


def run(words: Sequence[str]) -> int:
    """Run `kshot`, or a Python file, and return its exit code."""
    if os.environ.get("SNIPPETS_PARSE_ONLY"):
        without_running()
    if not os.environ.get("SNIPPETS_REAL_ENGINE"):
        engine = (sys.executable, str(FAKE_ENGINE))
        serve_command.ServerConfig = partial(serve_command.ServerConfig, engine_command=engine)
    sys.argv = list(words)
    name, *rest = words
    if name == "kshot":
        return program.main(rest)
    sys.argv = rest
    sys.path.insert(0, str(Path(rest[0]).resolve().parent))
    runpy.run_path(rest[0], run_name="__main__")
    return 0


def answer(connection: socket.socket, listener: socket.socket) -> None:
    """Run what a connection asks for in a fork."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    if os.fork():
        for stream in streams:
            os.close(stream)
        return
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.sendall(f"{os.getpid()}\n".encode())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    asked = json.loads(message)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    code = 1
    try:
        code = run(asked["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # the fork ends here, whatever happened
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(f"{code}\n".encode())
    os._exit(code)


def main() -> None:
    """Listen on the socket that the argument names, until the standard input ends."""
    torch.set_num_threads(1)
    make_commands_cheap(Path(sys.argv[1]).parent)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks leave no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                answer(connection, listener)


if __name__ == "__main__":
    main()
