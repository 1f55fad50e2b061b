"""Turns answers into messages of the Open Inference Protocol; contents are raw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.oip.decode import LOGITS, PROBABILITIES
from kshot.server.predict.prediction import Answers
from kshot.server.request.inputs import PredictInput

Floats = npt.NDArray[np.float32]


def add_predictions(
    response: wire.ModelInferResponse,
    outputs: Sequence[str],
    answers: Answers,
    class_names: Sequence[str],
    query: PredictInput,
) -> None:
    """Add the outputs of an adapted model."""
    for name in outputs:
        if name == PROBABILITIES:
            add_numbers(response, name, answers.probabilities)
        elif name == LOGITS:
            add_numbers(response, name, answers.logits)
        else:
            best = _best_classes(answers, query)
            shape = best.shape if query.top_k else best.shape[:1]
            response.outputs.add(name=name, datatype="BYTES", shape=shape)
            response.raw_output_contents.append(_texts(best, class_names))


def add_numbers(response: wire.ModelInferResponse, name: str, array: Floats) -> None:
    """Add an output of numbers."""
    response.outputs.add(name=name, datatype="FP32", shape=array.shape)
    response.raw_output_contents.append(np.asarray(array, dtype="<f4", order="C").tobytes())


def _best_classes(answers: Answers, query: PredictInput) -> npt.NDArray[np.int64]:
    """Return the best classes of each query, `(n, max(1, top_k))`; -1 if it is of none of them."""
    # By the logits, which differ even if two probabilities are 0.
    order = np.argsort(-answers.logits, axis=1, kind="stable")[:, : max(1, query.top_k)]
    if query.reject_below is not None and answers.known is not None:
        order[answers.known < query.reject_below] = -1
    return order.astype(np.int64)


def _texts(classes: npt.NDArray[np.int64], class_names: Sequence[str]) -> bytes:
    """Write names, each behind its length in four bytes; "" for -1."""
    contents = [name.encode() for name in (*class_names, "")]
    texts = [len(content).to_bytes(4, "little") + content for content in contents]
    return b"".join([texts[index] for index in classes.ravel().tolist()])
