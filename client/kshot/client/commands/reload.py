"""`kshot reload`: a server reads its bundles again."""

from __future__ import annotations

from typing import TypedDict

import click

from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    print_table,
    server_options,
    timeout_option,
)
from kshot.client.commands.progress import waiting
from kshot.client.connection.channel import Patience
from kshot.v1 import admin_pb2 as wire


class Served(TypedDict):
    """A bundle that a server serves; `loaded` tells whether it did not before."""

    model: str
    version: int
    bundle_digest: str
    labels: list[str]
    loaded: bool


@click.command()
@server_options()
@timeout_option
@json_option
def command(server: Server, timeout: float, as_json: bool) -> None:
    """Let a server read its bundles again, and wait until it serves them.

    It needs a key with the role admin. If one bundle cannot be loaded, the server goes on with
    those that it had.
    """
    served = reload_bundles(server, timeout)
    if as_json:
        print_document({"bundles": served})
        return
    print_table(
        ("model", "version", "labels", "digest", "now new"),
        [
            (
                each["model"],
                str(each["version"]),
                ", ".join(each["labels"]) or "-",
                each["bundle_digest"][:12],
                "yes" if each["loaded"] else "no",
            )
            for each in served
        ],
    )


def reload_bundles(server: Server, timeout: float) -> list[Served]:
    """Let a server read its bundles again and return all that it serves; raises `KshotError`."""
    connection = server.connection()
    try:
        patience = Patience.of(timeout)
        with waiting("loading bundles"):
            response, _ = connection.call(
                connection.admin_stub.ReloadBundles, wire.ReloadBundlesRequest(), patience
            )
    finally:
        connection.close()
    return [
        {
            "model": each.model,
            "version": each.version,
            "bundle_digest": each.bundle_digest,
            "labels": list(each.labels),
            "loaded": each.loaded,
        }
        for each in response.bundles
    ]
