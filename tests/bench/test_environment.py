"""The description of a measurement's machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from kshot.bench import environment as module
from kshot.bench.environment import environment


def test_environment_names_machine_and_versions() -> None:
    described = environment()

    assert json.loads(json.dumps(described)) == described
    assert described["torch"] == torch.__version__
    assert described["threads"] == torch.get_num_threads()
    assert described["gpu"] is None or torch.cuda.is_available()
    assert isinstance(described["cpu"], str)
    assert {"python", "numpy", "onnxruntime", "grpcio", "kshot", "commit"} <= set(described)


def test_a_missing_library_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIBRARIES", {"torch": ("no-such-distribution",)})

    assert environment()["torch"] is None


def test_the_commit_is_of_the_checkout_that_tracks_the_file(tmp_path: Path) -> None:
    """An installation inside another project's checkout does not have its commit."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    tracked, other = tmp_path / "tracked.py", tmp_path / "other.py"
    tracked.touch()
    other.touch()
    assert module._commit(tracked) is None
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "tracked.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=first"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()

    assert module._commit(tracked) == head
    assert module._commit(other) is None
    result = tmp_path / "benchmarks" / "results" / "found.json"
    result.parent.mkdir(parents=True)
    result.touch()
    subprocess.run([*git, "add", str(result)], check=True)
    assert module._commit(tracked) == head
    tracked.write_text("changed")
    assert module._commit(tracked) == f"{head}-dirty"
