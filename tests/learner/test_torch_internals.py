import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._inductor import lowering

from kshot.learner import torch_internals

pytestmark = pytest.mark.compiled
ROOT = Path(__file__).parents[2]
SEAM = Path(torch_internals.__file__)
SOURCES = sorted(
    path
    for root in ("bundle", "learner", "trainer", "server", "client", "benchmarks", "studies")
    for path in (ROOT / root).rglob("*.py")
)


def private_uses(path: Path) -> Iterator[str]:
    """Yield the names of torch in a module that no release promises to keep."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            parts = name.split(".")
            if not all(part.isidentifier() for part in parts):
                continue  # an attribute of something that is not a module
            private = any(part.startswith("_") and part[1:2] != "_" for part in parts)
            if parts[0] == "torch" and (private or parts[-1] == "make_fx"):
                yield name


def test_one_module_uses_what_torch_may_change() -> None:
    users = {path for path in SOURCES if any(private_uses(path))}

    assert users == {SEAM}


@pytest.mark.filterwarnings(
    # torch's own compiler still calls what torch deprecates
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)
def test_the_compiler_is_left_as_it_was() -> None:
    operation = torch.ops.mkldnn._linear_pointwise.default
    before = lowering.lowerings.get(operation)

    with pytest.raises(RuntimeError, match="inside"), torch_internals._products_compiled():
        assert lowering.lowerings[operation] is not before
        raise RuntimeError("inside")

    assert lowering.lowerings.get(operation) is before
