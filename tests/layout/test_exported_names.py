"""What a package offers is the list that it writes down."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOTS: list[str] = SETTINGS["tool"]["hatch"]["build"]["dev-mode-dirs"]
PACKAGES = sorted(path for root in ROOTS for path in (ROOT / root).rglob("__init__.py"))


def bound(path: Path) -> set[str]:
    """Return the public names that a package's `__init__.py` binds at its top level."""
    names: set[str] = set()
    body = ast.parse(path.read_text()).body
    for node in body:
        if isinstance(node, ast.If):  # TYPE_CHECKING: what the package imports when it is asked for
            body += node.body
        if isinstance(node, ast.Import | ast.ImportFrom):
            if isinstance(node, ast.ImportFrom) and node.module in ("__future__", "typing"):
                continue
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def listed(path: Path) -> list[str]:
    """Return `__all__` as it is written, or nothing."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_exported_names_are_those_listed(path: Path) -> None:
    names = listed(path)

    assert set(names) == bound(path)
    assert len(names) == len(set(names))
