"""`kshot tenant`: those whose models a server keeps."""

from __future__ import annotations

from kshot.command.table import Entry, LazyGroup

command = LazyGroup(
    help="List tenants with their limits, or erase what a server keeps of one.",
    entries={
        "list": Entry(
            "kshot.server.access.tenants", "List the tenants of an access file, with their limits."
        ),
        "delete": Entry(
            "kshot.client.commands.tenant", "Erase all that a server keeps of a tenant."
        ),
    },
)
