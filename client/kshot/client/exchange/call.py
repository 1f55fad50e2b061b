"""A call that is to be made, and exchanges: what is asked and read in turns, without I/O."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from kshot.client.connection.channel import Patience
    from kshot.client.connection.connection import Names

_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Call:
    """A call of `AdaptationService`: its method, its request and its time.

    `names` has the caller's own names for repeated fields of the request.
    """

    method: str
    request: Message | Iterator[Message]
    patience: Patience
    names: Names = field(default_factory=dict)


@dataclass(frozen=True)
class Done(Generic[_Result]):
    """The end of an exchange, with its result."""

    value: _Result


Answer: TypeAlias = tuple[Message, float]
"""The response to a call, and its time in milliseconds."""

Exchange: TypeAlias = Generator[Call, Answer, _Result]
"""Yields calls, is sent their answers, and returns a result; who drives it makes the calls."""


def advance(exchange: Exchange[_Result], answer: Answer | None = None) -> Call | Done[_Result]:
    """Go on with the answer to the call before, None at first, to the next call or the result."""
    try:
        return next(exchange) if answer is None else exchange.send(answer)
    except StopIteration as end:
        return Done(end.value)


def ask(call: Call, kind: type[_Response]) -> Exchange[tuple[_Response, float]]:
    """Make one call whose response is of a kind."""
    response, took_ms = yield call
    assert isinstance(response, kind)  # noqa: S101 -- gRPC reads nothing else for the method
    return response, took_ms
