"""The source roots hold one namespace package, and all of it is shipped."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOTS: list[str] = SETTINGS["tool"]["hatch"]["build"]["dev-mode-dirs"]


def test_no_root_hides_the_others() -> None:
    """A regular package `kshot` in one root would hide the portions in all other roots."""
    hiding = [path for root in ROOTS for path in (ROOT / root).glob("kshot/__init__.py*")]

    assert hiding == []


def test_every_folder_with_a_portion_is_a_root() -> None:
    portions = {path.parent.name for path in ROOT.glob("*/kshot") if any(path.rglob("*.py"))}

    assert portions <= set(ROOTS)


def test_the_wheel_takes_every_root() -> None:
    packages = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert packages == [f"{root}/kshot" for root in ROOTS]


def test_the_wheel_leaves_the_studies_out() -> None:
    """They run from a checkout, beside the tests."""
    assert (ROOT / "studies" / "__init__.py").exists()
    assert "studies" not in ROOTS
    assert list((ROOT / "studies").rglob("kshot")) == []


def test_no_two_roots_hold_the_same_file() -> None:
    """In the wheel all roots are laid over one another."""
    files = [
        path.relative_to(ROOT / root)
        for root in ROOTS
        for path in (ROOT / root / "kshot").rglob("*.py")
    ]

    assert len(files) == len(set(files))


def test_every_package_says_that_it_is_typed() -> None:
    packages = {
        path.parent for root in ROOTS for path in (ROOT / root / "kshot").glob("*/__init__.py")
    }

    untyped = [str(path.relative_to(ROOT)) for path in packages if not (path / "py.typed").exists()]

    assert untyped == []


def test_no_source_file_is_left_out_by_an_ignore_rule() -> None:
    """Hatchling leaves out of the wheel whatever git ignores."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    command = [git, "ls-files", "--others", "--ignored", "--exclude-standard", "--", *ROOTS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert [name for name in listed.splitlines() if "__pycache__" not in name] == []


def test_the_path_given_for_use_without_installing_names_every_root() -> None:
    """README says how to run from the sources; the roots there are the roots here."""
    given = re.findall(r"PYTHONPATH=([\w:]+)", (ROOT / "README.md").read_text())

    assert given
    assert all(path.split(":") == ROOTS for path in given)
