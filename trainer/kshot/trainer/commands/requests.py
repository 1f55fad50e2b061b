"""Requests: dataclasses whose fields declare the options of a command.

The default of a field is what `option` or `argument` returns.
"""

from collections.abc import Callable
from dataclasses import field, fields
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click

Request = TypeVar("Request")


def argument(metavar: str, **settings: object) -> Any:  # noqa: ANN401 -- as `dataclasses.field`
    """Declare a field of a request as an argument, in the words of `click.Argument`."""
    return field(metadata={"metavar": metavar, **settings})


def option(help_text: str | None = None, flag: str | None = None, **settings: object) -> Any:  # noqa: ANN401 -- as `dataclasses.field`
    """Declare a field of a request as an option, in the words of `click.Option`.

    The flag is that of the field's name unless it is given; a default is shown. Booleans,
    enumerations and tuples of an enumeration need no type.
    """
    shown = settings.get("default") is not None
    return field(metadata={"flag": flag, "help": help_text, "show_default": shown, **settings})


def command_of(
    name: str, request: type[Request]
) -> Callable[[Callable[[Request], None]], click.Command]:
    """Make a function a command with the options of the request that it is called with."""

    def decorate(run: Callable[[Request], None]) -> click.Command:
        def callback(**given: object) -> None:
            run(request(**given))

        made = list(parameters(request).values())
        return click.Command(name, callback=callback, params=made, help=run.__doc__)

    return decorate


def parameters(request: Any) -> dict[str, click.Parameter]:  # noqa: ANN401 -- any dataclass
    """Return what the fields declare, with flags and types that follow from names and hints."""
    hints, made = get_type_hints(request), dict[str, click.Parameter]()
    for of in fields(request):
        settings = dict(of.metadata)
        if "flag" in settings:
            flag = settings.pop("flag") or "--" + of.name.replace("_", "-")
            settings = {**_type_of(hints[of.name]), **settings}
            made[of.name] = click.Option([flag, of.name], **settings)
        else:
            made[of.name] = click.Argument([of.name], **settings)
    return made


def _type_of(hint: Any) -> dict[str, Any]:  # noqa: ANN401 -- any type there is
    kind = get_args(hint)[0] if isinstance(hint, UnionType) else hint  # without None
    if kind is bool:
        return {"is_flag": True}
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        return {"type": words(member) if issubclass(member, StrEnum) else None, "metavar": "LIST"}
    return {"type": Word(kind)} if issubclass(kind, StrEnum) else {}


class Word(click.Choice[StrEnum]):
    """One word of an enumeration; click itself would ask for the member's name."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:  # noqa: ARG002 -- click's signature
        """Return the word as users write it."""
        return str(choice)


def words(kind: type[StrEnum]) -> Callable[[str], tuple[StrEnum, ...]]:
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
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise click.BadParameter(f"expected whole numbers separated by commas, got {text!r}")
        return tuple(sorted({number.convert(int(part), None, None) for part in parts}))

    return convert
