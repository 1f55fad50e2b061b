import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kshot.engine.models import LoadedModel
from kshot.engine.programs import Programs
from kshot.engine.slot_tasks import step_spec
from kshot.engine.warm_up import blank_task
from kshot.learner import RefusedStepError, StepCache, StepSpec, default_cache_folder


def test_a_failure_is_logged_with_the_helper_s_reason(
    model: LoadedModel,
    small_step: StepSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The compiler that is found does not work; those who wait go on without a compiled step."""
    compiler, cache = tmp_path / "g++", tmp_path / "cache"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    programs = Programs(StepCache.open(cache), model.device)

    with caplog.at_level(logging.WARNING):
        programs.get(small_step)
        programs.wait(small_step)

    assert programs.get(small_step) is None
    (record,) = caplog.records
    assert record.getMessage() == "compile_failed"
    assert record.fields["reason"].startswith("the inner step cannot be compiled: ")  # type: ignore[attr-defined]  # what the engine adds
    assert not list(cache.glob("*.pt2"))
    programs.close()


def test_without_a_compiler_nothing_is_tried(
    model: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The engine says once that there is none; what was compiled before would be loaded."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    programs = Programs(StepCache.open(tmp_path / "cache"), model.device)
    spec = step_spec(model, blank_task(model)).of_tasks(1)

    with caplog.at_level(logging.WARNING):
        programs.get(spec)
        programs.wait(spec)

    assert programs.get(spec) is None
    assert not caplog.records


@pytest.mark.compiled
def test_a_step_that_failed_when_it_ran_is_never_returned_again(
    model: LoadedModel, default_step: StepSpec
) -> None:
    programs = Programs(StepCache.open(default_cache_folder()), model.device)
    assert programs.get(default_step) is not None

    programs.refuse(default_step)

    assert programs.get(default_step) is None
    programs.close()


def test_a_refused_step_is_logged_once_and_not_compiled_again(
    model: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is intact: compiling it at every start would change nothing."""

    def refuse(*_: object) -> None:
        raise RefusedStepError("step.pt2: the compiled step cannot be loaded here")

    def fail(*_: object) -> str:
        raise AssertionError("compiled again")

    monkeypatch.setattr(StepCache, "load", refuse)
    monkeypatch.setattr(Programs, "_compile", fail)
    programs = Programs(StepCache.open(tmp_path / "cache"), model.device)
    spec = step_spec(model, blank_task(model)).of_tasks(1)

    with caplog.at_level(logging.WARNING):
        programs.get(spec)
        programs.wait(spec)
        assert [programs.get(spec) for _ in range(3)] == [None] * 3

    (record,) = caplog.records
    assert record.getMessage() == "compiled_step_refused"
    assert "step.pt2" in record.fields["reason"]  # type: ignore[attr-defined]  # what the engine adds


def test_a_load_without_memory_is_tried_again(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Exception | str] = [torch.OutOfMemoryError("out of memory"), "the step"]

    def load(*_: object) -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(StepCache, "load", load)
    monkeypatch.setattr(Programs, "_compile", lambda *_: "")
    programs = Programs(StepCache.open(tmp_path / "cache"), model.device)
    spec = step_spec(model, blank_task(model)).of_tasks(1)

    programs.get(spec)
    programs.wait(spec)

    assert programs.get(spec) == "the step"
    programs.close()


def test_without_a_cache_nothing_is_compiled(model: LoadedModel) -> None:
    programs = Programs(None, model.device)
    spec = step_spec(model, blank_task(model)).of_tasks(1)

    programs.get(spec)
    programs.wait(spec)

    assert programs.get(spec) is None


def test_what_another_engine_compiles_meanwhile_is_not_compiled_again(
    model: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other has its turn first."""
    cache, spec = StepCache.open(tmp_path / "cache"), step_spec(model, blank_task(model))
    path = cache.path(spec, model.device)
    take_turn = StepCache.turn

    @contextmanager
    def wait_for_other(this: StepCache) -> Iterator[None]:
        with take_turn(this):
            path.write_text("compiled")
        with take_turn(this):
            yield

    def fail(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(StepCache, "turn", wait_for_other)
    monkeypatch.setattr(StepCache, "load", lambda *_: "the step" if path.exists() else None)
    monkeypatch.setattr(Programs, "_compile", fail)
    programs = Programs(cache, model.device)

    with caplog.at_level(logging.INFO):
        assert programs.get(spec, "small") is None
        programs.wait(spec)
        assert programs.get(spec) == "the step"

    (record,) = caplog.records
    assert record.getMessage() == "compiled"
    assert record.fields["model"] == "small"  # type: ignore[attr-defined]  # what the engine adds
    assert programs.compiling_count() == 0
    programs.close()
