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


TALK_AND_FAIL = """
import os, sys
from kshot.engine import compiling

def talk_and_fail(*_):
    os.system("echo noise")
    print("more noise", flush=True)
    raise compiling.CompilationError("cannot be compiled\\nand a trace")

compiling.StepCache.compile = talk_and_fail
sys.exit(compiling.main())
"""


def test_a_reason_is_all_that_reaches_standard_output(small_step: StepSpec, tmp_path: Path) -> None:
    """Neither what the compiler's processes print, nor what this one does."""
    arguments = [str(tmp_path / "cache"), "cpu", small_step.text, "0"]

    with subprocess.Popen(
        [sys.executable, "-c", TALK_AND_FAIL, *arguments],
        stdin=subprocess.PIPE,  # it ends when this closes
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()

    assert process.returncode == 1
    assert said == "cannot be compiled\n"
