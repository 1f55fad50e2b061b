"""Requests: dataclasses whose fields declare the options of a command.

The default of a field is what `option` or `argument` returns. `takes` gives a command the options
of all fields and calls it with the request.
"""

from collections.abc import Callable
from dataclasses import field, fields
from enum import StrEnum
from functools import wraps
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

Request = TypeVar("Request")


def argument(metavar: str, **settings: object) -> Any:  # noqa: ANN401 -- as `dataclasses.field`
    """Declare a field of a request as an argument, in the words of `click.argument`."""
    return field(metadata={"declare": click.argument, "metavar": metavar, **settings})


def option(help_text: str | None = None, flag: str | None = None, **settings: object) -> Any:  # noqa: ANN401 -- as `dataclasses.field`
    """Declare a field of a request as an option, in the words of `click.option`.

    The flag is that of the field's name unless it is given; a default is shown. Booleans,
    `Literal`s, enumerations and tuples of an enumeration need no type.
    """
    shown = {"show_default": True} if settings.get("default") is not None else {}
    given = {"declare": click.option, "flag": flag, "help": help_text}
    return field(metadata={**given, **shown, **settings})


def takes(request: type[Request]) -> Callable[[Callable[[Request], None]], Callable[..., None]]:
    """Give a command the options of a request, and call it with the request that they make."""

    def decorate(command: Callable[[Request], None]) -> Callable[..., None]:
        @wraps(command)
        def taking(**given: object) -> None:
            command(request(**given))

        for name, settings in reversed(_declared(request).items()):
            flags = [settings.pop("flag")] if "flag" in settings else []
            taking = settings.pop("declare")(*flags, name, **settings)(taking)
        return taking

    return decorate


def flag_and_type(request: type, name: str) -> tuple[str, click.ParamType[Any]]:
    """Return the flag of a request's option, without dashes, and the type of its values."""
    settings = _declared(request)[name]
    return settings["flag"].split("/")[0].removeprefix("--"), settings.get("type", click.BOOL)


def _declared(request: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401 -- any dataclass
    """Return what the fields declare, with flags and types that follow from names and hints."""
    hints, declared = get_type_hints(request), {}
    for of in fields(request):
        declared[of.name] = settings = dict(of.metadata)
        if "flag" in settings:
            settings["flag"] = settings["flag"] or "--" + of.name.replace("_", "-")
            declared[of.name] = {**_type_of(hints[of.name], settings["flag"]), **settings}
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
