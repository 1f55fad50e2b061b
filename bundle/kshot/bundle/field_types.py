"""The types of a document's fields: numbers and text, narrowed by rules."""

from __future__ import annotations

import re
from typing import Annotated

from kshot.bundle.document import Rule

NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,63}"

Count = Annotated[int, Rule("an integer of at least 1", lambda value: value >= 1)]
Natural = Annotated[int, Rule("an integer of at least 0", lambda value: value >= 0)]
Way = Annotated[int, Rule("an integer of at least 2", lambda value: value >= 2)]
Positive = Annotated[float, Rule("a number above 0", lambda value: value > 0)]
Temperature = Annotated[
    float, Rule("a number from 0.001 to 1000", lambda value: 0.001 <= value <= 1000)
]
Fraction = Annotated[float, Rule("a number from 0 to 1", lambda value: 0 <= value <= 1)]
Decay = Annotated[float, Rule("a number of at least 0, below 1", lambda value: 0 <= value < 1)]
Text = Annotated[str, Rule("some text", lambda value: bool(value.strip()))]
Name = Annotated[str, Rule(f"a match of {NAME_PATTERN}", re.compile(NAME_PATTERN).fullmatch)]
Digest = Annotated[str, Rule("64 digits 0-9a-f", re.compile("[0-9a-f]{64}").fullmatch)]
