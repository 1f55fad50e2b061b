"""The user's own machine: the files that a user names, and the streams of a command.

Only Python's own library is imported here, so that every part of kshot can share these rules.
"""

from __future__ import annotations

from kshot.local.destination import check_destination, destination, leads_to_stdout, write_file
from kshot.local.durable import replace_file, replacing, sync_folder, write_synced
from kshot.local.extras import pip_install
from kshot.local.streams import printable, safe_streams, stdout_lost

__all__ = [
    "check_destination",
    "destination",
    "leads_to_stdout",
    "pip_install",
    "printable",
    "replace_file",
    "replacing",
    "safe_streams",
    "stdout_lost",
    "sync_folder",
    "write_file",
    "write_synced",
]
