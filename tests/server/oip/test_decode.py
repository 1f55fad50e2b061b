from __future__ import annotations

from typing import Any

import pytest

from kshot.bundle import BatchNormMode
from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.error_details import FieldViolation
from kshot.server.errors import InvalidRequest
from kshot.server.oip.decode import (
    PARAMETERS,
    check_request_id,
    in_these_words,
    predict_input,
    read_outputs,
    read_parameters,
)
from kshot.server.request.inputs import PredictInput
from kshot.server.request.violations import Violations

Output = wire.ModelInferRequest.InferRequestedOutputTensor


def parameters(**given: object) -> wire.ModelInferRequest:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    values: Any = {
        name: wire.InferParameter(**{kinds[type(value)]: value})  # type: ignore[arg-type]
        for name, value in given.items()
    }
    return wire.ModelInferRequest(parameters=values)


def fields(violations: Violations) -> set[str]:
    with pytest.raises(InvalidRequest) as caught:
        violations.check()
    return {each.field for each in caught.value.violations}


def test_parameters_are_the_options_of_predict() -> None:
    request = parameters(batch_norm_mode="support", top_k=3, reject_below=0.25)

    read = predict_input(request, ("probabilities", "logits"), Violations())
    plain = predict_input(parameters(), ("labels",), Violations())

    assert read == PredictInput(None, BatchNormMode.SUPPORT, 3, True, 0.25, omit_class_names=True)
    assert plain == PredictInput(None, None, 0, False)


def test_unsigned_integers_are_integers() -> None:
    values = {"top_k": wire.InferParameter(uint64_param=2)}

    assert predict_input(wire.ModelInferRequest(parameters=values), (), Violations()).top_k == 2


@pytest.mark.parametrize(
    "given",
    [
        {"batch_norm_mode": "none"},
        {"batch_norm_mode": 1},
        {"top_k": -1},
        {"top_k": True},
        {"top_k": 2.0},
        {"reject_below": 1.5},
        {"reject_below": float("nan")},
        {"reject_below": "0.5"},
        {"timeout": 5},
    ],
    ids=str,
)
def test_parameters_that_do_not_fit(given: dict[str, object]) -> None:
    violations = Violations()

    assert read_parameters(parameters(**given), PARAMETERS, violations) == {}
    assert fields(violations) == {f"parameters[{name}]" for name in given}


def test_a_parameter_without_a_value_is_refused() -> None:
    violations = Violations()
    request = wire.ModelInferRequest(parameters={"top_k": wire.InferParameter()})

    assert read_parameters(request, PARAMETERS, violations) == {}
    assert fields(violations) == {"parameters[top_k]"}


def test_outputs_come_as_they_are_asked_for() -> None:
    asked = wire.ModelInferRequest(outputs=[Output(name="c"), Output(name="a")])

    assert read_outputs(asked, ("a", "b"), ("c",), Violations()) == ("c", "a")
    assert read_outputs(wire.ModelInferRequest(), ("a", "b"), ("c",), Violations()) == ("a", "b")


def test_outputs_that_do_not_fit() -> None:
    classification = {"classification": wire.InferParameter(int64_param=3)}
    asked = wire.ModelInferRequest(
        outputs=[Output(name="a"), Output(name="x"), Output(name="a", parameters=classification)]
    )
    many = wire.ModelInferRequest(outputs=[Output(name="a")] * 1000)
    violations, of_many = Violations(), Violations()

    read_outputs(asked, ("a",), (), violations)
    read_outputs(many, ("a",), (), of_many)

    assert fields(violations) == {
        "outputs[1].name",
        "outputs[2].name",
        "outputs[2].parameters[classification]",
    }
    assert "outputs" in fields(of_many)


def test_a_request_id_is_bounded() -> None:
    violations = Violations()

    check_request_id(wire.ModelInferRequest(id="a" * 256), violations)
    assert len(violations) == 0
    check_request_id(wire.ModelInferRequest(id="\N{SNOWMAN}" * 100), violations)

    assert fields(violations) == {"id"}


def test_fields_have_the_names_of_this_protocol() -> None:
    names = {
        "queries": "inputs[0]",
        "queries.tensor": "inputs[0]",
        "queries.tensor.shape": "inputs[0].shape",
        "queries.tensor.data": "raw_input_contents[0]",
        "queries.encoded.items[7]": "inputs[0].contents[7]",
        "reject_below": "parameters[reject_below]",
        "queries_of_another": "queries_of_another",
    }

    with pytest.raises(InvalidRequest) as caught, in_these_words():
        raise InvalidRequest([FieldViolation(name, "a problem") for name in names])

    assert [each.field for each in caught.value.violations] == list(names.values())
