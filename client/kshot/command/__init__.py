"""The `kshot` command's own parts: nothing heavy is imported here."""
