"""`kshot bench` itself: its help, its imports and its errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kshot.__main__ import main

BENCHMARKS = ("adapt", "encoder", "engines", "predict", "serve", "train")


def test_help_imports_no_benchmark() -> None:
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
    assert all(f"  {name} " in done.stdout for name in BENCHMARKS)


def test_an_unknown_benchmark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "adpat"]) == 2

    assert capsys.readouterr().err == ("kshot: unknown command 'adpat': did you mean `adapt`?\n")


def test_no_benchmark_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert "Commands:" in said.err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--help"]) == 0

    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "default"),
    [("predict", "[default: each that the bundle allows]"), ("serve", "[default: the model's]")],
)
def test_the_help_says_which_modes_are_measured(
    name: str, default: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict` measures every mode, `serve` one."""
    assert main(["bench", name, "--help"]) == 0

    said = " ".join(capsys.readouterr().out.split())
    _, _, after_choices = said.partition("--batch-norm-mode [")[2].partition("] ")
    assert after_choices.startswith(default)
