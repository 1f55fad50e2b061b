"""Measure the rows of the Reptile paper's tables by the bundles that ship, and by given ones.

python studies/reproduction.py [--data DIR] [--only o15,o55] [--bundle DIR] [--page]

A row's batch-norm modes share the adaptations.
`--page` measures nothing and writes the tables of docs/reproduction.md.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kshot.bundle import COMPUTED_MODES, Bundle, Manifest, builtin_bundle, load_bundle
from kshot.bundle.choices import BatchNormMode, Head, Preconditioner
from kshot.bundle.manifest import WEIGHTS_FILE
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe
from studies.common.bundles import measured_name
from studies.common.evaluation import Evaluation, Tasks, measure_modes
from studies.common.page import table, write_blocks
from studies.common.results import DOCS, Result, read_results
from studies.common.rows import read_rows
from studies.common.runner import Options, chosen, run_work, say, study_options

STUDY = "reproduction"
# The bundles that ship with the package.
BUILTIN = ("omniglot", "omniglot-20way", "omniglot-best", "cifar-fs")
# Every evaluation of Reptile in the paper's appendix A.
STEP_COUNT = 50
COLUMNS = ("accuracy", "ci95", "ci_method", "diverged_count")
ALGORITHMS = {"reptile": "Reptile", "fomaml": "first-order MAML", "maml": "MAML"}
# The tables by how their rows are named, in the order of the page.
TABLES = {"omniglot": "o", "best": "best", "mini-imagenet": "m", "cifar-fs": "cifar"}
HEAD = (
    "row",
    "algorithm",
    "tasks",
    "meta-iterations",
    *(f"`{mode}`, %" for mode in COMPUTED_MODES),
)


@dataclass(frozen=True)
class Target:
    """One adaptation of the same tasks, answered in each batch-norm mode.

    A bundle of `recipe` answers it; with `any_training` another one on its data does, too.
    `published` and `gates` are accuracies in 0..1; a mode is reproduced if it reaches its gate on
    `decisive_count` tasks. `batch_size` is the paper's, for Reptile. The name, for `--only`, is
    that of the row and, but for Reptile, the algorithm: `o15`, `o15-fomaml`.
    """

    name: str
    recipe: str
    tasks: Tasks
    any_training: bool
    modes: tuple[BatchNormMode, ...]
    published: Mapping[BatchNormMode, float]
    gates: Mapping[BatchNormMode, float]
    decisive_count: int
    batch_size: int | None = None

    @property
    def row(self) -> str:
        """Return the row of the paper's table."""
        return self.name.partition("-")[0]

    @property
    def algorithm(self) -> str:
        """Return the algorithm of the training."""
        return self.name.partition("-")[2] or "reptile"

    def answered_by(self, manifest: Manifest) -> bool:
        """Tell whether a bundle of this training answers the row."""
        data, provenance = load_image_recipe(self.recipe).data, manifest.provenance
        trained = (provenance.recipe, provenance.algorithm) == (self.recipe, self.algorithm)
        same_data = (provenance.dataset, provenance.split) == (data.dataset, data.split)
        return same_data and (trained or self.any_training)


@cache
def targets() -> Mapping[str, Target]:
    """Read the rows by their names, the algorithms of a row one after another."""
    found = read_rows(STUDY, Target)
    rows = [target.row for target in found.values()]
    return dict(sorted(found.items(), key=lambda item: rows.index(item[1].row)))


@click.command()
@study_options
@click.option(
    "--bundle", "paths", multiple=True, metavar="DIR", help="Measure the rows that it answers."
)
def command(options: Options, paths: Sequence[str]) -> None:
    """Measure rows and keep them, or write the page."""
    if options.page:
        results = read_results(STUDY, targets(), options.out)
        write_blocks(DOCS / "reproduction.md", page_blocks(results))
        return
    bundles = [load_bundle(Path(path)) for path in paths or shipped()]
    asked = answered(chosen(targets(), options), bundles)
    if not asked:
        known = ", ".join(bundle.manifest.name for bundle in bundles)
        option = "--bundle" if paths else "--only"
        raise click.UsageError(
            f"{option}: expected rows of {known}; name another bundle with --bundle DIR"
        )
    for target, bundle in asked:
        measure = partial(measure_modes, target.modes, COLUMNS)
        work = evaluation(target, bundle, ships=not paths).work(measure, options)
        for row in run_work(STUDY, work, options).rows:
            say(f"{target.name}: {row['batch_norm']} {row['accuracy']:.4f} ± {row['ci95']:.4f}")


def shipped() -> list[Path]:
    """Return the folders of the built-in bundles."""
    return [builtin_bundle(measured_name(name)) for name in BUILTIN]


def answered(targets: Iterable[Target], bundles: Sequence[Bundle]) -> list[tuple[Target, Bundle]]:
    """Return the rows that a bundle answers by its training, and the first that does."""
    return [
        (target, answering[0])
        for target in targets
        if (answering := [of for of in bundles if target.answered_by(of.manifest)])
    ]


def evaluation(target: Target, bundle: Bundle, *, ships: bool) -> Evaluation:
    """Return what is evaluated, and what decides the numbers."""
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    deciding = {
        "learning_rate": manifest.inner_loop.learning_rate,
        "weights_digest": manifest.files[WEIGHTS_FILE].sha256,
        "algorithm": provenance.algorithm,
        "recipe": provenance.recipe,
        "meta_iterations": provenance.meta_iterations,
        "training_seed": provenance.seed,
    }
    name, words = measured_name(manifest.name) if ships else "BUNDLE", ("--batch-norm-mode", "MODE")
    adaptation = adaptation_for(target, manifest)
    return Evaluation(target.name, bundle, name, target.tasks, words, deciding, adaptation)


def adaptation_for(target: Target, manifest: Manifest) -> Mapping[str, Any]:
    """Return the paper's adaptation for Reptile, and a bundle's own for other algorithms.

    Reptile takes 50 steps from the trained head, with Adam's second moment as training left it if
    the bundle offers that. Bundles of MAML's recipes take few steps, each on the whole support set.
    """
    inner, way = manifest.inner_loop, target.tasks.way
    adaptation = {
        "step_count": inner.step_count,
        "batch_size": min(manifest.default_batch_size(way), way * target.tasks.shot),
        "preconditioner": inner.preconditioner,
        "head": manifest.head.default,
    }
    if manifest.provenance.algorithm == "reptile":
        adaptation |= {"step_count": STEP_COUNT, "batch_size": target.batch_size}
        adaptation["head"] = Head.TRAINED
        if Preconditioner.CARRIED in inner.preconditioners:
            adaptation["preconditioner"] = Preconditioner.CARRIED
    return adaptation


def page_blocks(results: Mapping[str, Result]) -> Mapping[str, str]:
    """Return the text of each block: a table for each data set, and what is missing."""
    lines: dict[str, list[list[str]]] = {prefix: [] for prefix in TABLES.values()}
    for target in targets().values():
        lines[target.row.rstrip("0123456789")].append(_line(target, results.get(target.name)))
    blocks = {name: table(HEAD, lines[prefix]) for name, prefix in TABLES.items()}
    return {**blocks, "not-measured": _missing(results)}


def _line(target: Target, result: Result | None) -> list[str]:
    algorithm, tasks, length = target.algorithm, "not measured", ""
    if result is not None:
        of = result.settings
        algorithm, tasks, length = of["algorithm"], f"{of['tasks']:,}", f"{of['meta_iterations']:,}"
        if of["recipe"] in list_recipes():
            whole = load_recipe(of["recipe"]).outer.meta_iterations
            length += f" of {whole:,}" * (whole != of["meta_iterations"])
    cells = [_cell(target, result, mode) for mode in COMPUTED_MODES]
    return [target.row, ALGORITHMS.get(algorithm, algorithm), tasks, length, *cells]


def _cell(target: Target, result: Result | None, mode: BatchNormMode) -> str:
    """Say what was measured, what the paper has, and whether the gate was reached.

    Fewer tasks than the decisive number cannot reach a gate; they miss it if their whole interval
    lies below.
    """
    rows = {row["batch_norm"]: row for row in result.rows} if result else {}
    found = rows.get(mode)
    measured = f"**{_percent(found['accuracy'])}** ± {_percent(found['ci95'])}" if found else ""
    compared = []
    if mode in target.published:
        compared.append(f"paper {_percent(target.published[mode])}")
    if mode in target.gates:
        gate = target.gates[mode]
        said = f"gate {_percent(gate).removesuffix('0')}"
        if result and found:
            trial = result.settings["tasks"] < target.decisive_count
            if trial and found["accuracy"] + found["ci95"] >= gate:
                said += " undecided"
            else:
                said += " reached" if found["accuracy"] >= gate else " missed"
        compared.append(said)
    return f"{measured} ({', '.join(compared)})".strip() if compared else measured


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _missing(results: Mapping[str, Result]) -> str:
    """List what was not measured by its reason."""
    reasons: dict[str, list[str]] = {}
    for target in targets().values():
        if target.name not in results:
            name = f"{target.row} ({ALGORITHMS[target.algorithm]})"
            reason = "mini-ImageNet's images are ImageNet's and cannot be shipped"
            if not target.row.startswith("m"):
                hours = load_recipe(target.recipe).cost.partition(": ")[2]
                reason = f"the recipe `{target.recipe}` was not trained: {hours}"
            reasons.setdefault(reason, []).append(name)
    lines = [f"- {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return "\n".join(lines) or "Every row was measured."


if __name__ == "__main__":
    command()
