from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kshot.server.access.access_file import read_access
from kshot.server.access.command import command
from kshot.server.access.keyring import Keyring

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the access file."""
    return tmp_path / "access.json"


@pytest.fixture
def run(path: Path, tmp_path: Path) -> Run:
    """Run `kshot keys` with files of the test."""
    environment = {"KSHOT_ACCESS": str(path), "KSHOT_AUDIT_LOG": str(tmp_path / "audit")}
    return lambda *arguments: CliRunner().invoke(command, arguments, env=environment)


@pytest.fixture
def make(run: Run) -> Callable[..., dict[str, Any]]:
    """Make a key."""
    return lambda *options: json.loads(run("create", "--tenant", "acme", "--json", *options).output)


def audited(path: Path) -> list[dict[str, Any]]:
    lines = (path.parent / "audit").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_key_is_shown_once_and_kept_nowhere(run: Run, path: Path) -> None:
    created = run("create", "--tenant", "acme", "--role", "admin", "--name", "CI of è")

    text = created.output.strip()
    found = Keyring(read_access(path)[0].keys).find(text)
    assert found is not None
    assert (found.tenant, found.role, found.name) == ("acme", "admin", "CI of è")
    secret = text.split("_")[2]
    assert all(secret not in file.read_text() for file in path.parent.iterdir())
    assert secret not in run("list").output + run("list", "--json").output
    (line,) = audited(path)
    assert (line["action"], line["object"], line["tenant"]) == (
        "create_key",
        found.prefix,
        "acme",
    )


def test_a_revoked_key_is_refused_and_listed(
    run: Run, path: Path, make: Callable[..., dict[str, Any]]
) -> None:
    key, other = make(), make()

    assert run("revoke", key["prefix"]).output == f"revoked {key['prefix']}\n"

    keyring = Keyring(read_access(path)[0].keys)
    assert keyring.find(key["key"]) is None
    assert keyring.find(other["key"]) is not None
    lines = run("list").output.splitlines()
    assert [("revoked" in line) for line in lines] == [True, False]
    assert "was revoked at" in run("revoke", key["prefix"]).output
    assert [line["action"] for line in audited(path)] == ["create_key", "create_key", "revoke_key"]


def test_both_keys_work_during_a_rotation(
    run: Run, path: Path, make: Callable[..., dict[str, Any]]
) -> None:
    old = make("--name", "laptop", "--role", "admin")

    new = json.loads(run("rotate", old["prefix"], "--overlap", "60", "--json").output)

    keyring = Keyring(read_access(path)[0].keys)
    assert keyring.find(old["key"]) is not None
    found = keyring.find(new["key"])
    assert found is not None
    assert (found.tenant, found.role, found.name) == ("acme", "admin", "laptop")
    assert new["replaces"] == old["prefix"]
    run("rotate", new["prefix"], "--overlap", "0")
    keyring = Keyring(read_access(path)[0].keys)
    assert keyring.find(new["key"]) is None


def test_a_second_rotation_does_not_prolong_a_key(
    run: Run, path: Path, make: Callable[..., dict[str, Any]]
) -> None:
    """Nor does it make a further key; sooner is allowed."""
    prefix = make()["prefix"]
    run("rotate", prefix, "--overlap", "3000")
    before = path.read_bytes()

    refused = run("rotate", prefix, "--overlap", "9000")

    assert refused.exit_code == 1
    assert "choose a shorter --overlap, or rotate the newer key" in refused.output
    assert path.read_bytes() == before
    assert run("rotate", prefix, "--overlap", "60").exit_code == 0
    assert run("revoke", prefix).exit_code == 0


def test_a_list_is_of_one_tenant_if_asked(run: Run, make: Callable[..., dict[str, Any]]) -> None:
    make()
    run("create", "--tenant", "other")

    (other,) = json.loads(run("list", "--tenant", "other", "--json").output)["keys"]

    assert other["tenant"] == "other"
    assert "sha256" not in other


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["create", "--tenant", "Not Good"], "got 'Not Good'"),
        (["create", "--tenant", "a", "--name", "\x1b[2J"], "got '\\x1b[2J'"),
        (["create"], "--tenant"),
        (["list"], "no such file; `kshot keys create --access"),
        (["revoke", "\x1b[2J"], "no such file"),
        (["rotate", "x", "--overlap", "-1"], "--overlap"),
    ],
)
def test_errors_name_the_problem(run: Run, arguments: list[str], problem: str) -> None:
    result = run(*arguments)

    assert result.exit_code != 0
    assert problem in result.output
    assert "\x1b" not in result.output


def test_an_unknown_prefix_is_refused(run: Run, make: Callable[..., dict[str, Any]]) -> None:
    make()

    result = run("rotate", "\x1b[2J")

    assert result.exit_code == 1
    assert "'\\x1b[2J': no such key" in result.output
