"""The bundle that a training starts from: a recipe takes its network, and keeps its encoder."""

from typing import cast

from kshot.bundle import Bundle, BundleError, load_bundle, locate_bundle, manifest_document
from kshot.trainer.errors import RecipeError, TrainingError
from kshot.trainer.recipe.recipe import Recipe

# What the network of a bundle decides; a recipe's own values of these are replaced.
_REPLACED = ("input", "network", "batch_norm")


def apply_start(document: dict[str, object], source: str) -> None:
    """Fill in what `start.bundle` decides in a recipe's document; raises `RecipeError`.

    Input, network and batch norm become the bundle's; its digest and the shape that its encoder
    gives are noted, so that they are part of the recipe's digest.
    """
    start = document.get("start")
    if start is None:
        return
    name = start.get("bundle") if isinstance(start, dict) else None
    if not isinstance(name, str):
        raise RecipeError(f"recipe {source}: start.bundle: expected the name or folder of a bundle")
    try:
        bundle = load_bundle(locate_bundle(name))
    except BundleError as error:
        raise RecipeError(f"recipe {source}: start.bundle: {error}") from error
    manifest = manifest_document(bundle.manifest)
    document |= {key: manifest[key] for key in _REPLACED}
    noted: dict[str, object] = {"bundle": name, "digest": bundle.digest}
    if bundle.manifest.encoder is not None:
        noted["encoded_shape"] = list(bundle.manifest.encoder.output_shape)
    document["start"] = {**cast(dict[str, object], start), **noted}


def start_bundle(recipe: Recipe) -> Bundle | None:
    """Open the bundle that a recipe starts from, None without one.

    Raises `TrainingError` when it has changed since the recipe was read.
    """
    if recipe.start is None:
        return None
    bundle = load_bundle(locate_bundle(recipe.start.bundle))
    if bundle.digest != recipe.start.digest:
        raise TrainingError(
            f"start.bundle: expected {recipe.start.bundle} with digest {recipe.start.digest}, got "
            f"{bundle.digest}"
        )
    return bundle
