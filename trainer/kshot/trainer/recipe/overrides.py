"""Single values of a document, replaced by settings of the command line."""

import tomllib

from kshot.trainer.errors import RecipeError


def override(document: dict[str, object], setting: str) -> None:
    """Set `dotted.key=value` in a document, whose parser refuses unknown keys.

    The value is written as in TOML, where quotes around text are optional; without one the key is
    left out. Raises `RecipeError`.
    """
    key, equals, value = (word.strip() for word in setting.partition("="))
    if not equals or not key:
        raise RecipeError(f"setting: expected key=value, as in inner.step_count=3, got {setting!r}")
    table: object = document
    *parents, last = key.split(".")
    for depth, name in enumerate([*parents, last]):
        if not isinstance(table, dict):
            place = ".".join(parents[:depth])
            raise RecipeError(f"setting {key}: {place} is a value and has no key {name!r}")
        if depth < len(parents):
            table = table.setdefault(name, {})
        elif value:
            table[last] = _value(value, table.get(last))
        else:
            table.pop(last, None)


def _value(text: str, present: object) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML, too long an integer, too deep a list
        return text
    if set(parsed) != {"value"} or (isinstance(present, str) and text[:1] not in ("'", '"')):
        return text
    return parsed["value"]
