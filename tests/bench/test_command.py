"""`kshot bench` itself: what it lists, loads and refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kshot.__main__ import main


def test_help_lists_the_benchmarks_and_imports_none_of_them() -> None:
    script = (
        "import sys; from kshot.__main__ import main\n"
        "assert main(['bench', '--help']) == 0\n"
        "heavy = {'torch', 'jax', 'matplotlib', 'numpy', 'grpc'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stderr.strip() == "[]"
    assert all(f"  {name} " in done.stdout for name in ("adapt", "predict", "serve", "train"))


def test_an_unknown_benchmark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "adpat"]) == 2

    assert capsys.readouterr().err == (
        "kshot: benchmark is 'adpat', wanted one of: adapt, predict, serve, train\n"
    )


def test_no_benchmark_shows_the_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert "Commands:" in said.err


@pytest.mark.parametrize("name", ["adapt", "predict", "serve", "train"])
def test_each_benchmark_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--help"]) == 0

    assert "--json" in capsys.readouterr().out
