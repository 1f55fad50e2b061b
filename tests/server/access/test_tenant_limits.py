from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.server.access.access_file import AccessFile, change_access, read_access
from kshot.server.access.key import Role, new_key
from kshot.server.access.limits import Limits
from kshot.server.access.tenant_limits import command


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An access file with a tenant that has a key."""
    path = tmp_path / "access.json"
    key, _ = new_key("acme", Role.USER, None, datetime.now(UTC))
    change_access(path, lambda _: AccessFile((key,)), create=True)
    return path


def run(path: Path, *arguments: str, name: str = "acme") -> Result:
    return CliRunner().invoke(command, ["--access", str(path), name, *arguments])


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
    run(path, "--max-calls", "2", "--max-models", "3")
    assert run(path, "--no-limits").output == "acme  no limits\n"
    assert read_access(path)[0].tenants == {}


def test_a_new_name_is_no_slip_of_the_pen(path: Path) -> None:
    before = path.read_bytes()
    slip = run(path, "--max-calls", "2", name="acne")

    assert slip.exit_code == 1
    assert "acne: expected a tenant with a key or limits" in slip.output
    assert path.read_bytes() == before
    assert run(path, "--max-calls", "2", "--new", name="acne").exit_code == 0
    assert run(path, "--max-calls", "3", name="acne").exit_code == 0


def test_changes_are_in_the_audit_log(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    run(path, "--max-calls", "2", "--audit-log", str(log))
    run(path, "--max-calls", "2", "--audit-log", str(log), name="acne")

    line = json.loads(log.read_text())
    assert (line["action"], line["tenant"], line["outcome"]) == ("set_limits", "acme", "OK")
    assert json.loads(line["limits"]) == {"max_calls": 2}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "expected a limit to set"),
        (["--no-limits", "--max-calls", "2"], "--no-limits cannot be combined"),
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
