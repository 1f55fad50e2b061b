from __future__ import annotations

import pytest

from kshot.server.errors import InvalidRequest
from kshot.server.request.validation import check_class_name, check_id
from kshot.server.request.violations import Violations
from kshot.server.store.kept_models import new_id


def test_new_ids_fit_and_differ() -> None:
    ids = {new_id() for _ in range(100)}

    assert len(ids) == 100
    for model_id in ids:
        assert check_id(model_id, Violations())


@pytest.mark.parametrize("text", ["am-" + "a" * 26 + "\n", "am-" + "a" * 27, "AM-" + "a" * 26])
def test_what_is_no_id_is_refused(text: str) -> None:
    violations = Violations()

    assert not check_id(text, violations)
    with pytest.raises(InvalidRequest, match="adapted_model: expected"):
        violations.check()


def test_a_class_name_is_unicode_text() -> None:
    """JSON can hold a lone surrogate, which has no bytes."""
    violations = Violations()

    check_class_name("name", "a\ud800", violations)

    with pytest.raises(InvalidRequest, match="expected Unicode text, got a lone surrogate"):
        violations.check()
