from __future__ import annotations

import errno
import resource

import pytest

from kshot.server.limits.descriptors import connection_limit, out_of_descriptors, raise_limit


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (1024, 5000)
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, wanted: given.append(wanted))

    assert raise_limit() == 5000
    assert given == [(5000, 5000)]


@pytest.mark.parametrize(("limits", "wanted"), [((-1, -1), 16384), ((20000, 20000), 20000)])
def test_a_high_limit_stays(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], wanted: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits)
    monkeypatch.delattr(resource, "setrlimit")

    assert raise_limit() == wanted


@pytest.mark.parametrize(("descriptors", "most"), [(1024, 768), (256, 128), (20000, 4096)])
def test_connections_leave_descriptors_for_files(descriptors: int, most: int) -> None:
    assert connection_limit(descriptors) == most


def test_an_error_without_descriptors_is_known_by_its_cause() -> None:
    error = RuntimeError("x")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")

    assert out_of_descriptors(error)
    assert not out_of_descriptors(OSError(errno.EIO, "x"))
