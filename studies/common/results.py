"""The one format of a study's results: a JSON file for each thing that was measured.

    made_with = provenance("kshot evaluate ...", seeds=[0], device=device, bundle=bundle)
    result = Result("figures", "figure3", made_with, settings={...}, rows=[{...}, {...}])
    write_result(result_path("figures", "figure3"), result)
    read_result(result_path("figures", "figure3")).rows

All rows of a result have the same keys. Call `provenance` before a long measurement: the code that
runs is the code at its start.
"""

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from kshot.bench.environment import environment
from kshot.bundle import Bundle
from kshot.local import write_file

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "studies" / "results"
DOCS = ROOT / "docs"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    `command` measures it again; words in capitals stand for what differs from place to place: DATA
    and OUT are folders, BUNDLE is a bundle that does not ship, MODE is a row's batch-norm mode.
    What was not recorded is None or empty.
    """

    command: str
    commit: str | None
    seeds: Sequence[int]
    processor: str | None
    versions: Mapping[str, str]
    bundle: str | None = None
    bundle_digest: str | None = None


@dataclass(frozen=True)
class Result:
    """What was measured: how it was set up, and its rows.

    `more` holds what is not a table, such as curves. Everything is of JSON's types.
    """

    study: str
    name: str
    provenance: Provenance
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    more: Mapping[str, Any] = field(default_factory=dict)


def provenance(
    command: str, seeds: Sequence[int], device: torch.device, bundle: Bundle | None = None
) -> Provenance:
    """Describe this run: the checkout's commit, the processor and the versions."""
    found: Mapping[str, Any] = environment()
    return Provenance(
        command,
        commit=found["commit"],
        seeds=list(seeds),
        processor=found["gpu" if device.type == "cuda" else "cpu"],
        versions={name: str(found[name]) for name in ("python", "kshot", "torch", "numpy")},
        bundle=None if bundle is None else bundle.manifest.name,
        bundle_digest=None if bundle is None else bundle.digest,
    )


def result_path(study: str, name: str, folder: Path = RESULTS) -> Path:
    """Return where a result is kept."""
    return folder / study / f"{name}.json"


def write_result(path: Path, result: Result) -> None:
    """Write a result, a row per line, whole or not at all; its folder is made if it is missing."""
    document = asdict(result)
    rows = document.pop("rows")
    document["columns"] = columns = list(rows[0])
    if any(list(row) != columns for row in rows):
        raise ValueError(f"{path}: expected rows with the same keys, got others than {columns}")
    if not document["more"]:
        del document["more"]
    head = json.dumps(document, indent=1, allow_nan=False)
    lines = ",\n  ".join(json.dumps(list(row.values()), allow_nan=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, f'{head[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'.encode())


def read_result(path: Path) -> Result:
    """Read a result; raises `FileNotFoundError` if it was not measured."""
    document = json.loads(path.read_text())
    columns = document.pop("columns")
    document["rows"] = [dict(zip(columns, row, strict=True)) for row in document["rows"]]
    document["provenance"] = Provenance(**document["provenance"])
    return Result(**document)


def read_results(study: str, names: Iterable[str], folder: Path = RESULTS) -> Mapping[str, Result]:
    """Read those of these results that were measured, by name.

    Raises `FileNotFoundError` if none was: a page without a row would replace one with rows.
    """
    paths = {name: result_path(study, name, folder) for name in names}
    if not any(path.exists() for path in paths.values()):
        raise FileNotFoundError(errno.ENOENT, "no result of this study", str(folder / study))
    return {name: read_result(path) for name, path in paths.items() if path.exists()}
