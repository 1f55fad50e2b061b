from pathlib import Path

import pytest

from kshot.learner.native.library import write_native_package


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nprintf 'a warning\\nerror: no room\\n' >&2\nexit 1\n")
    compiler.chmod(0o700)

    with pytest.raises(RuntimeError, match=r"^error: no room$"):
        write_native_package(str(compiler), tmp_path / "step.pt2")

    assert not (tmp_path / "step.pt2").exists()


def test_a_compiler_that_fails_without_a_word_is_named(tmp_path: Path) -> None:
    compiler = tmp_path / "silent"
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(0o700)

    with pytest.raises(RuntimeError, match=r"silent ended with 3$"):
        write_native_package(str(compiler), tmp_path / "step.pt2")
