"""`kshot tenant set`: changes the limits of a tenant in the access file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from kshot.bundle.document import DocumentError, parse, plain
from kshot.server.access.access_file import AccessFile, change_access
from kshot.server.access.audit import AuditLog
from kshot.server.access.command import TENANT, access_option, audit_option, record_command
from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.errors import StartError

_NONE = "none"


class _LimitValue(click.ParamType[Any]):
    """A number, names separated by commas, or `none`: as the access file has it."""

    def __init__(self, name: str) -> None:
        self._field = name
        self.name = "NAME,…" if name == "models" else "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 -- click's signature
        """Read the value, and check it as the file's is."""
        if value == _NONE:
            return _NONE
        read = value.split(",") if self._field == "models" else _number(value)
        try:
            parse(Limits, {self._field: read})
        except DocumentError as error:
            self.fail(error.problem, param, ctx)
        return read


def _limit_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each limit."""
    for limit in reversed(fields(Limits)):
        flag = "--" + limit.name.replace("_", "-")
        kind = _LimitValue(limit.name)
        function = click.option(flag, limit.name, type=kind, help=limit.metadata["help"])(function)
    return function


@click.command(name="set")
@click.argument("name", type=TENANT)
@_limit_options
@click.option("--no-limits", "unlimited", is_flag=True, help="Take all limits away.")
@click.option("--new", is_flag=True, help="Let NAME be a tenant without keys and limits so far.")
@access_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    name: str,
    unlimited: bool,
    new: bool,
    access: Path,
    audit_log: Path | None,
    as_json: bool,
    **given: Any,  # noqa: ANN401 -- one per limit
) -> None:
    """Set limits of the tenant NAME; `none` takes one away.

    The others stay. A running server takes the change within a second.
    """
    chosen = {limit: value for limit, value in given.items() if value is not None}
    if not chosen and not unlimited:
        raise click.UsageError("expected a limit to set, such as --max-models 100")
    if chosen and unlimited:
        raise click.UsageError("--no-limits cannot be combined with a limit")

    def edit(file: AccessFile) -> AccessFile:
        if not new and name not in {*file.tenants, *(key.tenant for key in file.keys)}:
            raise StartError(
                f"{name}: expected a tenant with a key or limits, got a new name; "
                "add --new if it is meant"
            )
        if unlimited:
            others = {each: limits for each, limits in file.tenants.items() if each != name}
            return replace(file, tenants=others)
        values = {**vars(file.tenants.get(name, UNLIMITED)), **chosen}
        kept = {
            limit: list(value) if isinstance(value, tuple) else value
            for limit, value in values.items()
            if value not in (None, _NONE)
        }
        return replace(file, tenants={**file.tenants, name: parse(Limits, kept)})

    try:
        audit = AuditLog(audit_log)  # before anything changes
        changed = change_access(access, edit).tenants.get(name, UNLIMITED)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    document = plain(changed)
    record_command(audit, "set_limits", tenant=name, limits=json.dumps(document))
    if as_json:
        click.echo(json.dumps({"tenant": name, "limits": document}))
    else:
        click.echo(f"{name}  {json.dumps(document) if document else 'no limits'}")


def _number(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
