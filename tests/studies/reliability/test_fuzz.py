"""A thousand inputs of each kind that is read in this process; the proof runs a million."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from kshot.bundle import Bundle
from kshot.server.config import ServerConfig
from kshot.v1 import adaptation_pb2 as wire
from studies.reliability.fuzz import bundles, exports, images, index, requests
from studies.reliability.fuzz.mutation import message_like
from studies.reliability.fuzz.target import Target
from studies.reliability.fuzz.worker import run_inputs

Make = Callable[[], Target]


@pytest.fixture
def targets(means_bundle: Bundle, tmp_path: Path) -> dict[str, Make]:
    """Return how to make each target, with a bundle that takes pictures."""
    paths = (means_bundle.path,)
    config = ServerConfig(bundles=paths, store=tmp_path / "store")
    return {
        "adapt": lambda: requests.adapt_target(paths, config),
        "predict": lambda: requests.predict_target(paths, config),
        "infer": lambda: requests.infer_target(paths, config),
        "names": requests.names_target,
        "images": images.target,
        "manifests": lambda: bundles.manifest_target(paths),
        "exports": lambda: exports.target(paths),
        "encoders": lambda: bundles.encoder_target(tmp_path),
        "index": lambda: index.target(tmp_path / "index"),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about damaged metadata
@pytest.mark.parametrize(
    ("name", "count", "past"),
    [
        ("adapt", 700, 300),
        ("predict", 700, 300),
        ("infer", 500, 200),
        ("names", 1000, 50),
        ("images", 1000, 500),
        ("manifests", 500, 300),
        ("exports", 200, 100),
        ("encoders", 60, 30),
        ("index", 10, 3),
    ],
)
def test_garbage_does_no_harm(
    targets: dict[str, Make], tmp_path: Path, name: str, count: int, past: int
) -> None:
    def ignore(_content: bytes) -> None:
        pass

    found = run_inputs(targets[name](), count, 0, ignore, tmp_path / "failed")

    assert found["faults"] == []
    assert found["past_parsing"] > past


def test_a_fault_keeps_its_input(tmp_path: Path) -> None:
    def fail(content: bytes) -> bool:
        raise ValueError(content.decode())

    target = Target(lambda chance: b"%d" % chance.randrange(10), fail)

    found = run_inputs(target, 2, 0, lambda content: None, tmp_path / "failed")  # noqa: ARG005 -- a target takes the content

    assert [fault.split(": ")[1] for fault in found["faults"]] == ["ValueError"] * 2
    kept = {path.name: path.read_bytes() for path in (tmp_path / "failed").iterdir()}
    assert kept == {f"0-{number}": found["faults"][number][-1].encode() for number in range(2)}


def test_changed_messages_parse() -> None:
    chance = random.Random(0)

    for _ in range(200):
        request = wire.AdaptRequest(model="a")
        message_like(chance, request)
        try:
            wire.AdaptRequest.FromString(request.SerializeToString())
        except DecodeError as error:
            pytest.fail(str(error))
