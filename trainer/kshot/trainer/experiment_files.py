"""Experiments by name or path, and their arms as recipes."""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from kshot.bundle.document import DocumentError, parse
from kshot.trainer.errors import RecipeError
from kshot.trainer.experiment import Arm, Experiment, arms_of, check_experiment
from kshot.trainer.recipe.overrides import override
from kshot.trainer.recipe.parsing import AnyRecipe, parse_recipe

__all__ = [
    "ExperimentFile",
    "arm_documents",
    "list_experiments",
    "load_experiment",
    "parse_experiment",
]


@dataclass(frozen=True)
class ExperimentFile:
    """An experiment and the recipe that its arms change, as plain values without a name."""

    experiment: Experiment
    recipe: Mapping[str, object]

    def document(self, arm: Arm) -> dict[str, object]:
        """Lay out an arm's recipe; raises RecipeError for a setting that the recipe has not."""
        name = f"{self.experiment.name}-{arm.name}"
        document: dict[str, object] = {
            "name": name,
            "description": f"{self.experiment.title}: {arm.title}",
            **deepcopy(dict(self.recipe)),
        }
        for setting in arm.overrides:
            try:
                override(document, setting)
            except RecipeError as error:
                raise RecipeError(f"recipe {name}: {error}") from error
        return document

    def arm_recipe(self, arm: Arm) -> AnyRecipe:
        """Return an arm as a recipe; raises RecipeError where it is none."""
        return parse_recipe(self.document(arm), f"{self.experiment.name}-{arm.name}")


def list_experiments() -> tuple[str, ...]:
    """List the names of the experiments that the package ships."""
    folder = files("kshot.trainer") / "experiments"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_experiment(name_or_path: str) -> ExperimentFile:
    """Read a shipped experiment by name, or any by its TOML file's path; raises RecipeError."""
    if name_or_path in list_experiments():
        resource = files("kshot.trainer") / "experiments" / f"{name_or_path}.toml"
        return parse_experiment(resource.read_bytes(), name_or_path)
    if not name_or_path.endswith(".toml"):
        known = ", ".join(list_experiments())
        raise RecipeError(
            f"experiment is {name_or_path!r}, wanted one of: {known}; or a path to a .toml file"
        )
    try:
        text = Path(name_or_path).read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read experiment {name_or_path}: {error.strerror}") from error
    return parse_experiment(text, name_or_path)


def parse_experiment(text: bytes, source: str) -> ExperimentFile:
    """Read an experiment from TOML, every arm a whole recipe; ``source`` names it in messages.

    Raises RecipeError for a key that is unknown, missing or mistyped, an arm that is no recipe, and
    a panel or an ordering of an arm that is not there.
    """
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"experiment {source} is not TOML: {error}") from error
    recipe = document.pop("recipe", None)
    try:
        if not isinstance(recipe, dict):
            raise DocumentError("recipe", "expected the recipe that the arms change, got no table")
        experiment = parse(Experiment, document)
        check_experiment(experiment)
        for key in ("name", "description"):
            if key in recipe:
                raise DocumentError(f"recipe.{key}", "expected no such key: each arm has its own")
    except DocumentError as error:
        raise RecipeError(f"experiment {source}: {error}") from error
    file = ExperimentFile(experiment, recipe)
    for arm in arms_of(experiment):
        file.arm_recipe(arm)
    return file


@cache
def _shipped_arms() -> Mapping[str, tuple[ExperimentFile, Arm]]:
    loaded = map(load_experiment, list_experiments())
    return {
        f"{file.experiment.name}-{arm.name}": (file, arm)
        for file in loaded
        for arm in arms_of(file.experiment)
    }


def arm_documents() -> Mapping[str, dict[str, object]]:
    """Return the shipped experiments' arms as the documents of recipes, by the recipes' names."""
    return {name: file.document(arm) for name, (file, arm) in _shipped_arms().items()}
