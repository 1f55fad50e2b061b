"""The sockets that HTTP is answered on."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from kshot.gateway.connections import Admission, FairListener

_BACKLOG = 1024


def listen(address: str, admission: Admission) -> tuple[Sequence[socket.socket], str]:
    """Listen at every address of HOST:PORT; return the sockets, and HOST:PORT with the port.

    Their connections share the room of `admission`. Port 0 picks a free one. Exits with 1 and a
    line on stderr where that cannot be.
    """
    host, _, port_text = address.rpartition(":")
    bare, port = host.removeprefix("[").removesuffix("]"), int(port_text)
    sockets: list[FairListener] = []
    try:
        found = socket.getaddrinfo(
            bare or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _name, where in dict.fromkeys(found):
            made = FairListener(family, kind, protocol)
            made.admission = admission
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((where[0], port, *where[2:]))
            made.listen(_BACKLOG)
            port = port or made.getsockname()[1]
    except OSError as error:
        for made in sockets:
            made.close()
        sys.exit(f"http: {address}: {error.strerror or error}; name another address, or port 0")
    return sockets, f"{host}:{port}"
