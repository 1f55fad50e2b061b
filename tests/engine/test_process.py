import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from kshot.bundle import Bundle


def _run(bundle: Path, socket: Path, device: str = "cpu") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kshot.engine", "--socket", str(socket)]
    return subprocess.run(
        [*command, "--bundle", str(bundle), "--device", device, "--no-compile"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _reason(completed: subprocess.CompletedProcess[str]) -> str:
    assert completed.returncode == 1
    (line,) = completed.stderr.splitlines()
    entry = json.loads(line)
    assert entry["event"] == "not_started"
    return str(entry["reason"])


@pytest.mark.parametrize(("folder", "stays"), [("kshot-x1", False), ("other", True)])
def test_it_leaves_when_the_front_is_gone_and_takes_its_temporary_folder(
    bundle: Bundle, folder: str, stays: bool
) -> None:
    """Its standard input ends at once here, as it does when the front dies."""
    with tempfile.TemporaryDirectory() as root:
        socket = Path(root) / folder / "engine.sock"
        socket.parent.mkdir()

        assert _run(bundle.path, socket).returncode == 0

        assert not socket.exists()
        assert socket.parent.exists() is stays


def test_it_leaves_on_sigterm(engine_process: "subprocess.Popen[str]") -> None:
    engine_process.send_signal(signal.SIGTERM)

    assert engine_process.wait(timeout=30) == 0


def test_a_changed_byte_is_refused_at_start(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.path, tmp_path / "small" / "1")
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)

    assert "weights.safetensors" in _reason(_run(folder, tmp_path / "engine.sock"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_at_start(bundle: Bundle, tmp_path: Path) -> None:
    reason = _reason(_run(bundle.path, tmp_path / "engine.sock", "cuda"))

    assert reason == "device: expected a GPU for cuda, torch finds none; use cpu or auto"


def test_a_user_without_a_home_gets_slower_steps_and_a_reason(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Only an environment that names no folder asks for the home."""
    named = {"KSHOT_CACHE", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in named}
    command = [sys.executable, "-m", "kshot.engine", "--socket", str(tmp_path / "engine.sock")]

    completed = subprocess.run(
        [*command, "--bundle", str(bundle.path), "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**environment, "HOME": "~"},
    )

    assert completed.returncode == 0
    events = {entry["event"]: entry for entry in map(json.loads, completed.stderr.splitlines())}
    assert "KSHOT_CACHE" in events["not_compiled"]["reason"]
    assert "engine_ready" in events
