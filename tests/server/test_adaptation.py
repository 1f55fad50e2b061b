"""What an adaptation keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from kshot.bundle import BatchNormMode
from kshot.server.adaptation import _kept_support


def test_a_head_in_mode_stored_does_not_hold_the_features() -> None:
    """A view would: the cache counts the head alone, and features of many examples are larger."""
    support = np.ones((25, 1000, 1, 1), np.float32)
    options = SimpleNamespace(batch_norm_mode=BatchNormMode.STORED)

    kept = _kept_support(cast(Any, SimpleNamespace(options=options, support=support)))

    assert kept.shape == (25, 0, 1, 1)
    assert not np.may_share_memory(kept, support) and kept.base is None
