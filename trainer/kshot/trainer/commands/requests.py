"""Requests: dataclasses whose fields declare the options of a command.

A field is `Annotated` with what `option` or `argument` returns; `takes` gives a command the options
of all fields and calls it with the request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import wraps
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click

__all__ = ["Numbers", "Option", "argument", "flag_and_type", "option", "takes"]

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
    """Declare a command's option, in the words of `click.option`.

    The flag is that of the field's name unless it is given. A field of an enumeration, of a tuple
    of one, or a boolean needs no type.
    """
    return Option(click.option, flag, {"help": help_text, **settings})


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
        option = hint.__metadata__[0]
        settings = {**_type_of(hint.__origin__), **option.settings}
        if option.kind is click.option:
            option = replace(option, flag=option.flag or "--" + name.replace("_", "-"))
            if "/" in option.flag:
                settings.pop("is_flag")
        declared[name] = replace(option, settings=settings)
    return declared


def _type_of(hint: Any) -> dict[str, Any]:  # noqa: ANN401 -- any type there is
    kind = next((of for of in get_args(hint) if isinstance(hint, UnionType)), hint)
    if kind is bool:
        return {"is_flag": True}
    if get_origin(kind) is tuple and issubclass(get_args(kind)[0], StrEnum):
        return {"type": Words(get_args(kind)[0])}
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


class Words(click.ParamType[Any]):
    """Words of an enumeration, separated by commas; each is kept once."""

    name = "list"

    def __init__(self, kind: type[StrEnum]) -> None:
        self._word = Word(kind)

    def convert(
        self,
        value: Any,  # noqa: ANN401 -- as click declares it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 -- as above
        """Return the members of the enumeration."""
        words = [self._word.convert(word.strip(), param, ctx) for word in value.split(",")]
        return tuple(dict.fromkeys(words))


class Numbers(click.ParamType[Any]):
    """Whole numbers in a range, separated by commas; they are sorted and each is kept once."""

    name = "list"

    def __init__(self, least: int, most: int) -> None:
        self._number = click.IntRange(least, most)

    def convert(
        self,
        value: Any,  # noqa: ANN401 -- as click declares it
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401 -- as above
        """Return the numbers."""
        words = [word.strip() for word in value.split(",")]
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            self.fail(f"expected whole numbers separated by commas, got {value!r}", param, ctx)
        return tuple(sorted({self._number.convert(word, param, ctx) for word in words}))
