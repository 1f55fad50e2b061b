"""An encoder from a torch module: exported to ONNX and compared with it."""

from difflib import get_close_matches

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from kshot.trainer.bundling.encoder_file import TOLERANCE, EncoderFile, difference, fit_encoder
from kshot.trainer.bundling.encoder_graph import ENCODED, IMAGES, MAPS
from kshot.trainer.bundling.onnx_templates import OPSET, quiet_exporter
from kshot.trainer.errors import EncoderError

TRACED_COUNT = 2
CHECKED_COUNT = 3


class _UpTo(nn.Module):
    """A module up to the output of one of its layers."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.module = module
        self._layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Map images to what the layer gives."""
        found: list[Tensor] = []
        layer = self.module.get_submodule(self._layer)
        hook = layer.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        try:
            self.module(images)
        finally:
            hook.remove()
        return found[0]


def export_encoder(
    module: nn.Module,
    source: str,
    input_shape: tuple[int, int, int],
    cut: str | None = None,
    *,
    pooled: bool = True,
    map_shape: tuple[int, int, int] | None = None,
) -> EncoderFile:
    """Export a module in evaluation mode, up to the layer `cut`; raises `EncoderError`.

    Maps are averaged over their sides where `pooled`. With a `map_shape` the module gives a second
    output, maps `(n, *map_shape)` for a tail. ONNX Runtime's answers to random images equal torch's
    to 1e-4. `source` names the module in errors.
    """
    module = module.eval().requires_grad_(requires_grad=False)
    if cut is not None:
        layers = dict(module.named_modules())
        if cut not in layers or not cut:
            close = get_close_matches(cut, layers, n=3)
            hint = f"; similar: {', '.join(close)}" if close else ""
            raise EncoderError(f"{source}: --cut: no layer {cut!r}{hint}")
        module = _UpTo(module, cut).eval()
    images = torch.zeros(TRACED_COUNT, *input_shape)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[IMAGES],
                output_names=[ENCODED] if map_shape is None else [ENCODED, MAPS],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )
            if program is None:
                raise RuntimeError("torch.onnx.export gave no program")
            model = onnx.ModelProto()
            model.CopyFrom(program.model_proto)
    except Exception as error:  # exporting may fail in any way
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EncoderError(f"{source}: cannot be exported to ONNX: {reason[:300]}") from error
    value = None if map_shape is None else ENCODED
    file = fit_encoder(model, source, input_shape, value, pooled=pooled, map_shape=map_shape)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(CHECKED_COUNT, *input_shape, generator=generator)
    with torch.no_grad():
        wanted = module(images)
    if map_shape is not None:
        wanted = wanted[0]
    if pooled and wanted.dim() == 4:
        wanted = wanted.mean(dim=(2, 3))
    worst = difference(
        file.run(images.numpy()).reshape(CHECKED_COUNT, -1),
        np.asarray(wanted).reshape(CHECKED_COUNT, -1),
    )
    if worst > TOLERANCE:
        raise EncoderError(
            f"{source}: expected ONNX Runtime's answers to equal torch's to {TOLERANCE:g}, got a "
            f"relative difference of {worst:.2g}"
        )
    return file
