"""Fuzzing: garbage of all kinds for all that reads what others wrote."""

from studies.reliability.fuzz.command import command

__all__ = ["command"]
