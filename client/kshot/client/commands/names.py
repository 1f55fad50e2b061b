"""What a shell completes by asking the server: ids of adapted models, and names of models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice

import click
from click.shell_completion import CompletionItem

from kshot.client.client import Client
from kshot.client.commands.options import DEFAULT_SERVER, Server
from kshot.client.errors import KshotError

_PATIENCE_S = 1.0  # a shell waits for the answer
_MOST = 100


def complete_ids(
    context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the adapted models of the server whose ids begin so; none where it does not answer."""

    def ask(client: Client) -> Iterable[CompletionItem]:
        for adapted in islice(client.list(), _MOST):
            yield CompletionItem(adapted.id, help=", ".join(adapted.class_names)[:60])

    return _asked(context, begun, ask)


def complete_models(
    context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the models that the server serves; none where it does not answer."""
    return _asked(context, begun, lambda client: map(CompletionItem, client.capabilities().models))


def _asked(
    context: click.Context, begun: str, ask: Callable[[Client], Iterable[CompletionItem]]
) -> list[CompletionItem]:
    given = context.params
    address = given.get("server") or os.environ.get("KSHOT_SERVER") or DEFAULT_SERVER
    pair = given.get("cert"), given.get("cert_key")
    cert = (pair[0], pair[1]) if pair[0] and pair[1] else None
    server = Server(address, given.get("tls"), given.get("ca"), cert, given.get("api_key_file"))
    try:
        with server.client(_PATIENCE_S) as client:
            return [item for item in ask(client) if str(item.value).startswith(begun)]
    except KshotError:
        return []
