"""`kshot tenant delete`: erases what a server keeps of a tenant."""

from __future__ import annotations

import click

from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    server_options,
    timeout_option,
)
from kshot.client.connection.channel import Patience
from kshot.v1 import admin_pb2 as wire


@click.command(name="delete")
@click.argument("tenant", metavar="NAME")
@server_options()
@timeout_option
@json_option
def command(tenant: str, server: Server, timeout: float, as_json: bool) -> None:
    """Erase all that a server keeps of the tenant NAME: adapted models, answers, counts.

    It needs a key with the role admin. Keys stay: revoke them first, or the tenant may begin anew.
    """
    connection = server.connection()
    try:
        request = wire.DeleteTenantRequest(tenant=tenant)
        patience = Patience.of(timeout)
        response, _ = connection.call(connection.admin_stub.DeleteTenant, request, patience)
    finally:
        connection.close()
    count = response.adapted_model_count
    if as_json:
        print_document({"tenant": tenant, "adapted_model_count": count})
    else:
        click.echo(f"erased {count} adapted model{'s' if count != 1 else ''} of {tenant}")
