"""A backbone of timm, the field's library of image networks, with its weights."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kshot.local import pip_install
from kshot.trainer.errors import EncoderError

Method = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class ImageStatistics:
    """How timm's weights want images: side, mean and deviation of 0..1, the resizing."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: Method


@dataclass(frozen=True)
class Backbone:
    """A network that gives features instead of classes, and the images that it wants."""

    module: nn.Module
    images: ImageStatistics


def load_backbone(name: str, weights: Path | None, size: int | None = None) -> Backbone:
    """Build a network of timm without its classifier; raises `EncoderError`.

    Without `weights`, a state dict of PyTorch or safetensors, timm fetches its own from the hub.
    """
    timm = _import_timm()
    if not timm.is_model(name):
        close = get_close_matches(name.split(".")[0], timm.list_models(), n=_SHOWN_NAMES)
        hint = f"similar: {', '.join(close)}" if close else "`timm.list_models()` lists them"
        raise EncoderError(f"--timm: no model {name!r} in timm {timm.__version__}; {hint}")
    sides: dict[str, Any] = {} if size is None else {"img_size": size}
    module = _create(timm, name, fetch=weights is None, sides=sides)
    if weights is not None:
        _load_weights(module, name, weights)
    config = timm.data.resolve_model_data_config(module)
    method = config["interpolation"]
    return Backbone(
        module,
        ImageStatistics(
            int(size or config["input_size"][-1]),
            tuple(map(float, config["mean"])),
            tuple(map(float, config["std"])),
            cast(Method, method if method in ("bilinear", "lanczos") else "bicubic"),
        ),
    )


def _import_timm() -> Any:  # noqa: ANN401 -- a module that may be missing
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"--timm: needs {error.name!r}, which is not installed: {pip_install('timm')}"
        ) from error
    except Exception as error:  # torchvision that was built for another torch raises RuntimeError
        raise EncoderError(f"--timm: timm cannot be imported: {error}") from error


def _create(
    timm: Any,  # noqa: ANN401 -- a module
    name: str,
    *,
    fetch: bool,
    sides: Mapping[str, Any],
) -> nn.Module:
    def create(**settings: Any) -> nn.Module:  # noqa: ANN401 -- timm's own
        return cast(nn.Module, timm.create_model(name, pretrained=fetch, num_classes=0, **settings))

    try:
        if sides:
            try:
                return create(**sides)
            except TypeError:  # a network of images of any size
                return create()
        return create()
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        remedy = "; give its weights by --weights FILE" if fetch else ""
        raise EncoderError(f"--timm: {name} cannot be loaded: {reason[:300]}{remedy}") from error


def _load_weights(module: nn.Module, name: str, weights: Path) -> None:
    """Load a state dict strictly; a classifier in it is left out."""
    state = _read_state(weights)
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    fitted: Mapping[str, Tensor] = convert(state, module) if convert is not None else state
    wanted = module.state_dict()
    classifier = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(
        f"{each}." for each in ([classifier] if isinstance(classifier, str) else classifier)
    )
    counters = ("num_batches_tracked",)
    problems = []
    missing = [key for key in wanted if key not in fitted and not key.endswith(counters)]
    unknown = [key for key in fitted if key not in wanted and not key.startswith(heads)]
    shapes = [
        f"{key} {tuple(fitted[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in fitted and fitted[key].shape != wanted[key].shape
    ]
    for problem, keys in (("missing", missing), ("unknown", unknown), ("shapes", shapes)):
        if keys:
            more = f" and {len(keys) - _SHOWN_NAMES} more" if len(keys) > _SHOWN_NAMES else ""
            problems.append(f"{problem}: {', '.join(keys[:_SHOWN_NAMES])}{more}")
    if problems:
        raise EncoderError(f"--weights: {weights} does not fit {name}: {'; '.join(problems)}")
    module.load_state_dict({key: fitted[key] for key in wanted if key in fitted}, strict=False)


def _read_state(weights: Path) -> Mapping[str, Tensor]:
    """Read a file of tensors; nothing in it is executed."""
    try:
        if weights.suffix == ".safetensors":
            return safetensors.torch.load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EncoderError(f"--weights: {weights} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise EncoderError(f"--weights: {weights}: expected safetensors") from error
    except Exception as error:  # torch's exceptions for a damaged file have no common base
        raise EncoderError(f"--weights: {weights}: expected a state dict of tensors") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise EncoderError(f"--weights: {weights}: expected a state dict of tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}
