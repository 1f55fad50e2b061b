"""`python -m studies.reliability.fuzz.worker`: one process that runs inputs of some targets.

It ends by itself when an input takes too long; a crash ends it anyhow. The input that was running
is in `current`, so the parent finds it. The last line of its output is what it found, as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from kshot.server.config import ServerConfig
from studies.reliability.bundles import small_bundles
from studies.reliability.fuzz import bundles, exports, images, index, requests
from studies.reliability.fuzz.target import Target

# More than an input may take even on a busy machine: then the process ends with a traceback.
HANG_SECONDS = 120
_MOST_FAULTS = 20


def targets(folder: Path) -> dict[str, Callable[[], Target]]:
    """Return how to make each target; `folder` keeps the small bundles."""

    def served() -> Any:  # noqa: ANN401 -- arguments of two kinds
        paths = tuple(small_bundles(folder))
        return paths, ServerConfig(bundles=paths, store=folder / "store")

    return {
        "adapt": lambda: requests.adapt_target(*served()),
        "predict": lambda: requests.predict_target(*served()),
        "infer": lambda: requests.infer_target(*served()),
        "names": requests.names_target,
        "images": images.target,
        "manifests": lambda: bundles.manifest_target(small_bundles(folder)),
        "index": lambda: index.target(folder / "index"),
        "exports": lambda: exports.target(small_bundles(folder)),
        "encoders": lambda: bundles.encoder_target(folder),
    }


def run_inputs(
    target: Target, count: int, seed: int, keep: Callable[[bytes], None], failed: Path
) -> dict[str, Any]:
    """Run inputs; those that fail are written to `failed`."""
    chance, past, slowest = random.Random(seed), 0, 0.0  # noqa: S311 -- draws inputs
    faults: list[str] = []
    for number in range(count):
        content = target.draw(chance)
        keep(content)
        if number % 50 == 0:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        began = time.process_time()
        try:
            past += target.run(content)
            problem = ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:300]
        took = time.process_time() - began
        slowest = max(slowest, took)
        if took > target.seconds:
            problem = problem or f"took {took:.1f} s of processor time"
        if problem and len(faults) < _MOST_FAULTS:
            failed.mkdir(parents=True, exist_ok=True)
            path = failed / f"{seed}-{number}"
            path.write_bytes(content)
            faults.append(f"{path.name}: {problem}")
    faulthandler.cancel_dump_traceback_later()
    return {
        "inputs": count,
        "past_parsing": past,
        "slowest_ms": round(1e3 * slowest, 1),
        "faults": faults,
    }


@contextmanager
def _covering(modules: Sequence[str], *, wanted: bool) -> Iterator[dict[str, list[int]]]:
    """Count the branches of modules that the block takes, and all of them; needs coverage.py."""
    found: dict[str, list[int]] = {}
    if not wanted:
        yield found
        return
    coverage: Any = import_module("coverage")  # not among kshot's dependencies
    files = {module: _file(module) for module in modules}
    measuring = coverage.Coverage(branch=True, data_file=None, include=list(files.values()))
    measuring.start()
    try:
        yield found
    finally:
        measuring.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report"
        measuring.json_report(outfile=str(path))
        report = json.loads(path.read_text())["files"]
    for module, file in files.items():
        for name, entry in report.items():
            if Path(name).resolve() == Path(file).resolve():
                totals = entry["summary"]
                found[module] = [totals["covered_branches"], totals["num_branches"]]


def _file(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise click.ClickException(f"{module}: expected a module to cover, got none")
    return spec.origin


@click.command()
@click.argument("names")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--count", type=int, required=True)
@click.option("--seed", type=int, required=True)
@click.option("--coverage", "covered", is_flag=True)
def main(names: str, work: Path, count: int, seed: int, covered: bool) -> None:
    """Run inputs of some targets, their names separated by commas, `count` of each."""
    warnings.simplefilter("ignore")  # Pillow's about damaged metadata
    folder = work / "fuzz" / names
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: targets(work / "bundles")[name]() for name in names.split(",")}
    modules = sorted({module for target in made.values() for module in target.modules})
    found: dict[str, Any] = {"inputs": 0, "past_parsing": 0, "slowest_ms": 0.0, "faults": []}
    with (
        (folder / "current").open("wb", buffering=0) as current,
        _covering(modules, wanted=covered) as branches,
    ):

        def keep(content: bytes) -> None:
            current.seek(0)
            current.truncate()
            current.write(content)

        for target in made.values():
            ran = run_inputs(target, count, seed, keep, folder / "failed")
            slowest = max(found["slowest_ms"], ran["slowest_ms"])
            found = {key: found[key] + ran[key] for key in found} | {"slowest_ms": slowest}
    click.echo("\n" + json.dumps(found | {"branches": branches}))


if __name__ == "__main__":
    main()
