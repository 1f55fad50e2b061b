"""Recipes as the TOML that makes them: what a recipe of one's own starts from."""

from collections.abc import Mapping
from importlib.resources import files

from kshot.trainer.experiment_files import arm_documents

__all__ = ["laid_out", "shipped_text"]


def shipped_text(name: str) -> str:
    """Return a shipped recipe as TOML: its file, comments too, or an experiment's arm laid out.

    Raises ``KeyError`` where there is none of this name.
    """
    resource = files("kshot.trainer.recipe") / "shipped" / f"{name}.toml"
    if resource.is_file():
        return resource.read_text(encoding="utf-8")
    return laid_out(arm_documents()[name])


def laid_out(document: Mapping[str, object]) -> str:
    """Write plain values as TOML that reads as the same: tables by headings, those in lists inline.

    Raises ``ValueError`` for a value that TOML has not.
    """
    return "\n".join(_lines(document, ""))


def _lines(table: Mapping[str, object], heading: str) -> list[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{heading}]"] if heading and (values or not table) else []
    lines += [f"{_text(key)} = {_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            below = _lines(value, f"{heading}.{_text(key)}" if heading else _text(key))
            lines += ["", *below] if lines else below
    return [*lines, ""] if not heading else lines


def _text(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _value(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        pairs = (f"{_text(key)} = {_value(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    raise ValueError(f"{value!r} is no value of TOML")


def _quoted(text: str) -> str:
    """Quote text as a basic string: quotes, backslashes and control characters escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    shown = (f"\\u{ord(c):04X}" if ord(c) < 0x20 or ord(c) == 0x7F else c for c in escaped)
    return f'"{"".join(shown)}"'
