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
from kshot.server.access.command import TENANT, access_option
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
@access_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, access: Path, as_json: bool, **given: Any) -> None:  # noqa: ANN401 -- one per limit
    """Set limits of the tenant NAME; `none` takes one away.

    The others stay. A running server takes the change within a second.
    """
    chosen = {limit: value for limit, value in given.items() if value is not None}
    if not chosen:
        raise click.UsageError("expected a limit to set, such as --max-models 100")

    def edit(file: AccessFile) -> AccessFile:
        values = {**vars(file.tenants.get(name, UNLIMITED)), **chosen}
        kept = {
            limit: list(value) if isinstance(value, tuple) else value
            for limit, value in values.items()
            if value not in (None, _NONE)
        }
        return replace(file, tenants={**file.tenants, name: parse(Limits, kept)})

    try:
        changed = change_access(access, edit).tenants[name]
    except StartError as error:
        raise click.ClickException(str(error)) from error
    document = plain(changed)
    if as_json:
        click.echo(json.dumps({"tenant": name, "limits": document}))
    else:
        click.echo(f"{name}  {json.dumps(document) if document else 'no limits'}")


def _number(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
