"""A look at a port of this machine: whether it speaks TLS, which gRPC's words may hide.

gRPC tries each address of `localhost` and tells of the last one alone, where often nothing listens.
"""

from __future__ import annotations

import socket
import ssl

_SECONDS = 0.5


def speaks_tls(host: str, port: int) -> bool | None:
    """Tell whether what listens at an address speaks TLS; None where nothing listens."""
    try:
        with socket.create_connection((host, port), _SECONDS) as connection:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # nothing is sent: it only answers, or does not
            context.set_alpn_protocols(["h2"])
            try:
                with context.wrap_socket(connection):
                    return True
            except ssl.SSLError as error:
                return "WRONG_VERSION_NUMBER" not in str(error)
            except OSError:  # it waits for something else, or ends the connection
                return False
    except OSError:
        return None
