"""`kshot tenant list`: the tenants of an access file."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click

from kshot.bundle.document import plain
from kshot.server.access.access_file import read_access
from kshot.server.access.command import access_option
from kshot.server.access.limits import UNLIMITED
from kshot.server.errors import StartError


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@access_option
def command(access: Path, as_json: bool) -> None:
    """List the tenants of an access file: how many keys work, and the limits."""
    try:
        file, _ = read_access(access)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    now = datetime.now(UTC)
    counts = Counter(key.tenant for key in file.keys if not key.revoked(now))
    names = sorted({key.tenant for key in file.keys} | set(file.tenants))
    limits = {name: plain(file.tenants.get(name, UNLIMITED)) for name in names}
    if as_json:
        tenants = [
            {"tenant": name, "key_count": counts[name], "limits": limits[name]} for name in names
        ]
        click.echo(json.dumps({"tenants": tenants}))
        return
    for name in names:
        keys = f"{counts[name]} key" + ("s" if counts[name] != 1 else "")
        click.echo(f"{name}  {keys}  {json.dumps(limits[name]) if limits[name] else 'no limits'}")
