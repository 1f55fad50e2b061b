from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from kshot.bundle import BatchNormMode, Manifest, Scope, ScopePolicy
from kshot.trainer.commands.evaluation_report import result_text
from kshot.trainer.commands.evaluation_session import Session
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings

RESULT = EvaluationResult(0.5, 0.1, "an interval", 0.1, 0.7, 2, 0, 3.0, (1, 1), 2, "ab")


@pytest.mark.parametrize(
    ("scope", "baseline", "said"),
    [
        (None, None, True),
        (Scope.AUTO, None, True),
        (Scope.HEAD, None, False),
        (None, Baseline.NIL, False),
    ],
)
def test_scope_auto_is_said_to_be_measured_as_head(
    manifest: Manifest, scope: Scope | None, baseline: Baseline | None, said: bool
) -> None:
    manifest = replace(manifest, scope=ScopePolicy(Scope.AUTO, (Scope.AUTO, Scope.HEAD)))
    settings = EvaluationSettings(2, 1, 1, 2, BatchNormMode.SUPPORT, scope=scope, baseline=baseline)
    session = cast(
        Session, SimpleNamespace(settings=settings, bundle=SimpleNamespace(manifest=manifest))
    )

    text = result_text(session, RESULT)

    assert text.startswith("2-way 1-shot")
    assert ("scope auto is measured as head" in text) is said
