import io
import json
import logging
from collections.abc import Iterator

import pytest

from kshot.bundle.signals.json_log import JsonFormatter


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the root logger writes as the engine writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(process="engine"))
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def test_a_record_is_one_object(stream: io.StringIO) -> None:
    logging.getLogger("kshot.engine").warning("slow", extra={"fields": {"steps": 3}})

    line = json.loads(stream.getvalue())
    assert list(line) == ["time", "level", "process", "event", "steps"]
    assert (line["level"], line["process"]) == ("warning", "engine")
    assert (line["event"], line["steps"]) == ("slow", 3)


def test_another_librarys_record_names_its_logger(stream: io.StringIO) -> None:
    logging.getLogger("grpc").warning("odd")

    assert json.loads(stream.getvalue())["logger"] == "grpc"


def test_a_traceback_stays_on_the_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        logging.getLogger("kshot.engine").exception("failed")

    (line,) = stream.getvalue().splitlines()
    assert "ValueError: one" in json.loads(line)["traceback"]


def test_control_characters_reach_no_line(stream: io.StringIO) -> None:
    """Names that callers give can neither begin a line nor steer a terminal."""
    name = "\x1b[2J\n{}\u202e\x9b\x7f"
    logging.getLogger("kshot.engine").warning("%s", name, extra={"fields": {"name": name}})

    line = stream.getvalue().removesuffix("\n")
    assert json.loads(line)["name"] == name
    assert all(" " <= character <= "~" for character in line)
