"""The errors of the trainer; each message is one sentence for the user.

TrainerError
├── DataError         a data set is missing, incomplete, damaged, or too small
├── RecipeError       a recipe is unknown, or one of its keys is wrong
├── CalibrationError  no temperature fits a bundle's answers
├── EncoderError      an ONNX file or a backbone cannot be a bundle's encoder
└── TrainingError     a training cannot start, cannot be resumed, or diverged
    ├── OtherTrainingError  a checkpoint belongs to another training
    └── LostWorkerError     another process of the same training has ended
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TrainerError(Exception):
    """Base of all errors whose message is meant for the user."""


class DataError(TrainerError):
    """Data are missing, incomplete, damaged, or too small for the request."""


class RecipeError(TrainerError):
    """A recipe is unknown, or a key of it is unknown, missing, mistyped or out of range."""


class CalibrationError(TrainerError):
    """No temperature fits a bundle's answers, or the answers do not fit into memory."""


class EncoderError(TrainerError):
    """An ONNX file, or a backbone with its weights, cannot be a bundle's encoder."""


class TrainingError(TrainerError):
    """A training cannot start, cannot be resumed, or diverged."""


class OtherTrainingError(TrainingError):
    """A checkpoint belongs to another recipe or to other data."""


class LostWorkerError(TrainingError):
    """Another process of the same training has ended."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing a file into a `TrainingError` that names the file."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an `OSError` of reading a file or folder into a `DataError` that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
