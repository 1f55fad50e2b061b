from __future__ import annotations

import click
import grpc
import pytest

from kshot.client.commands.flags import name_flags
from kshot.client.commands.models import import_model
from kshot.client.commands.revise import command as revise
from kshot.client.errors import InputError, InvalidArgumentError, KshotError, Problem, Violation


def refused(*fields: str) -> KshotError:
    text = "; ".join(f"{field}: expected less" for field in fields)
    violations = tuple(Violation(field, "expected less") for field in fields)
    return InvalidArgumentError(
        text, Problem(grpc.StatusCode.INVALID_ARGUMENT, violations=violations)
    )


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        (revise, refused("removed_indices[0]"), "--remove: expected less"),
        (revise, refused("relabellings[1].index"), "--relabel: expected less"),
        (revise, refused("added.class_names"), "--add: expected less"),
        (
            revise,
            refused("options.step_count", "removed_indices"),
            "--step-count: expected less; --remove: expected less",
        ),
        (revise, InputError("remove: expected an index"), "--remove: expected an index"),
        (
            revise,
            KshotError("no support set; adapt again with retain_support"),
            "no support set; adapt again with --retain-support",
        ),
        (revise, KshotError("class 'step_count' is there"), "class 'step_count' is there"),
        (import_model, refused("header.ttl"), "--ttl: expected less"),
        (import_model, refused("header.sha256"), "header.sha256: expected less"),
        (import_model, InputError("pets.onnx: No such file"), "pets.onnx: No such file"),
    ],
)
def test_errors_name_the_flags_that_were_typed(
    command: click.Command, error: KshotError, message: str
) -> None:
    name_flags(error, command.params)

    assert str(error) == message
