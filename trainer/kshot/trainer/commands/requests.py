"""Requests: dataclasses whose fields declare the options of a command.

A field is `Annotated` with what `option` or `argument` returns; `takes` gives a command the options
of all fields and calls it with the request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

__all__ = ["Option", "argument", "flag_and_type", "numbers", "option", "takes"]

Request = TypeVar("Request")
Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True)
class Option:
    """How an option or an argument is declared to click."""

    kind: Callable[..., Callable[[Command], Command]]
    flag: str | None
    settings: Mapping[str, Any]

    def decorator(self, name: str) -> Callable[[Command], Command]:
        """Return what gives a command this option, as the parameter of this name."""
        flags = (self.flag,) if self.flag else ()
        return self.kind(*flags, name, **self.settings)


def argument(metavar: str, **settings: object) -> Option:
    """Declare a command's argument, in the words of `click.argument`."""
    return Option(click.argument, None, {"metavar": metavar, **settings})


def option(help_text: str | None = None, flag: str | None = None, **settings: object) -> Option:
    """Declare a command's option, in the words of `click.option`; a default is shown.

    The flag is that of the field's name unless it is given. Booleans, `Literal`s, enumerations and
    tuples of an enumeration need no type.
    """
    shown = {"show_default": True} if settings.get("default") is not None else {}
    return Option(click.option, flag, {"help": help_text, **shown, **settings})


def takes(request: type[Request]) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Give a command the options of a request, and call it with the request that they make."""

    def decorate(command: Callable[[Request], None]) -> Callable[..., None]:
        @wraps(command)
        def taking(**given: object) -> None:
            command(request(**given))

        for name, declared in reversed(_declared(request).items()):
            taking = declared.decorator(name)(taking)
        return taking

    return decorate


def flag_and_type(request: type, name: str) -> tuple[str, click.ParamType[Any]]:
    """Return the flag of a request's field, without dashes, and the type of its values."""
    declared = _declared(request)[name]
    assert declared.flag is not None  # noqa: S101 -- only options are asked for
    flag = declared.flag.split("/")[0].removeprefix("--")
    return flag, declared.settings.get("type", click.BOOL)


def _declared(request: type) -> dict[str, Option]:
    """Return what the fields declare, with flags and types that follow from names and hints."""
    declared = {}
    for name, hint in get_type_hints(request, include_extras=True).items():
        found = hint.__metadata__[0]
        if found.kind is click.option:
            flag = found.flag or "--" + name.replace("_", "-")
            settings = {**_type_of(hint.__origin__, flag), **found.settings}
            found = Option(found.kind, flag, settings)
        declared[name] = found
    return declared


def _type_of(hint: Any, flag: str) -> dict[str, Any]:  # noqa: ANN401 -- any type there is
    kind = get_args(hint)[0] if isinstance(hint, UnionType) else hint  # without None
    if kind is bool:
        return {"is_flag": True} if "/" not in flag else {}
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind))}
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        types = {"type": _words(member)} if issubclass(member, StrEnum) else {}
        return {"metavar": "LIST", **types}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": Word(kind)}
    return {}


class Word(click.Choice[str]):
    """One word of an enumeration, by its value."""

    def __init__(self, kind: type[StrEnum]) -> None:
        # By value: given the members, newer releases of click would ask for their names.
        super().__init__([member.value for member in kind])
        self._kind = kind

    def convert(
        self,
        value: Any,  # noqa: ANN401 -- as click declares it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 -- as above
        """Return the member of the enumeration."""
        return self._kind(super().convert(value, param, ctx))


def _words(kind: type[StrEnum]) -> Callable[[str], tuple[StrEnum, ...]]:
    """Return the type of words separated by commas, each kept once."""
    word = Word(kind)

    def convert(text: str) -> tuple[StrEnum, ...]:
        parts = text.split(",")
        return tuple(dict.fromkeys(word.convert(part.strip(), None, None) for part in parts))

    return convert


def numbers(least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    """Return the type of whole numbers separated by commas: sorted, each kept once."""
    number = click.IntRange(least, most)

    def convert(text: str) -> tuple[int, ...]:
        words = [word.strip() for word in text.split(",")]
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            raise click.BadParameter(f"expected whole numbers separated by commas, got {text!r}")
        return tuple(sorted({number.convert(int(word), None, None) for word in words}))

    return convert
