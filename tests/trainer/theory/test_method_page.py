import re
from importlib import import_module

import pytest

PATTERN = re.compile(r"`(kshot(?:\.\w+)+)`")


def resolve(name: str) -> object:
    """Import the longest module of a dotted name and look up the rest in it."""
    module, _, rest = name.rpartition(".")
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return getattr(resolve(module), rest)


def test_every_name_of_the_page_on_the_method_is_in_the_code(pytestconfig: pytest.Config) -> None:
    names = PATTERN.findall((pytestconfig.rootpath / "docs" / "method.md").read_text())

    assert len(names) > 20
    for name in names:
        assert resolve(name) is not None
