import os
import subprocess
import sys
from pathlib import Path

import pytest

from kshot.engine.compiling import failure_reason
from kshot.learner import CompilationError, StepSpec


def _failure(cause: Exception, message: str) -> CompilationError:
    try:
        raise CompilationError(message) from cause
    except CompilationError as error:
        return error


def test_a_command_that_is_not_there_is_named() -> None:
    """Torch calls openssl, and says only that there is no such file."""
    try:
        subprocess.run(["no-such-command"], check=True)
    except FileNotFoundError as error:
        failure = _failure(error, "the inner step cannot be compiled: [Errno 2]")

    assert failure_reason(failure) == (
        "the command no-such-command was not found; install it to compile steps"
    )


def test_a_command_is_found_under_what_the_compiler_wraps_it_in() -> None:
    wrapped = RuntimeError("in the compiler")
    wrapped.__context__ = FileNotFoundError(2, "No such file or directory", "openssl")

    assert "the command openssl" in failure_reason(_failure(wrapped, "cannot be compiled"))


@pytest.mark.parametrize(
    "cause", [FileNotFoundError(2, "No such file or directory", "/gone/file"), ValueError("odd")]
)
def test_other_failures_are_one_line(cause: Exception) -> None:
    assert failure_reason(_failure(cause, "what was wrong\nand a trace")) == "what was wrong"


def test_a_reason_is_all_that_reaches_standard_output(small_step: StepSpec, tmp_path: Path) -> None:
    """The compiler here fails, and talks on its standard output."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho noise\necho more noise >&2\nexit 1\n")
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    command = [sys.executable, "-P", "-m", "kshot.engine.compiling"]

    with subprocess.Popen(
        [*command, str(cache), "cpu", small_step.text, "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CXX": str(compiler)},
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()

    assert process.returncode == 1
    assert len(said.splitlines()) == 1
    assert "cannot be compiled" in said
    assert not list(cache.glob("*.pt2"))
