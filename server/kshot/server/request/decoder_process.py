"""A process that decodes large images, so that it can be killed; `decoders` starts it.

It reads jobs from its standard input and writes what they became to its standard output. It ends
when its input closes, whatever it is doing, and when an image takes too long.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from kshot.bundle import ImageError, Levels
from kshot.server.request.fitted_file import FileJob, FittedFile, fit_file

# Where memory runs out, it is freed here first.
_VICTIM, _LIKELY = Path("/proc/self/oom_score_adj"), "500"


def main(cpu_seconds: float) -> None:
    """Answer jobs one after another, each within so many seconds of processor time."""
    jobs = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what libraries print is not an answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        _VICTIM.write_text(_LIKELY)
    waiting: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(jobs, waiting), daemon=True).start()
    while True:
        job: FileJob = pickle.loads(waiting.get())  # noqa: S301 -- from our parent alone
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # which kills
        header, content = _answer(job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.send_bytes(header)
        answers.send_bytes(content)


def _read(jobs: Connection, waiting: SimpleQueue[bytes]) -> None:
    """Pass jobs on; end the process with its parent, also while it decodes."""
    try:
        while True:
            waiting.put(jobs.recv_bytes())
    finally:
        os._exit(0)


def _answer(job: FileJob) -> tuple[bytes, bytes]:
    """Return what `decoders` reads: facts as JSON, and pixels."""
    try:
        found = fit_file(job, Levels())
    except ImageError as error:
        return json.dumps({"reason": error.problems[0].reason}).encode(), b""
    return encode(found)


def encode(found: FittedFile) -> tuple[bytes, bytes]:
    """Return facts as JSON, and pixels: what a damaged process sends is never unpickled."""
    arrays = [*found.fitted, *([] if found.thumbnail is None else [found.thumbnail])]
    facts = {
        "shapes": [array.shape for array in arrays],
        "has_thumbnail": found.thumbnail is not None,
        "greatest": found.levels.greatest,
        "differ": found.levels.differ,
    }
    return json.dumps(facts).encode(), b"".join(map(np.ndarray.tobytes, arrays))
