from __future__ import annotations

import json

import click
import grpc
import pytest

from kshot import __main__ as program
from kshot.client.errors import InvalidArgumentError, Problem, Violation
from kshot.command import table
from kshot.command.failure import failure_document, wants_json

REFUSED = InvalidArgumentError(
    "ttl: expected more",
    Problem(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        violations=(Violation("ttl", "expected more"),),
        request_id="r-1",
    ),
)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    @click.option("--json", is_flag=True, expose_value=False)
    def command() -> None:
        raise error

    monkeypatch.setattr(table, "_load", lambda _name, _entry: command)


def test_with_json_a_failure_is_a_document_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, REFUSED)

    assert program.main(["adapt", "--json"]) == 2

    said = capsys.readouterr()
    assert said.err == "kshot: ttl: expected more\n"
    assert json.loads(said.out) == {
        "error": {
            "message": "ttl: expected more",
            "code": "INVALID_ARGUMENT",
            "reason": "INVALID_ARGUMENT",
            "request_id": "r-1",
            "retry_after": None,
            "violations": [{"field": "ttl", "description": "expected more"}],
        },
        "exit_code": 2,
    }


def test_without_json_stdout_stays_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, REFUSED)

    assert program.main(["adapt"]) == 2
    assert capsys.readouterr().out == ""


def test_wrong_use_with_json_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["completion", "--json", "csh"]) == 2

    document = json.loads(capsys.readouterr().out)
    assert "csh" in document["error"]["message"]
    assert document["error"]["code"] is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["adapt", "pets", "--json"], True),
        (["adapt", "--", "--json"], False),
        (["models", "export", "am-1", "/dev/stdout", "--json"], False),
    ],
)
def test_a_result_on_stdout_is_left_alone(arguments: list[str], wanted: bool) -> None:
    assert wants_json(arguments) is wanted


def test_a_failure_of_this_machine_has_no_code() -> None:
    error = failure_document("no", 1, None)["error"]

    assert isinstance(error, dict)
    assert (error["code"], error["request_id"], error["violations"]) == (None, None, [])
