"""The tasks of a proof, and what each must answer: measured one after another, before any load."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Floats = npt.NDArray[np.float32]

# Sessions of their own, and rows beside other rows, round the last digits otherwise.
TOLERANCE = 1e-5
# Steps beside another task's do so as well, and an adaptation makes it larger.
WIDE_TOLERANCE = 2e-4
# Tasks that answer more alike than this would hide that one answers for another.
LEAST_DIFFERENCE = 1e-3
STEP_COUNT = 2
QUERY_COUNTS = (1, 3, 8, 2, 1, 4)
_SECONDS = 120.0


class MismatchError(Exception):
    """An idle server, asked by one caller, contradicts itself."""


@dataclass(frozen=True)
class Task:
    """A support set, the queries to ask, and the answers of its adapted model.

    `answers[i]` are the probabilities `(n, way)` of the queries `i`.
    """

    number: int
    request: wire.AdaptRequest
    queries: Sequence[wire.Images]
    weights_digest: str = ""
    answers: Sequence[Floats] = field(default=())

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names of its classes, which no other task has."""
        return self.request.support_set.class_names


def make_tasks(models: Sequence[wire.ModelCapabilities], count: int, seed: int = 0) -> list[Task]:
    """Draw tasks for the models in turn: vectors and pictures of noise, files in every third."""
    return [_task(models[number % len(models)], number, seed) for number in range(count)]


def measured(stub: AdaptationServiceStub, tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks with their answers, by a server that has nothing else to do.

    The exported file is run beside it: a second implementation has to say the same. Raises
    `MismatchError` where they differ, or where two tasks answer alike.
    """
    found = [_measured(stub, task) for task in tasks]
    for task in found:
        for other in found[: task.number]:
            alike = [
                np.abs(mine - theirs).max() < LEAST_DIFFERENCE
                for mine, theirs in zip(task.answers, other.answers, strict=True)
                if mine.shape == theirs.shape
            ]
            if any(alike) and task.request.model == other.request.model:
                raise MismatchError(f"tasks {task.number} and {other.number} answer alike")
    return found


def probabilities_of(tensor: wire.Tensor) -> Floats:
    """Read an answer's probabilities."""
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def tensor_of(array: npt.NDArray[np.generic]) -> wire.Images:
    """Put an array into a message."""
    kind = {"uint8": "UINT8", "float32": "FP32"}[array.dtype.name]
    tensor = wire.Tensor(datatype=kind, shape=array.shape, data=array.tobytes())
    return wire.Images(tensor=tensor)


def _task(model: wire.ModelCapabilities, number: int, seed: int) -> Task:
    random = np.random.default_rng([seed, number])
    way, shot = int(random.integers(2, 6)), int(random.integers(1, 4))
    as_files = number % 3 == 2 and model.input_shape[1] > 1

    def images(count: int) -> wire.Images:
        if as_files:
            items = [_picture(random) for _ in range(count)]
            return wire.Images(encoded=wire.EncodedImages(items=items))
        return tensor_of(random.random((count, *model.input_shape), np.float32))

    request = wire.AdaptRequest(
        model=model.model,
        support_set=wire.SupportSet(
            images=images(way * shot),
            class_indices=[index % way for index in range(way * shot)],
            class_names=[f"{number}/{index}" for index in range(way)],
        ),
        options=wire.AdaptOptions(seed=number, deterministic=number % 4 < 2),
    )
    if wire.HEAD_RIDGE not in model.heads:
        request.options.step_count = STEP_COUNT
    return Task(number, request, [images(count) for count in QUERY_COUNTS])


def _picture(random: np.random.Generator) -> bytes:
    """Draw a picture of 8 to 23 pixels a side as a file."""
    height, width = random.integers(8, 24, 2)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, random.choice(["PNG", "JPEG"]))
    return written.getvalue()


def _measured(stub: AdaptationServiceStub, task: Task) -> Task:
    adapted = stub.Adapt(task.request, timeout=_SECONDS).adapted_model
    answers = []
    for images in task.queries:
        request = wire.PredictRequest(adapted_model=adapted.id, queries=images)
        answers.append(probabilities_of(stub.Predict(request, timeout=_SECONDS).probabilities))
    export = wire.ExportAdaptedModelRequest(adapted_model=adapted.id)
    parts = stub.ExportAdaptedModel(export, timeout=_SECONDS)
    content = b"".join(part.chunk for part in parts)
    stub.DeleteAdaptedModel(
        wire.DeleteAdaptedModelRequest(adapted_model=adapted.id), timeout=_SECONDS
    )
    task = replace(task, weights_digest=adapted.weights_digest, answers=answers)
    difference = exported_difference(task, content)
    if difference > 10 * TOLERANCE:
        raise MismatchError(f"task {task.number}: its exported file differs by {difference:.1g}")
    return task


def exported_difference(task: Task, content: bytes) -> float:
    """Return how far an exported file is from the answers; queries that are files are left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    worst = 0.0
    for images, answer in zip(task.queries, task.answers, strict=True):
        if images.WhichOneof("content") != "tensor":
            continue
        array = np.frombuffer(images.tensor.data, "<f4").reshape(images.tensor.shape)
        (logits,) = session.run(None, {wanted.name: array})
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        difference = np.abs(odds / odds.sum(axis=1, keepdims=True) - answer).max()
        worst = max(worst, float(difference))
    return worst
