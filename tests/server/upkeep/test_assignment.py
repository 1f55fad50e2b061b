"""`kshot store assign`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.server.errors import AdaptedModelNotFound
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore
from kshot.server.upkeep import assignment
from kshot.server.upkeep.command import command

FAR = 9e9  # the command uses the machine's clock
OpenStore = Callable[..., LocalStore]
MakeArrays = Callable[..., AdaptedArrays]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]


@pytest.fixture
def stopped(
    folder: Path,
    open_store: OpenStore,
    make_model: Callable[..., AdaptedModelRecord],
    make_arrays: MakeArrays,
) -> Path:
    """A store of three models that belong to nobody."""
    with open_store() as store:
        for seed, model_id in enumerate(("a0", "a1", "a2")):
            store.put(make_model(model_id, expire_time=FAR), make_arrays(seed))
    return folder


def run(store: Path, *arguments: str | Path) -> Result:
    options = ("assign", "--store", store, "--tenant", "acme", *arguments)
    return CliRunner().invoke(command, [str(each) for each in options])


def test_named_models_get_an_owner(
    stopped: Path,
    tmp_path: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    """Also a repair that makes the index again from the files finds the owner."""
    audit = tmp_path / "audit"

    done = run(stopped, "a1", "--audit-log", audit)
    for each in stopped.glob("index.sqlite3*"):
        each.unlink()
    CliRunner().invoke(command, ["repair", str(stopped)])

    assert (done.exit_code, done.stdout) == (0, f"{stopped}: 1 models now belong to acme\n")
    with open_store() as store:
        assert store.get("a1", "acme").tenant == "acme"
        assert_same(store.read("a1", "acme"), make_arrays(1))
        assert store.get("a0").tenant == ""
        with pytest.raises(AdaptedModelNotFound):
            store.get("a1")
    line = json.loads(audit.read_text())
    assert (line["action"], line["tenant"], line["object"]) == (
        "assign_adapted_model",
        "acme",
        "a1",
    )


def test_all_of_nobody_get_an_owner(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore
) -> None:
    monkeypatch.setattr(assignment, "_PAGE", 2)

    document = json.loads(run(stopped, "--all", "--json").stdout)
    again = run(stopped, "--all")

    assert sorted(document["ids"]) == ["a0", "a1", "a2"]
    assert again.stdout == f"{stopped}: 0 models now belong to acme\n"
    with open_store() as store:
        assert store.use_by_tenant()["acme"][0] == 3


def test_a_damaged_model_is_named(stopped: Path, file_of: Callable[[str], Path]) -> None:
    content = bytearray(file_of("a1").read_bytes())
    content[-1] ^= 1
    file_of("a1").write_bytes(content)

    done = run(stopped, "--all")

    assert (done.exit_code, done.stderr) == (1, "a1  damaged\n")
    assert done.stdout == f"{stopped}: 2 models now belong to acme\n"


def test_unknown_ids_change_nothing(stopped: Path, open_store: OpenStore) -> None:
    for wrong in ("nothing", "../a0"):
        refused = run(stopped, "a0", wrong)
        assert refused.exit_code == 1
        assert "expected the id of a model that belongs to nobody" in refused.stderr

    with open_store() as store:
        assert store.get("a0").tenant == ""
        assert "in use" in run(stopped, "--all").stderr


def test_ids_or_all_are_wanted(stopped: Path, tmp_path: Path) -> None:
    assert run(stopped).exit_code == 2
    assert run(stopped, "a0", "--all").exit_code == 2
    assert "expected the folder of a store" in run(tmp_path / "none", "--all").stderr
