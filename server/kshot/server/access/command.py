"""`kshot keys`: who may call a server."""

from __future__ import annotations

import functools
import getpass
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from kshot.bundle.document import Rule, plain
from kshot.server.access.access_file import AccessFile, change_access, read_access
from kshot.server.access.audit import AuditLog
from kshot.server.access.key import Key, Role, new_key, time_text
from kshot.server.access.names import KEY_NAME_RULE, TENANT_RULE
from kshot.server.errors import StartError


class RuledText(click.ParamType[str]):
    """A text that follows a rule."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name = name
        self._rule = rule

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the text."""
        if not self._rule.holds(value):
            self.fail(f"expected {self._rule.expected}, got {value!a}", param, ctx)
        return value


@dataclass(frozen=True)
class _Files:
    access: Path
    audit: AuditLog


TENANT = RuledText("NAME", TENANT_RULE)
access_option = click.option(
    "--access",
    required=True,
    type=click.Path(path_type=Path),
    envvar="KSHOT_ACCESS",
    show_envvar=True,
    help="File that `kshot serve --access` takes.",
)
audit_option = click.option(
    "--audit-log",
    type=click.Path(path_type=Path),
    envvar="KSHOT_AUDIT_LOG",
    show_envvar=True,
    help="File that lists what was done, that of `kshot serve` or another.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_prefix = click.argument("prefix")


def _changes_keys(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options for files; turn its errors into click's."""

    @access_option
    @audit_option
    @functools.wraps(function)
    def run(access: Path, audit_log: Path | None, **arguments: Any) -> None:  # noqa: ANN401 -- one per option
        try:
            function(_Files(access, AuditLog(audit_log)), **arguments)
        except StartError as error:
            raise click.ClickException(str(error)) from error

    return run


@click.group()
def command() -> None:
    """Create, list, revoke and rotate the keys of a server.

    A running server takes changes within a second. PREFIX is the middle part of a key, and names
    it: kshot_PREFIX_SECRET.
    """


@command.command()
@click.option("--tenant", required=True, type=TENANT, help="Whose calls the key lets in.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.USER.value,
    show_default=True,
    help="admin also administers the server: every tenant.",
)
@click.option("--name", type=RuledText("TEXT", KEY_NAME_RULE), help="What the key is for.")
@_json
@_changes_keys
def create(files: _Files, tenant: str, role: str, name: str | None, as_json: bool) -> None:
    """Make a key and print it.

    Nothing keeps it, so it is shown this once. Makes the file if it is missing.
    """
    key, text = new_key(tenant, Role(role), name, datetime.now(UTC))
    change_access(files.access, lambda file: replace(file, keys=(*file.keys, key)), create=True)
    _record(files, "create_key", key)
    _show_new(key, text, as_json)


@command.command(name="list")
@click.option("--tenant", type=TENANT, help="Only keys of this tenant.")
@_json
@access_option
def list_keys(access: Path, tenant: str | None, as_json: bool) -> None:
    """List keys, revoked ones too, without their secrets."""
    try:
        keys = [key for key in read_access(access)[0].keys if tenant in (None, key.tenant)]
    except StartError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"keys": list(map(_public, keys))}))
        return
    now = datetime.now(UTC)
    for key in keys:
        click.echo(_line(key, now))
    if not keys:
        click.echo("no keys", err=True)


@command.command()
@_prefix
@_json
@_changes_keys
def revoke(files: _Files, prefix: str, as_json: bool) -> None:
    """Refuse a key from now on; its record stays."""
    revoked = _revoke(files.access, prefix, datetime.now(UTC))
    _record(files, "revoke_key", revoked)
    click.echo(json.dumps(_public(revoked)) if as_json else f"revoked {prefix}")


@command.command()
@_prefix
@click.option(
    "--overlap",
    type=click.FloatRange(0, 365 * 24 * 3600),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the old key still works.",
)
@_json
@_changes_keys
def rotate(files: _Files, prefix: str, overlap: float, as_json: bool) -> None:
    """Make a key in the place of another, and print it.

    It has the old key's tenant, role and name. The old key never works longer than its record says.
    """
    now = datetime.now(UTC)
    old = _find(read_access(files.access)[0], prefix, now)
    new, text = new_key(old.tenant, old.role, old.name, now)
    _revoke(files.access, prefix, now + timedelta(seconds=overlap), new)
    _record(files, "rotate_key", new, replaces=prefix)
    _show_new(new, text, as_json, replaces=prefix)


def _revoke(access: Path, prefix: str, time: datetime, *new: Key) -> Key:
    """Revoke a key from a time on, and add `new` ones; return the old one's record."""

    def edit(file: AccessFile) -> AccessFile:
        old = _find(file, prefix, datetime.now(UTC))
        if old.revoke_time is not None and old.revoke_time < time_text(time):
            raise StartError(
                f"{prefix}: expected a key that works until {time_text(time)}, got one that works "
                f"until {old.revoke_time}; choose a shorter --overlap, or rotate the newer key"
            )
        kept = (old.revoked_at(time) if key is old else key for key in file.keys)
        return replace(file, keys=(*kept, *new))

    changed = change_access(access, edit)
    return next(key for key in changed.keys if key.prefix == prefix)


def _find(file: AccessFile, prefix: str, now: datetime) -> Key:
    for key in file.keys:
        if key.prefix == prefix:
            if key.revoked(now):
                raise StartError(f"{prefix}: the key was revoked at {key.revoke_time}")
            return key
    raise StartError(f"{prefix!a}: no such key; `kshot keys list` has the prefixes")


def _public(key: Key) -> dict[str, object]:
    fields = vars(key) | {"sha256": None}
    return {name: plain(value) for name, value in fields.items() if value is not None}


def _line(key: Key, now: datetime) -> str:
    words = [key.prefix, key.tenant, key.role, key.create_time]
    if key.revoke_time is not None:
        words.append(f"{'revoked' if key.revoked(now) else 'until'} {key.revoke_time}")
    return "  ".join([*words, *([key.name] if key.name else [])])


def _show_new(key: Key, text: str, as_json: bool, **more: str) -> None:
    click.echo(json.dumps({"key": text, **_public(key), **more}) if as_json else text)
    if sys.stdout.isatty():
        click.echo("keep it now: it is not shown again", err=True)


def record_command(audit: AuditLog, action: str, **fields: str) -> None:
    """Append what a command did, and which user of this machine ran it."""
    user = ""
    with suppress(KeyError, OSError):  # a container's user may have no name
        user = getpass.getuser()
    audit.write(action, "OK", user=user, **fields)


def _record(files: _Files, action: str, key: Key, **more: str) -> None:
    record_command(files.audit, action, tenant=key.tenant, object=key.prefix, **more)
