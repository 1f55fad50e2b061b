"""Scalars of a training for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from kshot.trainer.errors import writing

FILE_VERSION = "brain.Event:2"


class ScalarFile:
    """Appends scalars to a new event file, unbuffered.

    After a kill, a writer with a queue would lose points of meta-iterations that the checkpoint
    counts as done. Raises `TrainingError` when the file cannot be written.
    """

    def __init__(self, folder: Path, meta_iteration: int) -> None:
        """Open a file for points after `meta_iteration`; it voids later points of earlier files.

        TensorBoard reads the files of a folder in the order of their names.
        """
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        self._path = folder / f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}"
        with writing(self._path):
            self._file = self._path.open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._append(file_version=FILE_VERSION)
        self._append(step=meta_iteration + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, meta_iteration: int, scalars: Mapping[str, float]) -> None:
        """Append one point of each scalar."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._append(step=meta_iteration, summary=Summary(value=values))

    def _append(self, **content: object) -> None:
        event = Event(wall_time=time.time(), **content)
        with writing(self._path):
            self._records.write(event.SerializeToString())
