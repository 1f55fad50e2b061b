"""Strict reading of a JSON document into dataclasses, directed by their type hints.

Every key must be there and no other, but for fields of a type `... | None`, which may be left out;
a mistake is reported as a dotted field, the value got and the value wanted. A type may be narrowed
with `Annotated[type, Rule(...)]`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

_SCALARS = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}
_SHOWN_CHARACTERS = 60
_MAX_FIELD_CHARACTERS = 200

T = TypeVar("T")


class DocumentError(ValueError):
    """A document does not fit; the sentence names the field, what it has and what it must have."""

    def __init__(self, field: str, got: str, wanted: str) -> None:
        field = field[:_MAX_FIELD_CHARACTERS] or "the document"
        super().__init__(f"{field}: got {got}, wanted {wanted}")


@dataclass(frozen=True)
class Rule:
    """A condition on a value beyond its type, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


def read_json(text: bytes) -> object:
    """Decode UTF-8 JSON; refuse repeated keys and non-finite numbers with `DocumentError`."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError("", f"text that is not JSON ({error})", "a JSON object") from error


def parse(kind: type[T], value: object) -> T:
    """Build a `kind` from plain JSON values; raise `DocumentError` for anything unexpected."""
    return typing.cast(T, _parse(kind, value, ""))


def plain(value: object) -> object:
    """Turn dataclasses back into JSON-ready values: keys in field order, mappings sorted.

    What is None is left out, as `parse` takes it.
    """
    if dataclasses.is_dataclass(value):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise DocumentError(key, "this key twice", "it once")
        values[key] = value
    return values


def _refuse_constant(name: str) -> object:
    raise DocumentError("", name, "finite numbers only")


def _parse(kind: Any, value: object, field: str) -> object:  # noqa: ANN401 -- a type form
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        parsed = _parse(arguments[0], value, field)
        for rule in arguments[1:]:
            if not rule.holds(parsed):
                raise DocumentError(field, _show(value), rule.wanted)
        return parsed
    if origin is typing.Literal:
        return _member(arguments, value, field)
    if origin in (typing.Union, types.UnionType):
        present = tuple(argument for argument in arguments if argument is not types.NoneType)
        if len(present) == 1:
            return _parse(present[0], value, field)
        return _alternative(present, value, field)
    if origin is tuple:
        return _items(arguments, value, field)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            key: _parse(arguments[1], item, _join(field, key))
            for key, item in _object(value, field).items()
        }
    if dataclasses.is_dataclass(kind):
        return _record(typing.cast(type, kind), value, field)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(_member([member.value for member in kind], value, field))
    return _scalar(kind, value, field)


def _record(kind: type, value: object, field: str) -> object:
    values = _object(value, field)
    types_by_name = typing.get_type_hints(kind, include_extras=True)
    hints = {item.name: types_by_name[item.name] for item in dataclasses.fields(kind)}
    for key in values:
        if key not in hints:
            raise DocumentError(_join(field, key), "an unknown key", f"one of {_list(hints)}")
    for key, hint in hints.items():
        if key not in values and types.NoneType not in typing.get_args(hint):
            raise DocumentError(_join(field, key), "no such key", "it to be there")
    return kind(
        **{
            key: _parse(hint, values[key], _join(field, key)) if key in values else None
            for key, hint in hints.items()
        }
    )


def _alternative(kinds: tuple[Any, ...], value: object, field: str) -> object:
    if all(kind in _SCALARS for kind in kinds):
        if type(value) not in kinds:
            wanted = " or ".join(_SCALARS[kind] for kind in kinds)
            raise DocumentError(field, _show(value), wanted)
        return _scalar(type(value), value, field)
    # Alternatives of dataclasses tell themselves apart by their first field, a literal.
    tag = dataclasses.fields(kinds[0])[0].name
    by_tag = {getattr(kind, tag): kind for kind in kinds}
    chosen = _object(value, field).get(tag)
    return _record(by_tag[_member(list(by_tag), chosen, _join(field, tag))], value, field)


def _items(kinds: tuple[Any, ...], value: object, field: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise DocumentError(field, _show(value), "a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise DocumentError(field, f"{len(value)} items", f"{len(kinds)}")
    pairs = zip(kinds, value, strict=True)
    return tuple(
        _parse(kind, item, f"{field}[{index}]") for index, (kind, item) in enumerate(pairs)
    )


def _scalar(kind: type, value: object, field: str) -> object:
    if kind is float and type(value) in (int, float):
        number = typing.cast(float, value)
        if abs(number) <= sys.float_info.max:
            return float(number)
    elif type(value) is kind:
        return value
    raise DocumentError(field, _show(value), _SCALARS[kind])


def _member(allowed: typing.Sequence[Any], value: object, field: str) -> Any:  # noqa: ANN401 -- as given
    for member in allowed:
        if type(value) is type(member) and value == member:
            return member
    raise DocumentError(field, _show(value), f"one of {_list(allowed)}")


def _object(value: object, field: str) -> dict[str, object]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    raise DocumentError(field, _show(value), "an object")


def _join(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _list(values: typing.Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _show(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
