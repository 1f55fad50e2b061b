from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))


def _run(script: str, *arguments: str, path: str = os.environ["PATH"]) -> tuple[int, str, str]:
    ran = subprocess.run(
        [DEPLOY / script, *arguments],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def nobody(tmp_path: Path) -> str:
    """Return a search path on which `id` names a user without rights."""
    program = tmp_path / "id"
    program.write_text("#!/bin/sh\necho 1000\n")
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    ran = subprocess.run(["shellcheck", script], stdout=subprocess.PIPE, text=True, check=False)

    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_parses_and_may_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)

    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    "arguments", [(), ("packages",), ("system", "more"), ("photos",), ("other",)]
)
def test_an_unknown_step_is_wrong_use(arguments: tuple[str, ...]) -> None:
    code, said, complained = _run("install.sh", *arguments)

    assert (code, said) == (2, "")
    assert complained.startswith("usage: install.sh ")
    assert complained.count("\n") == 1


def test_a_runtime_is_cpu_or_gpu(tmp_path: Path) -> None:
    """It is refused before anything is installed."""
    code, said, complained = _run("install.sh", "packages", str(tmp_path), "tpu")

    assert (code, said) == (2, "")
    assert complained == "install.sh: RUNTIME: expected cpu or gpu, got 'tpu'\n"


@pytest.mark.parametrize("script", ["build-rootfs.sh", "try-rootfs.sh"])
def test_wrong_use_is_one_line(script: str) -> None:
    code, said, complained = _run(script, "one", "two")

    assert (code, said) == (2, "")
    assert complained.startswith(f"usage: deploy/{script}")
    assert complained.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments"), [("build-rootfs.sh", ("folder",)), ("try-rootfs.sh", ())]
)
def test_a_user_without_rights_is_told_in_one_line(
    script: str, arguments: tuple[str, ...], nobody: str, tmp_path: Path
) -> None:
    code, said, complained = _run(script, *(str(tmp_path / one) for one in arguments), path=nobody)

    assert (code, said) == (1, "")
    assert complained.startswith(f"{script}: chroot needs root: ")
    assert complained.count("\n") == 1
    assert not (tmp_path / "folder").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    """Its stages would be mixed with what is there."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    kept = tmp_path / "final"
    kept.mkdir()

    code, said, complained = _run("build-rootfs.sh", str(tmp_path))

    assert (code, said) == (1, "")
    assert complained.splitlines()[-1] == f"build-rootfs.sh: FOLDER: {tmp_path} is not empty"
    assert list(tmp_path.iterdir()) == [kept]
