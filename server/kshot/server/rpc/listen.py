"""The addresses that a server listens on: all of its host's, or none."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import grpc

from kshot.server.errors import StartError

_LOOPBACK = ("127.0.0.1", "::1")
_WILDCARD = ("0.0.0.0", "::")  # noqa: S104 -- the config asks for --insecure
# A machine without IPv6 has no ::1.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# A port that is free at one address may be taken at the other.
_TRIES = 20


Credentials = Callable[[], grpc.ServerCredentials]


def listen(
    server: grpc.aio.Server, host: str, port: int, credentials: Credentials | None = None
) -> int:
    """Listen at every address of `host` and return the port; port 0 picks a free one.

    With `credentials`, which gives each address its own, callers must speak TLS.

    gRPC is content with one of several addresses: a client of `localhost` could then reach another
    server. Raises `StartError`, before gRPC logs a problem of its own.
    """
    port, addresses = _free_port(host, port)
    if "::" in addresses:
        addresses = ["::"]  # gRPC takes both families for it
    for address in addresses:
        try:
            place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            if credentials is None:
                server.add_insecure_port(place)
            else:
                server.add_secure_port(place, credentials())
        except RuntimeError as error:  # taken since it was tried
            raise StartError(_taken(address, port)) from error
    return port


def _free_port(host: str, port: int) -> tuple[int, list[str]]:
    """Return a port that is free at all addresses of a host, and those that this machine has."""
    addresses = _addresses(host)
    for _ in range(_TRIES):
        found, here = port, list[str]()
        with ExitStack() as stack:
            for address in addresses:
                try:
                    found = stack.enter_context(_bound(address, found)).getsockname()[1]
                except OSError as error:
                    if error.errno in _NOT_HERE:
                        continue
                    if error.errno == errno.EADDRINUSE and port == 0:
                        break
                    raise StartError(_refused(address, port, error)) from error
                here.append(address)
            else:
                if here:
                    return found, here
                raise StartError(
                    f"listen: {host} is not an address of this machine; expected one that is, "
                    "such as 127.0.0.1"
                )
    raise StartError(f"listen: no free port at all of {', '.join(addresses)}; name a port")


def _addresses(host: str) -> Sequence[str]:
    """Return the addresses of a host; those of `localhost` and of wildcards in both families."""
    plain = host.removeprefix("[").removesuffix("]")
    if plain in _WILDCARD:
        return _WILDCARD
    if plain.lower() == "localhost":
        return _LOOPBACK
    try:
        found = socket.getaddrinfo(plain, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a host name"
        raise StartError(
            f"listen: {host} does not resolve ({reason}); expected an address of this machine, "
            "such as 127.0.0.1"
        ) from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _bound(address: str, port: int) -> socket.socket:
    """Return a socket with this address and port, as gRPC would bind it; raises `OSError`."""
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(sockaddr)
    except BaseException:
        bound.close()
        raise
    return bound


def _refused(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return _taken(address, port)
    if error.errno == errno.EACCES:
        return (
            f"listen: port {port} needs rights that this process does not have; choose one from "
            "1024 to 65535"
        )
    return f"listen: cannot listen on port {port} of {address}: {error.strerror}"


def _taken(address: str, port: int) -> str:
    return (
        f"listen: port {port} of {address} is taken; stop the program that has it, or choose "
        "another port, such as 0 for any that is free"
    )
