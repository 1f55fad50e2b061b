"""Words for failures of which gRPC tells in its own words: what happened, and the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc

from kshot.client.connection.addresses import check_address, proxy_words
from kshot.client.connection.credentials import TLS_REMEDY, Credentials
from kshot.client.connection.probe import speaks_tls

_SIZES = re.compile(r"(\d+) vs\.? (\d+)")
_FOREIGN = ("http1.x", "Failed parsing HTTP/2", "Received http2 header with status")
_UNKNOWN_HOST = ("errors resolving", "address lookup failed", "resolution failed", "name resolver")
# What gRPC puts before what the system or the other side said.
_CAUSE = re.compile(r"last error: |[A-Z_]+: ipv[46]:\S+: |Failed to connect to remote host: ")
_MOST_WORDS = 200
_LOCALHOST = "localhost"  # has two addresses, and gRPC tells of one
_PLAIN = "it does not speak TLS; leave TLS out (--no-tls, KSHOT_TLS=0), or serve with --tls-cert"
_CERT_REMEDY = "cert= (--cert and --cert-key, KSHOT_CERT and KSHOT_CERT_KEY)"


@dataclass(frozen=True)
class Place:
    """Where a call went, and with which credentials."""

    address: str
    credentials: Credentials


def key_words(code: grpc.StatusCode, credentials: Credentials) -> str:
    """Return what to say of the key behind a refusal; empty where it is not the key's fault."""
    status = grpc.StatusCode
    if code is status.UNAUTHENTICATED or (code is status.PERMISSION_DENIED and credentials.api_key):
        return f"; {credentials.key_words()}"
    return ""


def plain_words(code: grpc.StatusCode, text: str, place: Place, timeout: float | None) -> str:
    """Return the message for a status without a reason of ours; `text` is gRPC's."""
    address, status = place.address, grpc.StatusCode
    if code is status.UNAVAILABLE:
        return f"cannot reach a kshot server at {address}: {_unreachable(text, place)}"
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


def _unreachable(text: str, place: Place) -> str:
    """Say why a server cannot be reached, with the remedy."""
    cause = _CAUSE.split(text)[-1][:_MOST_WORDS]
    host = check_address(place.address)
    if place.credentials.tls and (words := _untrusted(text, host)):
        return words
    if proxy := proxy_words(host):
        return f"{cause}; {proxy}"
    if any(words in text for words in _FOREIGN):
        return "another program than kshot listens there: check host and port"
    if unknown_host(text):
        return "there is no host of this name: check the address"
    if "failed to connect" not in text:
        return f"the connection was lost ({cause}); the server may have stopped"
    if (
        "Connection refused" in text
        and host == _LOCALHOST
        and (words := _other_speech(host, place))
    ):
        return words
    if "Connection refused" in text:
        return "nothing listens there; start `kshot serve`, or check host and port"
    if "Socket closed" in text or "reset" in text:
        return f"what listens there ends the connection; {_ended(place.credentials)}"
    return f"{cause}; start `kshot serve`, or check host and port"


def _other_speech(host: str, place: Place) -> str:
    """Say whether one side speaks TLS and the other does not; empty where both do alike."""
    tls = speaks_tls(host, int(place.address.rpartition(":")[2]))
    if tls and not place.credentials.tls:
        return f"it speaks TLS; pass {TLS_REMEDY}"
    return _PLAIN if tls is False and place.credentials.tls else ""


def _ended(credentials: Credentials) -> str:
    """Say what a server wants that ends a connection before the first answer."""
    if not credentials.tls:
        return f"if it wants TLS, pass {TLS_REMEDY}"
    if credentials.certificate is None:
        return f"if it wants clients to have certificates, pass {_CERT_REMEDY}"
    return (
        "it may refuse this client's certificate: its --client-ca must have signed it, and it "
        "must not have expired"
    )


def _untrusted(text: str, host: str) -> str:
    """Say why TLS failed, by the words of gRPC and BoringSSL; empty for another cause."""
    if "WRONG_VERSION_NUMBER" in text:
        return _PLAIN
    if "Hostname Verification" in text:
        return f"its certificate is not for {host}; use an address that the certificate names"
    if "certificate has expired" in text:
        return "its certificate has expired; the server needs a new one"
    if "certificate is not yet valid" in text:
        return "its certificate is not valid yet; compare the clocks of the two machines"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "its certificate is not signed by an authority that this client knows; pass the "
            "authority's certificate as ca= (--ca, KSHOT_CA)"
        )
    if "ALPN" in text:
        return "it speaks TLS but not gRPC: check host and port"
    return ""
