"""Where compiled steps are kept, and under which names."""

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.learner import (
    CompilationError,
    StepCache,
    StepSpec,
    compile_step,
    default_cache_folder,
)
from kshot.learner.compile import step_cache

CPU = torch.device("cpu")


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    cache = StepCache.open(tmp_path / "one" / "two")

    status = cache.folder.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert StepCache.open(cache.folder) == cache


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(CompilationError) as caught:
        StepCache.open(folder)

    owner = os.getuid()
    assert str(caught.value) == (
        f"{folder}: expected a folder of user {owner} with mode 700, for its files are run; "
        f"got user {owner} and mode {mode:o}"
    )


def test_a_folder_that_others_may_read_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "readable"
    folder.mkdir()
    folder.chmod(0o755)

    assert StepCache.open(folder).folder == folder


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)

    with pytest.raises(
        CompilationError, match=rf"expected a folder of user {owner + 1} .* got user {owner} "
    ):
        StepCache.open(tmp_path / "theirs")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CompilationError, match="file: File exists"):
        StepCache.open(tmp_path / "file")
    with pytest.raises(CompilationError, match="below: Not a directory"):
        StepCache.open(tmp_path / "file" / "below")


def test_the_users_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("HOME", "/home/someone")

    assert default_cache_folder() == Path("/own")
    monkeypatch.setenv("KSHOT_CACHE", "")
    assert default_cache_folder() == Path("/caches/kshot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path("/home/someone/.cache/kshot")


def test_a_step_is_not_compiled_into_a_folder_that_is_refused(
    spec: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path))

    with pytest.raises(CompilationError, match="expected a folder of user"):
        compile_step(spec, CPU)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_one_line(
    spec: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the lock's place stands for a read-only disk: root may write anywhere else."""
    cache = StepCache.open(tmp_path / "cache")
    lock = cache.path(spec, CPU).with_suffix(".lock")
    lock.mkdir()
    monkeypatch.setattr(step_cache, "compiler_name", lambda _device: "g++")

    with pytest.raises(CompilationError) as caught:
        cache.compile(spec, CPU)

    assert str(caught.value) == f"{lock}: Is a directory"


def test_an_empty_cache_has_no_step(spec: StepSpec, tmp_path: Path) -> None:
    assert StepCache.open(tmp_path / "cache").load(spec, CPU) is None


def test_equal_specs_have_the_same_file(spec: StepSpec, tmp_path: Path) -> None:
    cache = StepCache.open(tmp_path / "cache")

    assert cache.path(spec, CPU) == cache.path(
        StepSpec.from_document(spec.document()), torch.device("cpu")
    )
    assert cache.path(spec, CPU).parent == cache.folder


def _other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def _other_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.99.0")


def _other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cache, "_processor", lambda: "model name: another")


def _other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cache, "_source_digest", lambda: "another")


@pytest.mark.parametrize("change", [_other_threads, _other_torch, _other_processor, _other_sources])
def test_what_the_code_depends_on_changes_the_file(
    spec: StepSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    cache = StepCache.open(tmp_path / "cache")
    before = cache.path(spec, CPU)

    change(monkeypatch)

    assert cache.path(spec, CPU) != before


def test_another_spec_is_another_file(spec: StepSpec, tmp_path: Path) -> None:
    cache = StepCache.open(tmp_path / "cache")
    specs = [spec, spec.of_tasks(2), replace(spec, way=5), replace(spec, epsilon=1e-7)]

    assert len({cache.path(each, CPU) for each in specs}) == 4


def test_the_digest_of_the_sources_follows_every_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = step_cache._source_digest.__wrapped__  # a process digests but once
    digests = [digest()]
    copied = tmp_path / "learner"
    shutil.copytree(Path(step_cache.__file__).parents[1], copied)
    monkeypatch.setattr(step_cache, "__file__", str(copied / "compile" / "step_cache.py"))
    digests.append(digest())
    with (copied / "networks" / "columns.py").open("a") as file:
        file.write("# changed\n")
    digests.append(digest())

    assert digests[0] == digests[1]
    assert digests[1] != digests[2]


def test_a_step_that_is_gone_at_once_is_reported(
    spec: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a job empties the cache folder."""
    cache = StepCache.open(tmp_path)
    monkeypatch.setattr(step_cache, "compiler_name", lambda _device: "g++")
    monkeypatch.setattr(
        step_cache, "write_package", lambda _step, _like, package: package.write_bytes(b"")
    )
    monkeypatch.setattr(step_cache, "check_libraries", lambda _package: None)
    monkeypatch.setattr(StepCache, "load", lambda *_: None)

    with pytest.raises(CompilationError) as caught:
        cache.compile(spec, CPU)

    assert str(caught.value) == (
        f"{cache.path(spec, CPU)} is gone after it was compiled; check what else empties the folder"
    )
