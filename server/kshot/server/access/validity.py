"""When certificates are valid, read from their DER (RFC 5280): `ssl` tells only of peers.

Certificate and TBSCertificate are sequences; the latter holds an optional version (tag 0xA0), the
serial number, algorithm, issuer and validity, a sequence of two times.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_LONG = 0x80


def chain_validity(pem: str) -> tuple[datetime, datetime]:
    """Return the time span in which all certificates of a chain are valid.

    Raises `ValueError` if there is none, or one is malformed.
    """
    spans = [_validity(ssl.PEM_cert_to_DER_cert(each)) for each in _PEM.findall(pem)]
    if not spans:
        raise ValueError("it has no certificate")
    return max(start for start, _ in spans), min(end for _, end in spans)


def _validity(certificate: bytes) -> tuple[datetime, datetime]:
    _, outer, _ = _element(certificate)
    _, parts, _ = _element(outer)
    tag, _, rest = _element(parts)
    skipped = 3 if tag == _VERSION else 2  # serial number, algorithm, issuer; one is read already
    for _ in range(skipped):
        _, _, rest = _element(rest)
    _, times, _ = _element(rest)
    first_tag, first, rest = _element(times)
    last_tag, last, _ = _element(rest)
    return _time(first_tag, first), _time(last_tag, last)


def _element(content: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and the content of the first element, and what follows it."""
    if len(content) < 2:
        raise ValueError("a certificate ends too early")
    tag, size, start = content[0], content[1], 2
    if size >= _LONG:
        start += size - _LONG
        size = int.from_bytes(content[2:start])
    if len(content) < start + size:
        raise ValueError("a certificate ends too early")
    return tag, content[start : start + size], content[start + size :]


def _time(tag: int, text: bytes) -> datetime:
    if tag == _UTC_TIME:  # two digits of the year
        text = (b"20" if text < b"50" else b"19") + text
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
