"""Single values of a recipe, set over those of its file."""

import tomllib

from kshot.trainer.errors import RecipeError

__all__ = ["override"]

# Tables that a recipe may lack: set as a whole where they are missing.
OPTIONAL_TABLES = ("augmentation",)


def override(document: dict[str, object], setting: str) -> None:
    """Set ``dotted.key=value`` in a document, the value written as in TOML; raises RecipeError.

    Quotes around text may be left out.
    """
    key, equals, value = setting.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"setting is {setting!r}, wanted key=value, as in inner.step_count=3")
    table: object = document
    *parents, last = key.split(".")
    optional = bool(parents) or last in OPTIONAL_TABLES
    for depth, name in enumerate([*parents, last]):
        known = isinstance(table, dict) and (name in table or (optional and depth == len(parents)))
        if not known:
            place = ".".join(key.split(".")[:depth]) or "the recipe"
            wanted = (
                f"wanted one of: {', '.join(table)}" if isinstance(table, dict) else "it is a value"
            )
            if not depth and name in OPTIONAL_TABLES:
                wanted = f"wanted the whole of it: {name}={{ key = value, ... }}"
            raise RecipeError(f"setting {key}: {place} has no key {name!r}, {wanted}")
        assert isinstance(table, dict)  # noqa: S101 -- known
        if depth < len(parents):
            table = table[name]
    assert isinstance(table, dict)  # noqa: S101 -- the loop above walked through it
    # A last key that is not there may be an optional one; an unknown one is refused by the parser.
    table[last] = _value(value.strip(), table.get(last))


def _value(text: str, present: object) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML, too long an integer, too deep a list
        return text
    if set(parsed) != {"value"} or (isinstance(present, str) and text[:1] not in ("'", '"')):
        return text
    return parsed["value"]
