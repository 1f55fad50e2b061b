import logging
from pathlib import Path

import pytest

from kshot.engine.adaptation import step_spec
from kshot.engine.models import LoadedModel
from kshot.engine.programs import Programs
from kshot.engine.warm_up import blank_task
from kshot.learner import StepCache


def test_a_failure_is_logged_with_the_helper_s_reason(
    model: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No compiler is on the path here; those who wait go on without a compiled step."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    programs = Programs(StepCache.open(tmp_path / "cache"), model.device)
    spec = step_spec(model, blank_task(model)).of_tasks(1)

    with caplog.at_level(logging.WARNING):
        programs.wait([spec])

    assert programs.get(spec) is None
    (record,) = caplog.records
    assert record.getMessage() == "compile_failed"
    assert record.fields["reason"] == "no compiler was found: install g++ or clang++"  # type: ignore[attr-defined]  # what the engine adds
    programs.close()


def test_without_a_cache_nothing_is_compiled(model: LoadedModel) -> None:
    programs = Programs(None, model.device)
    spec = step_spec(model, blank_task(model)).of_tasks(1)

    programs.wait([spec])

    assert programs.get(spec) is None
    assert not programs.load(spec)
