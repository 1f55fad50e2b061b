from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.server.access.access_file import AccessFile, change_access, read_access
from kshot.server.access.limits import Limits
from kshot.server.access.tenant_limits import command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An access file without tenants."""
    path = tmp_path / "access.json"
    change_access(path, lambda _: AccessFile(), create=True)
    return path


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--access", str(path), "acme", *arguments])


def test_limits_are_set_one_by_one(path: Path) -> None:
    first = run(path, "--max-models", "100", "--max-adapt-seconds", "1.5")
    second = run(path, "--models", "photos,omniglot", "--max-models", "none", "--json")

    assert first.output == 'acme  {"max_models": 100, "max_adapt_seconds": 1.5}\n'
    limits = Limits(max_adapt_seconds=1.5, models=("photos", "omniglot"))
    assert read_access(path)[0].tenants == {"acme": limits}
    assert json.loads(second.output) == {
        "tenant": "acme",
        "limits": {"max_adapt_seconds": 1.5, "models": ["photos", "omniglot"]},
    }


def test_all_limits_may_go(path: Path) -> None:
    run(path, "--max-calls", "2")

    assert run(path, "--max-calls", "none").output == "acme  no limits\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "expected a limit to set"),
        (["--max-models", "0"], "expected an integer from 1 to"),
        (["--max-calls", "many"], "expected an integer, got"),
        (["--models", "Photos"], "expected a match of"),
    ],
)
def test_a_wrong_value_changes_nothing(path: Path, arguments: list[str], problem: str) -> None:
    before = path.read_bytes()
    result = run(path, *arguments)

    assert result.exit_code == 2
    assert problem in result.output
    assert path.read_bytes() == before
