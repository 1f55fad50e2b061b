"""The token between two pages of a list: where the first ended, and what is listed."""

from __future__ import annotations

import base64
import hashlib
import json
import math

from kshot.server.errors import InvalidRequest
from kshot.server.store.files import checked_id

Position = tuple[float, str]

START: Position = (-math.inf, "")


def page_token(position: Position, listed: str | None) -> str:
    """Return the token that continues a list, of what `listed` says, after a time and id."""
    name = hashlib.sha256(repr(listed).encode()).hexdigest()[:16]
    return base64.urlsafe_b64encode(json.dumps([*position, name]).encode()).decode()


def parse_page_token(token: str, listed: str | None) -> Position:
    """Return where a page starts, the beginning for an empty token; raise `InvalidRequest`."""
    if not token:
        return START
    refused = InvalidRequest.about(
        "page_token", "expected a token from an earlier page of this list"
    )
    try:
        content = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        create_time, model_id, _ = content
        checked_id(model_id)
    except (ValueError, TypeError, RecursionError) as error:
        raise refused from error
    # The comparison refuses tokens that decode but differ from what `page_token` writes.
    if not (isinstance(create_time, float) and math.isfinite(create_time)):
        raise refused
    if page_token((create_time, model_id), listed) != token:
        raise refused
    return create_time, model_id
