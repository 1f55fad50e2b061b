"""`kshot bundle`: what a server serves, before it does."""

from __future__ import annotations

from kshot.command.table import Entry, LazyGroup

command = LazyGroup(
    help="Build, inspect or verify a bundle, or push it to a server's repository.",
    entries={
        "build": Entry(
            "kshot.trainer.commands.bundle",
            "Build a bundle from a pretrained network.",
            "train,cpu",
        ),
        "inspect": Entry(
            "kshot.operate.bundle_inspect",
            "Show what a bundle is: shapes, options, limits, digests, training.",
            "server",
        ),
        "verify": Entry(
            "kshot.operate.bundle_verify",
            "Check a bundle's digests and graphs, and predict with it.",
            "server,cpu",
        ),
        "push": Entry(
            "kshot.operate.bundle_push",
            "Copy a bundle into the repository of a server.",
            "server,cpu",
        ),
    },
)
