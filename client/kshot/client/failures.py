"""Words for failures of which gRPC tells in its own words: what happened, and the remedy."""

from __future__ import annotations

import re

import grpc

from kshot.client.addresses import check_address, proxy_words

_SIZES = re.compile(r"(\d+) vs\.? (\d+)")
_FOREIGN = ("http1.x", "Failed parsing HTTP/2", "Received http2 header with status")
_UNKNOWN_HOST = ("errors resolving", "address lookup failed", "resolution failed", "name resolver")
# What gRPC puts before what the system or the other side said.
_CAUSE = re.compile(r"last error: |[A-Z_]+: ipv[46]:\S+: |Failed to connect to remote host: ")
_MOST_WORDS = 200


def plain_words(code: grpc.StatusCode, text: str, address: str, timeout: float | None) -> str:
    """Return the message for a status without a reason of ours; `text` is gRPC's."""
    status = grpc.StatusCode
    if code is status.UNAVAILABLE:
        return f"cannot reach a kshot server at {address}: {_unreachable(text, address)}"
    if code is status.DEADLINE_EXCEEDED and timeout is not None:
        return f"no answer from {address} within {timeout:g} s"
    if code is status.RESOURCE_EXHAUSTED and "larger than max" in text:
        return _too_large(text, address)
    if code is status.CANCELLED and "closed" in text:
        return f"the client for {address} was closed during the call"
    said = f"{address} answered {code.name}: {text[:_MOST_WORDS]}"
    if code is status.UNIMPLEMENTED:
        return f"{said}; is a kshot server of this release or a later one there?"
    if any(words in text for words in _FOREIGN):
        return f"{said}; another program than kshot listens there: check host and port"
    return said


def unknown_host(text: str) -> bool:
    """Tell whether gRPC's words mean that the name of a host has no address."""
    return any(words in text for words in _UNKNOWN_HOST)


def _too_large(text: str, address: str) -> str:
    """Say which message is too large, and by how much."""
    sizes = _SIZES.search(text)
    got, most = sizes.groups() if sizes else ("more", "a number of")
    if text.startswith("CLIENT"):
        return (
            f"the answer of {address} is too large: expected at most {most} bytes, got {got}; "
            "ask for fewer queries at once"
        )
    return (
        f"the call is too large for {address}: expected at most {most} bytes, got {got}; "
        "send fewer or smaller images, or serve with --max-message-bytes"
    )


def _unreachable(text: str, address: str) -> str:
    """Say why a server cannot be reached, with the remedy."""
    cause = _CAUSE.split(text)[-1][:_MOST_WORDS]
    if proxy := proxy_words(check_address(address)):
        return f"{cause}; {proxy}"
    if any(words in text for words in _FOREIGN):
        return "another program than kshot listens there: check host and port"
    if unknown_host(text):
        return "there is no host of this name: check the address"
    if "failed to connect" not in text:
        return f"the connection was lost ({cause}); the server may have stopped"
    if "Connection refused" in text:
        return "nothing listens there; start `kshot serve`, or check host and port"
    if "Socket closed" in text or "reset" in text:
        return "what listens there ends the connection; is it `kshot serve`, without TLS before it?"
    return f"{cause}; start `kshot serve`, or check host and port"
