"""Errors in the words of a command line: flags instead of the fields of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import click

from kshot.client.errors import InputError, KshotError

# What a field becomes whose name no option has.
_OPTION_OF_FIELD = {
    "added": "add",
    "expire_time": "expire_at",
    "relabellings": "relabel",
    "removed_indices": "remove",
}
_PREFIXES = ("options.", "header.", "ImportHeader.")
_BEGINNING = re.compile(r"(?P<name>[a-z_]+)(?=: )")
_WORD = re.compile(r"(?<![\w.'\"/=-])[a-z]+(?:_[a-z]+)+(?![\w.'\"/=-])")


def name_flags(error: KshotError, parameters: Sequence[click.Parameter]) -> None:
    """Let the message of an error name the flags of a command where it names fields."""
    flags = flags_of(parameters)
    text = str(error)
    for violation in sorted(error.violations, key=lambda each: -len(each.field)):
        if not violation.subject and (flag := _flag(violation.field, flags)):
            text = text.replace(violation.field, flag)
    if isinstance(error, InputError) and (match := _BEGINNING.match(text)):
        text = flags.get(match["name"], match["name"]) + text[match.end() :]
    error.args = (_WORD.sub(lambda word: flags.get(word[0], word[0]), text),)


def flags_of(parameters: Sequence[click.Parameter]) -> Mapping[str, str]:
    """Return the flags of a command by the names that its options have, without the dashes."""
    found: dict[str, str] = {}
    for each in parameters:
        if isinstance(each, click.Option):
            flag = max(each.opts, key=len)
            found[flag.removeprefix("--").replace("-", "_")] = flag
            found.setdefault(each.name or "", flag)
    return found


def _flag(field: str, flags: Mapping[str, str]) -> str:
    """Return the flag for a field such as `options.ttl` or `removed_indices[0]`, else nothing."""
    for prefix in _PREFIXES:
        field = field.removeprefix(prefix)
    name = re.split(r"[.\[]", field)[0]
    return flags.get(_OPTION_OF_FIELD.get(name, name), "")
