"""The one result format."""

import json
from pathlib import Path

import pytest
import torch

from studies.common.results import (
    RESULTS,
    Result,
    provenance,
    read_result,
    read_results,
    result_path,
    write_result,
)


def result(**changes: object) -> Result:
    made_with = provenance("kshot evaluate omniglot", seeds=[0, 1], device=torch.device("cpu"))
    rows = [{"mode": "support", "accuracy": 0.1}, {"mode": "transductive", "accuracy": None}]
    values: dict[str, object] = {"settings": {"tasks": 3}, "rows": rows, **changes}
    return Result("study", "name", made_with, **values)  # type: ignore[arg-type]  # by names


def test_result_is_read_as_written(tmp_path: Path) -> None:
    path = result_path("study", "name", tmp_path)
    written = result(more={"curve": [1, 2]})
    write_result(path, written)

    assert read_result(path) == written
    assert read_results("study", ["other", "name"], tmp_path) == {"name": written}
    assert '\n  ["support", 0.1],\n' in path.read_text()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("odd", [{"mode": "support"}, {"mode": "a", "accuracy": 1, "ece": 0}])
def test_rows_with_other_keys_are_refused(tmp_path: Path, odd: dict[str, object]) -> None:
    rows = [{"mode": "support", "accuracy": 0.1}, odd]

    with pytest.raises(ValueError, match="expected rows with the same keys"):
        write_result(tmp_path / "name.json", result(rows=rows))

    assert list(tmp_path.iterdir()) == []


def test_provenance_names_the_checkout_and_the_versions(tmp_path: Path) -> None:
    path = tmp_path / "name.json"
    write_result(path, result())
    found = json.loads(path.read_text())["provenance"]

    assert found["command"] == "kshot evaluate omniglot"
    assert found["seeds"] == [0, 1]
    assert found["processor"]
    assert {"python", "kshot", "torch", "numpy"} == set(found["versions"])
    assert found["commit"] is None or len(found["commit"].partition("-")[0]) == 40


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.stem)
def test_committed_results_are_in_the_format(path: Path, tmp_path: Path) -> None:
    found = read_result(path)

    assert result_path(found.study, found.name) == path
    assert found.provenance.command
    assert found.provenance.commit
    write_result(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
