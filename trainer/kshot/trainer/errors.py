"""What can go wrong in the trainer by a user's doing; each message is one sentence.

TrainerError
├── DataError         a data set is missing, incomplete, damaged, or too small for what was asked
├── RecipeError       a recipe is unknown, or one of its keys is
├── CalibrationError  no temperature fits a bundle's answers
└── TrainingError     a training cannot start, go on, or diverged
    ├── OtherTrainingError  a checkpoint is another training's
    └── LostWorkerError     another process of the same training has ended
"""


class TrainerError(Exception):
    """Base of all errors whose message is meant for the user."""


class DataError(TrainerError):
    """Data are missing, incomplete, damaged, or too small for what was asked."""


class RecipeError(TrainerError):
    """A recipe is unknown, or a key of it is unknown, missing, mistyped or out of range."""


class CalibrationError(TrainerError):
    """No temperature fits a bundle's answers, or they are more than memory holds."""


class TrainingError(TrainerError):
    """A training cannot start, cannot be resumed, or diverged."""


class OtherTrainingError(TrainingError):
    """A checkpoint belongs to another recipe or to other data."""


class LostWorkerError(TrainingError):
    """Another process that takes a part of the same training has ended."""
