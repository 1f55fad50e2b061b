"""Classify pictures with an exported adapted model: ONNX Runtime, NumPy and Pillow, no server.

    python predict.py MODEL.onnx PICTURE...
    python predict.py MODEL.onnx --prepared INPUTS.npy

The metadata of the file say how to prepare pictures, what is applied already, and the classes. The
answers are a JSON document: for each input the class, the probabilities and the logits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageOps

Floats = npt.NDArray[np.float32]
Step = dict[str, Any]

INK_SIDE, LEAST_INK_SIDE, LEAST_CONTRAST, STRONG = 512, 48, 13, 0.4
PADDED_SIDES = 4


@dataclass(frozen=True)
class Exported:
    """A session, its classes, and the shape and steps of its input."""

    session: onnxruntime.InferenceSession
    class_names: list[str]
    shape: tuple[int, int, int]
    steps: list[Step]

    @classmethod
    def open(cls, path: Path) -> Exported:
        """Read a file that `kshot models export` wrote; raise `ValueError` for another."""
        try:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            facts = session.get_modelmeta().custom_metadata_map
            names, wanted = json.loads(facts["kshot.class_names"]), json.loads(facts["kshot.input"])
        except Exception as error:  # ONNX Runtime raises many kinds
            raise ValueError(f"{path}: expected an export of kshot; export it again") from error
        # All that exports leave to the caller; a file of an earlier release does not say it.
        left = set(json.loads(facts.get("kshot.to_apply", "[]"))) - {"preparation", "softmax"}
        if left:
            raise ValueError(f"{path}: asks for {', '.join(left)}; use its release's predict.py")
        return cls(session, names, tuple(wanted["shape"]), wanted["preprocessing"])

    def logits(self, inputs: Floats) -> Floats:
        """Return `(n, way)` for prepared inputs `(n, channels, height, width)`."""
        if inputs.shape[1:] == self.shape[:1]:  # vectors
            inputs = inputs.reshape(-1, *self.shape)
        if inputs.dtype != np.float32 or inputs.shape[1:] != self.shape or len(inputs) == 0:
            expected = f"expected float32 (n, {', '.join(map(str, self.shape))})"
            raise ValueError(f"{expected}, got {inputs.dtype} {inputs.shape}")
        if not np.isfinite(inputs).all():
            raise ValueError("expected finite inputs, got others")
        (logits,) = self.session.run(["logits"], {"inputs": inputs})
        return np.asarray(logits, np.float32)

    def prepare(self, path: Path) -> Floats:
        """Return one picture as the network takes it, `(channels, height, width)`."""
        if not self.steps:
            raise ValueError("the model takes vectors: give --prepared FILE.npy")
        picture = decode(path)
        resize = next(step for step in self.steps if step["step"] == "resize")
        for step in self.steps:
            picture = apply(picture, step, resize)
        if any(step["step"] == "ink" for step in self.steps):  # a resize makes strokes faint
            most = max(1, extrema(picture)[1])
            picture = picture.point([min(255, round(255 * value / most)) for value in range(256)])
        pixels = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)  # (channels, height, width)
        return scaled(pixels, self.steps[-1])


def softmax(logits: Floats) -> Floats:
    """Return probabilities; the temperature is in the file and must not be applied again."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def decode(path: Path) -> Image.Image:
    """Return the first frame in mode L or RGB, upright, on white."""
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a picture that Pillow reads, got another") from error
    if picture.mode.startswith("I"):
        return Image.fromarray(((np.asarray(picture).astype(int) + 128) // 257).astype(np.uint8))
    gray = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB").convert("L" if gray else "RGB")


def apply(picture: Image.Image, step: Step, resize: Step) -> Image.Image:
    """Apply a step; the last, which makes numbers of pixels, is not one of pictures."""
    match step["step"]:
        case "grayscale":
            return picture.convert("L")
        case "rgb":
            return picture.convert("RGB")
        case "polarity":
            light = has_light_ground(picture.convert("L"))
            return picture if light == (step["ground"] == "light") else ImageOps.invert(picture)
        case "ink":
            return ink(picture, step["margin"])
        case "square":
            return cropped(picture) if step["by"] == "crop" else padded(picture, resize)
        case "reduce":
            size = min(picture.width, step["width"]), min(picture.height, step["height"])
            return picture.resize(size, Image.Resampling.BOX)
        case "resize":
            method = Image.Resampling[step["method"].upper()]
            return picture.resize((step["width"], step["height"]), method)
        case "rescale" | "normalize":
            return picture
        case other:
            raise ValueError(f"unknown step {other}: give prepared inputs, or use a newer program")


def scaled(pixels: npt.NDArray[np.uint8], step: Step) -> Floats:
    """Return the numbers of pixels `(channels, height, width)`."""
    if step["step"] == "rescale":
        return np.asarray(pixels * step["factor"], np.float32)
    mean, std = (np.array(step[name])[:, None, None] for name in ("mean", "std"))
    return np.asarray((pixels - mean) / std, np.float32)


def ground(picture: Image.Image) -> tuple[int, ...]:
    """Return the median of the border's pixels, by channel."""
    rows = np.asarray(picture)
    border = np.concatenate((rows[0], rows[-1], rows[:, 0], rows[:, -1]))
    return tuple(int(value) for value in np.atleast_1d(np.median(border, axis=0)))


def has_light_ground(gray: Image.Image) -> bool:
    """Tell whether the ground is lighter than the middle of what there is."""
    darkest, lightest = extrema(gray)
    return ground(gray)[0] > (127.5 if darkest == lightest else (darkest + lightest) / 2)


def extrema(gray: Image.Image) -> tuple[int, int]:
    """Return the least and the greatest pixel."""
    pixels = np.asarray(gray)
    return int(pixels.min()), int(pixels.max())


def ink(gray: Image.Image, margin: float) -> Image.Image:
    """Return the square around the ink: 0 is the ground, 255 the strongest ink."""
    gray = reduced(gray, INK_SIDE)
    darkest, lightest = extrema(gray)
    (level,), sign = ground(gray), -1 if has_light_ground(gray) else 1
    most = level - darkest if sign < 0 else lightest - level
    if most < LEAST_CONTRAST:  # blank
        return Image.new("L", (LEAST_INK_SIDE, LEAST_INK_SIDE))
    distances = (sign * (value - level) for value in range(256))
    strength = gray.point([min(255, max(0, round(255 * each / most))) for each in distances])
    if max(strength.size) < LEAST_INK_SIDE:
        factor = math.ceil(LEAST_INK_SIDE / max(strength.size))
        size = strength.width * factor, strength.height * factor
        strength = strength.resize(size, Image.Resampling.BICUBIC)
    least = STRONG * extrema(strength)[1]
    box = strength.point([255 * (value > least) for value in range(256)]).getbbox()
    if box is None:  # resizing left nothing
        return Image.new("L", (LEAST_INK_SIDE, LEAST_INK_SIDE))
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    side += 2 * round(margin * side)
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return strength.crop((x, y, x + side, y + side))


def cropped(picture: Image.Image) -> Image.Image:
    """Return the square in the middle."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def padded(picture: Image.Image, resize: Step) -> Image.Image:
    """Return the square around a picture, of the colour of its ground."""
    picture = reduced(picture, PADDED_SIDES * max(resize["height"], resize["width"]))
    side = max(picture.size)
    square = Image.new(picture.mode, (side, side), ground(picture))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side is below twice `side`, averaged over whole squares."""
    factor = max(picture.size) // side
    return picture.reduce(factor) if factor > 1 else picture


def main() -> None:
    """Print the answers, or a message and exit code 1."""
    parser = argparse.ArgumentParser(description="Classify with an exported adapted model.")
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", type=Path, nargs="*")
    parser.add_argument("--prepared", type=Path, help="take inputs from a .npy file instead")
    asked = parser.parse_args()
    if bool(asked.pictures) == bool(asked.prepared):
        parser.error("expected pictures, or --prepared FILE.npy")
    try:
        exported = Exported.open(asked.model)
        if asked.prepared:
            inputs = np.load(asked.prepared, allow_pickle=False)
        else:
            inputs = np.stack([exported.prepare(path) for path in asked.pictures])
        logits = exported.logits(inputs)
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
    answers = [
        {
            "class_name": exported.class_names[int(row.argmax())],
            "probabilities": dict(zip(exported.class_names, chances.tolist(), strict=True)),
            "logits": row.tolist(),
        }
        for row, chances in zip(logits, softmax(logits), strict=True)
    ]
    print(json.dumps(answers, indent=2))


if __name__ == "__main__":
    main()
