"""The address of a server, and the proxy that may stand before it."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from kshot.client.errors import InputError
from kshot.client.values import shown

_EXPECTED = "server address: expected HOST:PORT"
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.-]+):(?P<port>[0-9]{1,5})")
_DEFAULT_PORT = 50051
# As gRPC reads them: the first that is set counts.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXIES = ("no_grpc_proxy", "no_proxy")


def check_address(address: object) -> str:
    """Return the host of HOST:PORT, without brackets; raise `InputError` with the remedy."""
    if not isinstance(address, str):
        raise InputError(f"{_EXPECTED} as a string, got {shown(address)}")
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{_EXPECTED}, got {shown(address)}{_remedy(address)}")
    if not 0 < int(match["port"]) < 2**16:
        raise InputError(f"{_EXPECTED} with a port from 1 to 65535, got {address!r}")
    host = match["host"].strip("[]")
    if match["host"] != host and not _six(host):
        raise InputError(f"{_EXPECTED} with an IPv6 address in the brackets, got {address!r}")
    return host


def _remedy(address: str) -> str:
    """Return what to write instead, after a semicolon; empty where nobody can know."""
    plain = re.sub(r"^\w+://|\s", "", address).partition("/")[0]
    host, colon, port = plain.rpartition(":")
    if _six(plain) and not (_six(host) and len(port) > 4):
        return f"; write [{plain}]:{_DEFAULT_PORT} for that port of this IPv6 address"
    if _six(host):
        return f"; an IPv6 address needs brackets: [{host}]:{port}"
    if plain.isdecimal() or (colon and not host):
        return f"; write localhost:{port or plain} for that port of this machine"
    if not colon and re.fullmatch(r"[\w.-]+", plain):
        return f"; add the port, such as {plain}:{_DEFAULT_PORT}"
    if plain != address and _ADDRESS.fullmatch(plain):
        return f"; write {plain}"
    return ""


def _six(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def loopback(host: str) -> bool:
    """Tell whether a host is this machine, which no proxy can reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return name in ("localhost", "ip6-localhost") or name.endswith(".localhost")
    four = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or address.is_unspecified or bool(four and four.is_loopback)


def _covers(name: str, host: str) -> bool:
    """Tell whether a name of `no_proxy` covers a host: as its end, or as a network."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return host.endswith(name)


def proxy_words(host: str) -> str:
    """Say which variable sends calls to `host` through a proxy, empty if none does."""
    variable = next((name for name in _PROXIES if os.environ.get(name)), "")
    spared = next((os.environ[name] for name in _NO_PROXIES if os.environ.get(name)), "")
    names = [name.strip() for name in spared.split(",") if name.strip()]
    if not variable or loopback(host) or any(_covers(name, host) for name in names):
        return ""
    place = urlsplit(os.environ[variable]).netloc.rpartition("@")[2]  # without a password
    return (
        f"calls go through the proxy {place} of the variable {variable}; set no_proxy={host} to "
        "pass it by"
    )
