"""Which rows are asked for, and which bundle answers each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kshot.bench.evaluated_bundle import find_builtin
from kshot.bench.refusals import WrongUse
from kshot.bench.reproduction_rows import BUILTIN, TARGETS, Target
from kshot.bench.reproduction_run import Asked
from kshot.bundle import BundleError, builtin_bundle, load_bundle

__all__ = ["ask", "shipped_names"]


def ask(names: Sequence[str], given: Sequence[str], task_count: int | None) -> list[Asked]:
    """Return the targets that were named, or all that have a bundle; None is their own tasks.

    Raises ``WrongUse`` for a row or a recipe that is none, for a row without a bundle, for a bundle
    of another origin than its rows are about, and for one that answers none of these;
    ``BundleError`` for a damaged one.
    """
    by_recipe = dict(_named(text) for text in given)
    known = {target.name: target for target in TARGETS}
    for name in names:
        if name not in known:
            raise WrongUse(f"row is {name!r}, wanted some of: {', '.join(known)}")
    asked = []
    for target in [known[name] for name in names] or TARGETS:
        path = by_recipe.get(target.recipe)
        if path is None and (target.builtin is None or not _ships(target.builtin)):
            if names:
                raise WrongUse(f"{target.name} has no built-in bundle, wanted {_option(target)}")
            continue
        bundle = find_builtin(str(target.builtin)) if path is None else load_bundle(path)
        wrong = target.wrong_origin(bundle.manifest.provenance)
        if wrong is not None:
            name = bundle.manifest.name
            raise WrongUse(f"bundle {name} does not answer {target.name}: its {wrong}")
        builtin = target.builtin if path is None else None
        asked.append(Asked(target, bundle, builtin, task_count or target.task_count))
    unused = by_recipe.keys() - {one.target.recipe for one in asked}
    if unused:
        raise WrongUse(f"--bundle names {', '.join(sorted(unused))}, of which no row is asked for")
    return asked


def shipped_names() -> list[str]:
    """Return the names of those bundles that answer rows and ship with the package."""
    return [name for name in BUILTIN.values() if _ships(name)]


def _named(text: str) -> tuple[str, Path]:
    recipe, equals, path = text.partition("=")
    recipes = dict.fromkeys(target.recipe for target in TARGETS)
    if not equals or recipe not in recipes:
        raise WrongUse(
            f"--bundle is {text!r}, wanted RECIPE=PATH with one of: {', '.join(recipes)}"
        )
    return recipe, Path(path)


def _option(target: Target) -> str:
    return f"--bundle {target.recipe}=PATH"


def _ships(name: str) -> bool:
    try:
        builtin_bundle(name)
    except BundleError:
        return False
    return True
