"""A failed command as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kshot.local import leads_to_stdout


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell whether a failure is to be printed as JSON: not into a result that stdout holds."""
    given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in given and not any(
        leads_to_stdout(Path(word)) for word in arguments if word.startswith("/")
    )


def failure_document(message: str, exit_code: int, error: Exception | None) -> dict[str, object]:
    """Return a failure for machines; what only a server tells is None where none answered."""
    code = getattr(getattr(error, "code", None), "name", None)
    violations = getattr(error, "violations", ())
    return {
        "error": {
            "message": message,
            "code": code,
            "reason": getattr(error, "reason", "") or None,
            "request_id": getattr(error, "request_id", "") or None,
            "retry_after": getattr(error, "retry_after", None),
            "violations": [
                {"field": each.field, "description": each.description} for each in violations
            ],
        },
        "exit_code": exit_code,
    }
