"""The commands that talk to a server; each module holds one click object `command`."""
