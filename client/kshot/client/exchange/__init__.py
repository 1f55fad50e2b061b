"""What a client asks a server and reads from it, without I/O; imported with the first client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kshot.client.lazy import importer as _importer

if TYPE_CHECKING:
    from kshot.client.exchange.adapting import Terms, adapt, adapt_stream, revise
    from kshot.client.exchange.call import Exchange
    from kshot.client.exchange.caller import Caller
    from kshot.client.exchange.files import write_export
    from kshot.client.exchange.keeping import (
        delete,
        export_call,
        get,
        import_model,
        list_page,
        renew,
    )
    from kshot.client.exchange.known_server import KnownServer
    from kshot.client.exchange.predicting import Queries, adapt_and_predict, predict
    from kshot.client.exchange.revision import read_revision

__all__ = [
    "Caller",
    "Exchange",
    "KnownServer",
    "Queries",
    "Terms",
    "adapt",
    "adapt_and_predict",
    "adapt_stream",
    "delete",
    "export_call",
    "get",
    "import_model",
    "list_page",
    "predict",
    "read_revision",
    "renew",
    "revise",
    "write_export",
]

__getattr__ = _importer(
    __name__,
    dict.fromkeys(__all__, "keeping")
    | dict.fromkeys(("Terms", "adapt", "adapt_stream", "revise"), "adapting")
    | dict.fromkeys(("Queries", "adapt_and_predict", "predict"), "predicting")
    | {
        "Caller": "caller",
        "Exchange": "call",
        "KnownServer": "known_server",
        "read_revision": "revision",
        "write_export": "files",
    },
)
