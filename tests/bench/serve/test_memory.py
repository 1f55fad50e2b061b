"""The cost of adapted models (`test_serve` measures it)."""

from __future__ import annotations

from pathlib import Path

from kshot.bench.serve.memory import disk_bytes


def test_disk_bytes_are_of_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 10_000)

    assert disk_bytes(tmp_path) >= 10_000
