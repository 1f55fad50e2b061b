from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from kshot.server.access.access_file import AccessFile, change_access
from kshot.server.access.key import Role, new_key
from kshot.server.access.limits import Limits
from kshot.server.access.tenants import command

NOW = datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An access file with two tenants: one has keys, the other limits."""
    path = tmp_path / "access.json"
    first, second, third = (new_key("acme", Role.USER, None, NOW)[0] for _ in range(3))

    def fill(file: AccessFile) -> AccessFile:
        keys = (first, second, third.revoked_at(NOW))
        return replace(file, keys=keys, tenants={"other": Limits(max_models=3)})

    change_access(path, fill, create=True)
    return path


def test_tenants_have_keys_or_limits(path: Path) -> None:
    result = CliRunner().invoke(command, ["--access", str(path)])
    as_json = CliRunner().invoke(command, ["--access", str(path), "--json"])

    assert result.output.splitlines() == [
        "acme  2 keys  no limits",
        'other  0 keys  {"max_models": 3}',
    ]
    assert json.loads(as_json.output)["tenants"] == [
        {"tenant": "acme", "key_count": 2, "limits": {}},
        {"tenant": "other", "key_count": 0, "limits": {"max_models": 3}},
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--access", str(tmp_path / "missing")])

    assert result.exit_code == 1
    assert "no such file" in result.output
