"""`kshot tenant`: those whose models a server keeps."""

from __future__ import annotations

from kshot.command.table import Entry, LazyGroup

command = LazyGroup(
    help="List tenants, set their limits, or erase what a server keeps of one.",
    entries={
        "list": Entry(
            "kshot.server.access.tenants", "List the tenants of an access file, with their limits."
        ),
        "set": Entry(
            "kshot.server.access.tenant_limits", "Set limits of a tenant in the access file."
        ),
        "delete": Entry(
            "kshot.client.commands.tenant", "Erase all that a server keeps of a tenant."
        ),
    },
)
