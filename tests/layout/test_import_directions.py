"""Imports run one way (docs/architecture.md), and two components stay free of what is heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOTS: list[str] = SETTINGS["tool"]["hatch"]["build"]["dev-mode-dirs"]

# Component: the components of ours that it may import besides itself.
ALLOWED: dict[str, set[str]] = {
    "v1": set(),
    "internal": set(),
    "bundle": set(),
    "learner": {"bundle"},
    "trainer": {"learner", "bundle"},
    "server": {"v1", "internal", "bundle"},
    "engine": {"learner", "bundle", "internal"},
    "client": {"v1"},
    "command": set(),
    "__main__": {"command"},
    "bench": {
        "v1",
        "internal",
        "bundle",
        "learner",
        "trainer",
        "server",
        "engine",
        "client",
        "command",
    },
}
# Component: the libraries that it may import, of all that are not Python's own.
LIBRARIES: dict[str, set[str]] = {
    "v1": {"google", "grpc"},
    "internal": {"google", "grpc"},
    "bundle": {"PIL", "numpy", "safetensors"},
    "client": {"click", "google", "grpc", "numpy", "rich"},
    "command": {"click"},
    "__main__": {"click"},
}
FORBIDDEN: dict[str, set[str]] = {
    "server": {"torch"},
    "engine": {"onnx", "onnxruntime"},
    "learner": {"grpc", "onnx", "onnxruntime"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the dotted name below `kshot` and the file of each module."""
    for root in ROOTS:
        base = ROOT / root / "kshot"
        for path in sorted(base.rglob("*.py")):
            yield ".".join(path.relative_to(base).with_suffix("").parts), path


def imported(name: str, path: Path) -> set[str]:
    """Return the absolute names that a module imports, wherever in it the import stands."""
    parts = ["kshot", *name.split(".")]
    package = parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from kshot import bundle` imports kshot.bundle; deeper names change nothing here.
            found.update(
                f"{base}.{alias.name}" if base == "kshot" else base for alias in node.names
            )
    return found


MODULES = dict(modules())


@pytest.mark.parametrize("name", MODULES)
def test_imports_of_ours_go_down(name: str) -> None:
    component = name.split(".")[0]
    ours = {
        target.split(".")[1]
        for target in imported(name, MODULES[name])
        if target.startswith("kshot.")
    }

    assert ours <= ALLOWED[component] | {component}


@pytest.mark.parametrize("name", MODULES)
def test_libraries_stay_where_they_belong(name: str) -> None:
    component = name.split(".")[0]
    libraries = {target.split(".")[0] for target in imported(name, MODULES[name])}
    libraries -= {*sys.stdlib_module_names, "kshot"}

    assert libraries <= LIBRARIES.get(component, libraries)
    assert libraries.isdisjoint(FORBIDDEN.get(component, set()))


@pytest.mark.parametrize(
    ("component", "heavy"),
    [
        ("bundle", ["torch", "grpc", "onnxruntime"]),
        ("server", ["torch", "kshot.learner", "kshot.engine", "kshot.client"]),
        ("client", ["torch", "kshot.server", "kshot.bundle", "onnxruntime", "PIL"]),
    ],
)
def test_importing_all_of_a_component_leaves_out_what_is_heavy(
    component: str, heavy: list[str]
) -> None:
    """The walk above sees direct imports; this one sees what they bring along."""
    names = [f"kshot.{name}" for name in MODULES if name.split(".")[0] == component]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    lines = [*(f"import {name}" for name in names), "import sys"]
    lines.append(f"print([name for name in {heavy} if name in sys.modules])")

    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
