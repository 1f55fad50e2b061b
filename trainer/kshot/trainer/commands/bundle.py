"""`kshot bundle build`: bundles from networks that others trained."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
import onnx

from kshot.bundle import BundleError, built_folder, load_bundle, shipped_names
from kshot.bundle.field_types import NAME_PATTERN
from kshot.trainer.bundling.encoder_bundle import (
    EncoderOrigin,
    PictureInput,
    write_encoder_bundle,
)
from kshot.trainer.bundling.encoder_file import EncoderFile, read_encoder
from kshot.trainer.bundling.timm_backbone import ImageStatistics, Method, load_backbone
from kshot.trainer.bundling.torch_encoder import export_encoder
from kshot.trainer.commands.options import DIRECTORY, check_writable
from kshot.trainer.encoders import photos
from kshot.trainer.errors import TrainerError

METHODS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
# ImageNet's, as most networks of photographs want them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
# Beyond it a deviation of values 0..1 is a mistake, and float32 overflows.
STD_RANGE = (0.001, 1000)
_FILE = click.Path(path_type=Path, dir_okay=False)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Three numbers separated by commas, one for each channel."""

    name = "NUMBERS"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:  # noqa: ANN401 -- click's signature
        """Read the numbers; a default is a tuple already."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 3 or not all(abs(number) < 1e6 for number in numbers):
            self.fail(f"expected three numbers as 0.5,0.5,0.5, got {value!r}", param, ctx)
        if param is not None and param.name == "std":
            least, most = STD_RANGE
            if not least <= min(numbers) <= max(numbers) <= most:
                self.fail(f"expected numbers from {least} to {most}, got {value!r}", param, ctx)
        return numbers


@click.command(name="build")
@click.argument("name")
@click.option("--onnx", "onnx_file", type=_FILE, help="ONNX file of the encoder.")
@click.option("--timm", "timm_name", help="Backbone of timm; needs the extra timm.")
@click.option(
    "--weights", type=_FILE, help="State dict for --timm.  [default: timm fetches its own]"
)
@click.option("--cut", help="Layer (--timm) or value (--onnx) to encode instead of the output.")
@click.option(
    "--out", type=DIRECTORY, help="Folder for DIR/NAME/VERSION.  [default: the cache, by name]"
)
@click.option("--version", type=click.IntRange(1, 10**9 - 1), default=1, show_default=True)
@click.option(
    "--size", type=click.IntRange(1, 4096), help=f"Side of the images.  [default: its own, {SIZE}]"
)
@click.option("--mean", type=Numbers(), help="Mean of values 0..1.  [default: timm's, ImageNet's]")
@click.option("--std", type=Numbers(), help="Their deviation.  [default: timm's, ImageNet's]")
@click.option(
    "--square",
    type=click.Choice(["crop", "pad", "none"]),
    default="crop",
    show_default=True,
    help="Crop pictures to their middle, pad them, or squeeze them.",
)
@click.option("--method", type=click.Choice(METHODS), help="Resizing.  [default: timm's, bicubic]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    out: Path | None,
    name: str,
    version: int,
    square: str,
    as_json: bool,
    **given: Any,  # noqa: ANN401 -- click's own
) -> None:
    """Write a bundle NAME that serves at once: a frozen encoder, a linear classifier behind it.

    The encoder is an ONNX file or a backbone of timm; `photos` is built from packages with weights,
    unless it is there. Prints the bundle's folder; in the cache, `kshot serve --bundle NAME` finds
    it.
    """
    onnx_file, timm_name = given["onnx_file"], given["timm_name"]
    folder = built_folder() if out is None else out
    if name == photos.NAME and onnx_file is None and timm_name is None:
        if version != 1 or square != "crop" or any(given.values()):
            raise click.UsageError(f"{name}: expected no option but --out: it has its own settings")
        _show(_photos(folder), as_json)
        return
    if (onnx_file is None) == (timm_name is None):
        raise click.UsageError("expected one of --onnx and --timm")
    if given["weights"] is not None and timm_name is None:
        raise click.UsageError("--weights: expected with --timm; an ONNX file has its own")
    if out is None and name in shipped_names():
        raise click.UsageError(
            f"{name}: expected a name that no bundle of kshot has; choose another, or build it "
            "elsewhere by --out DIR and serve DIR/" + name
        )
    _check_place(folder, name, version)
    try:
        encoder, images, origin = _of_timm(given) if timm_name else _of_onnx(given)
        picture = PictureInput(
            images.size,
            given["mean"] or images.mean,
            given["std"] or images.std,
            None if square == "none" else square,
            cast(Method, given["method"] or images.method),
        )
        chosen = _words(
            version=None if version == 1 else str(version),
            size=given["size"] and str(given["size"]),
            mean=given["mean"] and _numbers(given["mean"]),
            std=given["std"] and _numbers(given["std"]),
            square=None if square == "crop" else square,
            method=given["method"],
        )
        words = f"kshot bundle build {name} {origin.command} {chosen}".strip()
        origin = EncoderOrigin(origin.sentence, words)
        made = encoder(picture)
        bundle = write_encoder_bundle(folder, name, version, picture.spec(), made, origin)
    except TrainerError as error:
        raise click.ClickException(str(error)) from error
    _show(bundle.path, as_json)


def _show(folder: Path, as_json: bool) -> None:
    name, version = folder.parent.name, int(folder.name)
    document = {"name": name, "version": version, "path": str(folder)}
    click.echo(json.dumps(document) if as_json else folder)


def _check_place(folder: Path, name: str, version: int) -> None:
    """Raise `UsageError` for a bundle that could not be written, before its encoder is exported."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise click.UsageError(f"NAME: expected a match of {NAME_PATTERN}, got {name!r}")
    check_writable("--out", folder / name)
    made = folder / name / str(version)
    if made.exists():
        raise click.UsageError(f"--out: {made} exists already; give another --version or remove it")


def _photos(folder: Path) -> Path:
    """Build the bundle `photos` below a folder, or find it there."""
    made = folder / photos.NAME / str(photos.VERSION)
    try:
        if not made.exists():
            check_writable("--out", made.parent)
            return photos.build_photos(folder).path
    except (BundleError, TrainerError) as error:
        raise click.ClickException(str(error)) from error
    try:
        found = load_bundle(made)
    except BundleError as error:
        raise click.ClickException(f"{error}; remove {made} and build it again") from error
    if found.manifest.ridge != photos.read_settings():
        raise click.ClickException(
            f"{made}: built with other settings than this kshot has; remove it and build it again"
        )
    return found.path


Found = tuple[Callable[[PictureInput], EncoderFile], ImageStatistics, EncoderOrigin]


def _of_onnx(given: dict[str, Any]) -> Found:
    path, cut = given["onnx_file"], given["cut"]
    size = given["size"] or _onnx_side(path) or SIZE

    def read(picture: PictureInput) -> EncoderFile:
        return read_encoder(path, picture.spec().shape, cut)

    origin = EncoderOrigin(f"`{path.name}`", _words(onnx=path.name, cut=cut))
    return read, ImageStatistics(size, MEAN, STD, "bicubic"), origin


def _onnx_side(path: Path) -> int | None:
    """Return the side of the images that a file wants, if it says so."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # reading it again says what is wrong
        return None
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constants and len(value.type.tensor_type.shape.dim) == 4:
            return value.type.tensor_type.shape.dim[3].dim_value or None
    return None


def _of_timm(given: dict[str, Any]) -> Found:
    name, weights, cut = given["timm_name"], given["weights"], given["cut"]
    backbone = load_backbone(name, weights, given["size"])

    def export(picture: PictureInput) -> EncoderFile:
        return export_encoder(backbone.module, f"--timm {name}", picture.spec().shape, cut)

    own = "its weights from the hub" if weights is None else f"weights `{weights.name}`"
    words = _words(timm=name, weights=weights and weights.name, cut=cut)
    return export, backbone.images, EncoderOrigin(f"`{name}` of timm, {own}", words)


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _words(**options: str | None) -> str:
    given = ((f"--{name}", value) for name, value in options.items() if value is not None)
    return shlex.join(word for option in given for word in option)
