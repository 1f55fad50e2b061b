"""Strict reading of a JSON document into dataclasses, directed by their type hints.

Every key is required, except for fields of a type `... | None`; other keys are refused. An error
names the dotted field, what was expected and what it got. `Annotated[type, Rule(...)]` narrows a
type.
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
    """A field of a document is wrong; the message names the field and the problem."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field[:_MAX_FIELD_CHARACTERS] or 'the document'}: {problem}")


@dataclass(frozen=True)
class Rule:
    """A condition on a value beyond its type: what is expected, in words, and the test."""

    expected: str
    holds: Callable[[Any], bool]


def expect(condition: bool, field: str, expected: object, got: object) -> None:
    """Raise `DocumentError` unless a condition on a field holds."""
    if not condition:
        raise DocumentError(field, f"expected {expected}, got {got}")


def read_json(text: bytes) -> object:
    """Decode UTF-8 JSON; raise `DocumentError` for repeated keys and non-finite numbers."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError("", f"not JSON: {error}") from error


def parse(kind: type[T], value: object) -> T:
    """Build a `kind` from plain JSON values; raise `DocumentError` for anything unexpected."""
    return typing.cast(T, _parse(kind, value, ""))


def plain(value: object) -> object:
    """Turn dataclasses back into JSON-ready values: keys in field order, mappings sorted.

    None is left out; `parse` reads a missing key as None.
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
            raise DocumentError(key, "the key appears twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> object:
    raise DocumentError("", f"expected finite numbers, got {name}")


def _parse(kind: Any, value: object, field: str) -> object:  # noqa: ANN401 -- a type form
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        parsed = _parse(arguments[0], value, field)
        for rule in arguments[1:]:
            expect(rule.holds(parsed), field, rule.expected, _show(value))
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
            raise DocumentError(_join(field, key), f"unknown key; expected one of {_list(hints)}")
    for key, hint in hints.items():
        if key not in values and types.NoneType not in typing.get_args(hint):
            raise DocumentError(_join(field, key), "required key is missing")
    return kind(
        **{
            key: _parse(hint, values[key], _join(field, key)) if key in values else None
            for key, hint in hints.items()
        }
    )


def _alternative(kinds: tuple[Any, ...], value: object, field: str) -> object:
    if all(kind in _SCALARS for kind in kinds):
        if type(value) not in kinds:
            raise _mismatch(field, " or ".join(_SCALARS[kind] for kind in kinds), value)
        return _scalar(type(value), value, field)
    # Alternatives of dataclasses tell themselves apart by their first field, a literal.
    tag = dataclasses.fields(kinds[0])[0].name
    by_tag = {getattr(kind, tag): kind for kind in kinds}
    chosen = _object(value, field).get(tag)
    return _record(by_tag[_member(list(by_tag), chosen, _join(field, tag))], value, field)


def _items(kinds: tuple[Any, ...], value: object, field: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _mismatch(field, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    expect(len(value) == len(kinds), field, f"{len(kinds)} items", len(value))
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
    raise _mismatch(field, _SCALARS[kind], value)


def _member(allowed: typing.Sequence[Any], value: object, field: str) -> Any:  # noqa: ANN401 -- as given
    for member in allowed:
        if type(value) is type(member) and value == member:
            return member
    raise _mismatch(field, f"one of {_list(allowed)}", value)


def _object(value: object, field: str) -> dict[str, object]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    raise _mismatch(field, "an object", value)


def _mismatch(field: str, expected: str, value: object) -> DocumentError:
    return DocumentError(field, f"expected {expected}, got {_show(value)}")


def _join(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _list(values: typing.Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _show(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
