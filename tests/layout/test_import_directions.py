"""Imports run one way (docs/architecture.md), and two components stay free of what is heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
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
    "oip": set(),
    "local": set(),
    "bundle": {"local"},
    "learner": {"bundle", "local"},
    "trainer": {"learner", "bundle", "local"},
    "server": {"v1", "internal", "oip", "bundle", "local"},
    "engine": {"learner", "bundle", "internal", "local"},
    "gateway": {"v1", "bundle", "local"},
    "client": {"v1", "local"},
    "command": {"local"},
    "operate": {"v1", "bundle", "server", "client", "command", "local"},
    "__main__": {"command", "local"},
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
        "local",
    },
}
# Component: the libraries that it may import, of all that are not Python's own.
LIBRARIES: dict[str, set[str]] = {
    "v1": {"google", "grpc"},
    "internal": {"google", "grpc"},
    "oip": {"google", "grpc"},
    "local": set(),
    "bundle": {"PIL", "numpy", "opentelemetry", "safetensors"},
    "client": {"PIL", "click", "google", "grpc", "numpy", "pillow_heif", "rich", "sklearn"},
    "command": {"click"},
    "__main__": {"click"},
}
FORBIDDEN: dict[str, set[str]] = {
    "server": {"torch", "starlette", "uvicorn"},
    "gateway": {"torch", "onnx", "onnxruntime", "numpy"},
    "operate": {"torch"},
    "engine": {"onnx", "onnxruntime"},
    "learner": {"grpc", "onnx", "onnxruntime"},
}

# Component: its rooms (sub-packages) and the modules at its root, from the lowest floor to the
# highest. A module imports from its own floor and from those below it.
FLOORS: dict[str, list[set[str]]] = {
    "learner": [
        {"layout", "reproducibility", "torch_internals"},
        {"networks"},
        {"inference"},
        {"steps"},
        {"native"},
        {"compile"},
    ],
    "trainer": [
        {"errors", "statistics"},
        {"recipe"},
        {"datasets"},
        {"tasks"},
        {"rivals"},
        {"evaluate"},
        {"output"},
        {"bundling"},
        {"encoders"},
        {"loop"},
        {"sine"},
        {"commands"},
    ],
    "server": [
        {
            "call_context",
            "error_details",
            "errors",
            "event_log",
            "fair_pool",
            "progress",
            "workers",
        },
        {"config", "drain_grace"},
        {"access"},
        {"request"},
        {"limits"},
        {"store"},
        {"upkeep"},
        {"report"},
        {"engine_link"},
        {"gateway_link"},
        {"predict"},
        {"bundles"},
        {"adaptation", "adapter", "admission", "checked_task", "choice", "folds", "tail"},
        {"lives"},
        {"front"},
        {"watch"},
        {"rpc"},
        {"oip"},
        {"front_share", "server"},
        {"command"},
    ],
    "bench": [
        {"environment", "options", "plot", "report"},
        {"speed"},
        {"serve"},
        {"trial"},
        {"command"},
    ],
}
MAX_MODULES = 20


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


def test_nothing_imports_the_studies() -> None:
    """They are clients of the product and live outside it."""
    studying = [name for name in MODULES if "studies" in _tops(name)]

    assert studying == []


def _tops(name: str) -> set[str]:
    return {target.split(".")[0] for target in imported(name, MODULES[name])}


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


def floor_of(name: str) -> int | None:
    """Return the floor of a module below `kshot`, None where its component has no rooms."""
    component, room = name.split(".")[:2]
    if component not in FLOORS or room == "__init__":
        return None
    (floor,) = [number for number, rooms in enumerate(FLOORS[component]) if room in rooms]
    return floor


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in FLOORS])
def test_imports_between_rooms_go_down(name: str) -> None:
    own, component = floor_of(name), name.split(".")[0]
    above = [
        target
        for target in imported(name, MODULES[name])
        if target.startswith(f"kshot.{component}.") and own is not None
        if (floor_of(target.removeprefix("kshot.")) or 0) > own
    ]

    assert above == []


def test_no_folder_is_too_full() -> None:
    """Commands are listed by their table, and may be more."""
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    full = {str(folder): count for folder, count in counts.items() if count > MAX_MODULES}

    assert full == {}
