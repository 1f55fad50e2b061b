import resource
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kshot.trainer.errors import TrainingError
from kshot.trainer.output.tensorboard import ScalarFile


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return what TensorBoard shows."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_tensorboard_shows_the_points(tmp_path: Path) -> None:
    with ScalarFile(tmp_path, 0) as scalars:
        scalars.write(1, {"loss": 0.5})
        scalars.write(2, {"loss": 0.25, "accuracy": 1.0})
        on_disk = points(tmp_path, "loss")

    assert on_disk == [(1, 0.5), (2, 0.25)]
    assert points(tmp_path, "accuracy") == [(2, 1.0)]


def test_later_points_are_replaced(tmp_path: Path) -> None:
    with ScalarFile(tmp_path, 0) as scalars:
        for meta_iteration in range(1, 6):
            scalars.write(meta_iteration, {"loss": 1.0})
    with ScalarFile(tmp_path, 3) as scalars:
        scalars.write(5, {"loss": 2.0})

    assert points(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (5, 2.0)]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ScalarFile(tmp_path, 0) as scalars:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(
                TrainingError, match=r"events.out.tfevents\..* could not be written: "
            ):
                for meta_iteration in range(10):
                    scalars.write(meta_iteration, {"loss": 0.5})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(TrainingError, match=r"could not be written: No such file"):
        ScalarFile(tmp_path / "none", 0)
