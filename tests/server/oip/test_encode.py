from __future__ import annotations

import numpy as np

from kshot.bundle import BatchNormMode
from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.oip.encode import add_predictions
from kshot.server.predict.prediction import Answers, read_logits
from kshot.server.request.inputs import PredictInput

NAMES = ("cat", "owl", "\N{SNOWMAN}")
LOGITS = np.array([[1, 3, 2], [9, 0, 5]], np.float32)


def texts(content: bytes) -> list[str]:
    found = []
    while content:
        size = int.from_bytes(content[:4], "little")
        found.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    return found


def outputs_of(
    query: PredictInput, known: list[float] | None, *names: str
) -> wire.ModelInferResponse:
    response = wire.ModelInferResponse()
    of_logits = read_logits(LOGITS, BatchNormMode.STORED)
    scores = None if known is None else np.array(known, np.float32)
    answers = Answers(LOGITS, of_logits.probabilities, of_logits.mode, known=scores)
    add_predictions(response, names, answers, NAMES, query)
    return response


def labels(query: PredictInput, known: list[float] | None = None) -> tuple[list[int], list[str]]:
    response = outputs_of(query, known, "labels")
    assert response.outputs[0].datatype == "BYTES"
    return list(response.outputs[0].shape), texts(response.raw_output_contents[0])


def test_labels_name_the_best_classes() -> None:
    one, two, all_of_them = (PredictInput(None, None, top_k, False) for top_k in (0, 2, 9))

    assert labels(one) == ([2], ["owl", "cat"])
    assert labels(two) == ([2, 2], ["owl", "\N{SNOWMAN}", "cat", "\N{SNOWMAN}"])
    assert labels(all_of_them)[0] == [2, 3]


def test_a_refused_query_has_empty_labels() -> None:
    query = PredictInput(None, None, 2, False, reject_below=0.5)

    assert labels(query, [0.4, 0.6])[1] == ["", "", "cat", "\N{SNOWMAN}"]
    assert labels(query)[1] == ["owl", "\N{SNOWMAN}", "cat", "\N{SNOWMAN}"]


def test_outputs_stand_in_the_order_asked_for() -> None:
    response = outputs_of(PredictInput(None, None, 0, True), None, "logits", "probabilities")

    logits, probabilities = response.raw_output_contents
    assert [output.name for output in response.outputs] == ["logits", "probabilities"]
    assert logits == LOGITS.tobytes()
    rows = np.frombuffer(probabilities, "<f4").reshape(2, 3)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-6)
