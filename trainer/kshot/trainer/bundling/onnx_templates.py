"""ONNX templates of the three batch-norm modes: a network whose weights are inputs."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from kshot.bundle import TAIL_CLASSES, TAIL_MIX, BatchNormMode
from kshot.learner import (
    Network,
    Tail,
    layout_of,
    logits_of,
    mixed_logits,
    split_maps,
    support_and_query_logits,
    support_logits,
    transductive_logits,
)
from kshot.trainer.bundling.onnx_graph import drop_axis_pairs

OPSET = 20
TRACE_WAY = 5
TRACE_QUERY_COUNT = 3
TRACE_SUPPORT_COUNT = 7


class _Template(nn.Module):
    """One batch-norm mode as a function of tensors in a fixed order, for the exporter."""

    def __init__(
        self, network: Network, mode: BatchNormMode, names: Sequence[str], extras: Sequence[str]
    ) -> None:
        super().__init__()
        self._network, self._mode = network, mode
        self._names, self._extras = tuple(names), tuple(extras)

    def forward(self, inputs: Tensor, weights: list[Tensor], *extras: Tensor) -> Tensor:
        """Answer queries `(n, channels, height, width)`: logits `(n, way)`."""
        parameters = {
            name: value.unsqueeze(0) for name, value in zip(self._names, weights, strict=True)
        }
        queries = inputs.unsqueeze(0)
        if self._mode is BatchNormMode.SUPPORT:
            statistics = {
                name: value.unsqueeze(0) for name, value in zip(self._extras, extras, strict=True)
            }
            logits = support_logits(self._network, parameters, queries, statistics)
        elif self._mode is BatchNormMode.SUPPORT_AND_QUERY:
            support = extras[0].unsqueeze(0)
            logits = support_and_query_logits(self._network, parameters, queries, support)
        else:
            logits = transductive_logits(self._network, parameters, queries)
        return logits.squeeze(0)


class _TailTemplate(nn.Module):
    """Head and tail as a function of tensors in a fixed order, for the exporter."""

    def __init__(self, network: Network, tail: Tail, names: Sequence[str]) -> None:
        super().__init__()
        self._network, self._tail, self._names = network, tail, tuple(names)

    def forward(self, inputs: Tensor, weights: list[Tensor]) -> Tensor:
        """Answer queries `(n, F, 1, 1)`: logits `(n, way)`."""
        named = dict(zip(self._names, weights, strict=True))
        of_head = {name: value.unsqueeze(0) for name, value in named.items()}
        head = logits_of(self._network, of_head, inputs.unsqueeze(0))[0].squeeze(0)
        maps = split_maps(self._tail.spec, inputs)
        return mixed_logits(head, self._tail.logits(named, maps), named[TAIL_MIX])


def build_template(network: Network, mode: BatchNormMode) -> bytes:
    """Export a mode as a serialized ONNX model whose weights are inputs.

    Inputs: `inputs` float32 `(query_count, channels, height, width)`, every parameter by its name
    (the head's with a symbolic `way`), and each layer's statistics (`support`) or the prepared
    support set `support` `(support_count, channels, height, width)` (`support_and_query`). Output:
    `logits` float32 `(query_count, way)`.
    """
    shapes = layout_of(network, TRACE_WAY).shapes
    extras: Mapping[str, tuple[int, ...]] = {}
    if mode is BatchNormMode.SUPPORT:
        extras = network.statistics_shapes
    elif mode is BatchNormMode.SUPPORT_AND_QUERY:
        extras = {"support": (TRACE_SUPPORT_COUNT, *network.input_shape)}
    way = torch.export.Dim("way", min=2)
    query_count = torch.export.Dim("query_count", min=1)
    support_count = torch.export.Dim("support_count", min=2)
    extra_axes = tuple({0: support_count} if name == "support" else {} for name in extras)
    head_axis = [{0: way} if name.startswith("head.") else {} for name in shapes]
    return _exported(
        _Template(network, mode, tuple(shapes), tuple(extras)),
        (
            torch.zeros(TRACE_QUERY_COUNT, *network.input_shape),
            [torch.zeros(shape) for shape in shapes.values()],
            *(torch.ones(shape) for shape in extras.values()),
        ),
        ({0: query_count}, head_axis, *([extra_axes] if extras else [])),
        ["inputs", *shapes, *extras],
    )


def build_tail_template(network: Network, tail: Tail) -> bytes:
    """Export the answers of a head and an adapted tail as a serialized ONNX model.

    Inputs: `inputs` float32 `(query_count, F, 1, 1)`, features and maps; the head's parameters, the
    tail's, `tail.classes` `(way, feature_count)` and `tail.mix` `(2,)` by their names. Output:
    `logits` float32 `(query_count, way)`.
    """
    shapes = {
        **layout_of(network, TRACE_WAY).shapes,
        **tail.shapes,
        TAIL_CLASSES: (TRACE_WAY, tail.spec.feature_count),
        TAIL_MIX: (2,),
    }
    way, query_count = torch.export.Dim("way", min=2), torch.export.Dim("query_count", min=1)
    of_classes = ("head.weight", "head.bias", TAIL_CLASSES)
    return _exported(
        _TailTemplate(network, tail, tuple(shapes)),
        (
            torch.zeros(TRACE_QUERY_COUNT, *network.input_shape),
            [torch.ones(shape) for shape in shapes.values()],
        ),
        ({0: query_count}, [{0: way} if name in of_classes else {} for name in shapes]),
        ["inputs", *shapes],
    )


def _exported(
    module: nn.Module,
    arguments: tuple[object, ...],
    dynamic_shapes: tuple[object, ...],
    input_names: Sequence[str],
) -> bytes:
    with quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            arguments,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            input_names=list(input_names),
            output_names=["logits"],
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = onnx.ModelProto()
    model.CopyFrom(program.model_proto)
    _forget_trace(model)
    drop_axis_pairs(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about itself, which a user cannot act on.

    They concern its use of deprecated functions, optional packages, and axes of one size that
    share a name, as we ask.
    """
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", r"# The axis name: \w+ will not be used", UserWarning)
            yield
    finally:
        registration.setLevel(level)


def _forget_trace(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata, such as the source line of each node."""
    model.doc_string = ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
