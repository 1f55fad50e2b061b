"""Servers and packages that examples in other languages need."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# Set where Node.js and its packages must be there, as in CI: then these tests are not skipped.
REQUIRED = "KSHOT_TEST_NODE"


@contextmanager
def _serving(store: Path, *options: str) -> Iterator[str]:
    """Run `kshot serve` until the block ends; yield its address."""
    command = [sys.executable, "-P", "-m", "kshot", "serve", "--listen", "127.0.0.1:0"]
    with (store.parent / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--store", str(store), "--device", "cpu", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            # Without a compiler no step is compiled beside the tests.
            env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": str(store.parent)},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (store.parent / "log").read_text()
        yield json.loads(line)["grpc"]
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Run a real server: `with serving(store, *options) as address`."""
    return _serving


@pytest.fixture(scope="session")
def node_packages() -> Callable[[str], Path]:
    """Install the locked packages of an example, once; return its folder, or skip the test."""

    def install(name: str) -> Path:
        folder = EXAMPLES / name
        lock = (folder / "package-lock.json").read_bytes()
        complete = folder / "node_modules" / f".kshot-{hashlib.sha256(lock).hexdigest()[:16]}"
        if complete.exists():
            return folder
        if shutil.which("npm") is None and REQUIRED not in os.environ:
            pytest.skip("npm is not installed")
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode and REQUIRED not in os.environ:
            pytest.skip(f"npm cannot install packages: {done.stderr.strip().splitlines()[-1:]}")
        assert done.returncode == 0, done.stderr
        complete.touch()
        return folder

    return install
