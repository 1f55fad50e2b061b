"""Names that an operator gives: of tenants and of keys. None can steer a terminal or be a path."""

from __future__ import annotations

import re
from typing import Annotated

from kshot.bundle.document import Rule

_TENANT = re.compile("[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_MAX_KEY_NAME = 64

TENANT_RULE = Rule(
    "1 to 40 of a-z, 0-9 and -, not - at either end",
    lambda value: _TENANT.fullmatch(value) is not None,
)
KEY_NAME_RULE = Rule(
    f"1 to {_MAX_KEY_NAME} printable characters",
    lambda value: 0 < len(value) <= _MAX_KEY_NAME and value.isprintable(),
)

TenantName = Annotated[str, TENANT_RULE]
KeyName = Annotated[str, KEY_NAME_RULE]
