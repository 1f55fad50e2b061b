"""Large images are decoded in processes that can be killed."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import (
    Grayscale,
    ImageError,
    InputSpec,
    Levels,
    Normalize,
    Rescale,
    Resize,
    Rgb,
    survey_image,
)
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import CallCancelled, DeadlineExceeded
from kshot.server.request import decoders as decoders_module
from kshot.server.request.decoders import DecoderProcess, Decoders
from kshot.server.request.fitted_file import FileJob, FittedFile, fit_file

GRAY = InputSpec((1, 4, 6), (Grayscale(), Resize(4, 6, "nearest"), Rescale(1 / 255)))
COLOR = InputSpec((3, 8, 8), (Rgb(), Resize(8, 8, "box"), Normalize((127.0,) * 3, (128.0,) * 3)))
PATIENCE = 60.0


def job(data: bytes, *, wants_thumbnail: bool = False) -> FileJob:
    return FileJob(data, survey_image(data), (GRAY, COLOR), wants_thumbnail)


def jpeg(side: int = 40) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def heavy() -> bytes:
    """Return a file that takes seconds: many scans over many blocks."""
    stream = io.BytesIO()
    Image.new("L", (6000, 6000)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()[:-2]
    scan = data[data.rindex(b"\xff\xda") :][:10]
    return data + scan * 90 + b"\xff\xd9"


HEAVY = heavy()


@pytest.fixture
def process() -> Iterator[DecoderProcess]:
    begin_call("Predict")
    found = DecoderProcess()
    yield found
    found.kill()


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    begin_call("Predict")
    found = Decoders(2, large_seconds=0)
    yield found
    found.close()


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + PATIENCE
    with suppress(FileNotFoundError):
        while True:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":  # nobody has asked how it ended
                return
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.parametrize("wants_thumbnail", [False, True])
def test_a_process_gives_what_a_thread_gives(decoders: Decoders, wants_thumbnail: bool) -> None:
    for data in (jpeg(), jpeg(41)):
        wanted = fit_file(job(data, wants_thumbnail=wants_thumbnail), Levels())
        levels = Levels()
        got = decoders.fit(job(data, wants_thumbnail=wants_thumbnail), levels)

        for one, other in zip(got.fitted, wanted.fitted, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (got.thumbnail is not None) is wants_thumbnail
        if wanted.thumbnail is not None:
            np.testing.assert_array_equal(got.thumbnail, wanted.thumbnail)
        assert levels == wanted.levels and levels.greatest > 1


def test_small_images_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_call("Predict")
    monkeypatch.setattr(DecoderProcess, "fit", lambda *_: pytest.fail("a process was asked"))

    assert Decoders().fit(job(jpeg()), Levels()).thumbnail is None
    assert job(HEAVY).survey.seconds > 1


def test_what_is_wrong_with_an_image_is_told(decoders: Decoders) -> None:
    data = jpeg()
    damaged = FileJob(data[:-200], survey_image(data[:-200]), (GRAY,), False)

    with pytest.raises(ImageError, match="is damaged: its pixels cannot be decoded"):
        decoders.fit(damaged, Levels())
    assert len(decoders.fit(job(data), Levels()).fitted) == 2


def test_a_deadline_frees_the_caller_and_the_process(process: DecoderProcess) -> None:
    process.fit(job(jpeg()))
    pid = process.pid
    assert pid is not None
    current_call().deadline = time.monotonic() + 0.2

    with pytest.raises(DeadlineExceeded):
        process.fit(job(HEAVY))

    wait_until_gone(pid)
    begin_call("Predict")
    process.fit(job(jpeg()))
    assert process.pid not in (None, pid)


def test_an_image_that_takes_too_long_is_refused() -> None:
    begin_call("Predict")
    process = DecoderProcess(cpu_seconds=0.05)
    try:
        with pytest.raises(ImageError, match="takes too long to decode; expected at most 0"):
            process.fit(job(HEAVY))
    finally:
        process.kill()


def test_a_process_that_hangs_is_killed(
    process: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.fit(job(jpeg()))
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(decoders_module, "_WALL_SECONDS", 0.1)

    with pytest.raises(ImageError, match="takes too long to decode"):
        process.fit(job(jpeg()))
    wait_until_gone(pid)


def test_a_crash_concerns_its_image_alone(process: DecoderProcess) -> None:
    process.fit(job(jpeg()))
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # it cannot be done before it crashes

    def crash() -> None:
        for number in (signal.SIGSEGV, signal.SIGCONT):
            os.kill(pid, number)

    threading.Timer(0.1, crash).start()

    with pytest.raises(ImageError, match="its decoder was ended by SIGSEGV; send it smaller, or"):
        process.fit(job(jpeg()))
    assert len(process.fit(job(jpeg())).fitted) == 2


@pytest.mark.parametrize("broken", ["module", "program"])
def test_without_a_process_the_thread_decodes(
    process: DecoderProcess, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """No image is refused because no process can be started."""
    if broken == "module":
        monkeypatch.setattr(decoders_module, "_PROGRAM", "import no_module")
    else:
        monkeypatch.setattr(sys, "executable", "/no/program")

    assert len(process.fit(job(jpeg())).fitted) == 2
    assert process.pid is None


def test_a_process_ends_with_its_parent_and_has_no_sockets(tmp_path: Path) -> None:
    """Killed in the middle of an image, a front leaves nothing behind that holds its port."""
    image = tmp_path / "heavy.jpg"
    image.write_bytes(HEAVY)
    script = f"""
import os, socket, sys, threading, time
from pathlib import Path
from kshot.bundle import Grayscale, InputSpec, Rescale, Resize, survey_image
from kshot.server.call_context import begin_call
from kshot.server.request.decoders import DecoderProcess
from kshot.server.request.fitted_file import FileJob
listening = socket.create_server(("127.0.0.1", 0))
os.set_inheritable(listening.fileno(), True)
process = DecoderProcess()
data = Path({str(image)!r}).read_bytes()
spec = InputSpec((1, 4, 4), (Grayscale(), Resize(4, 4, "nearest"), Rescale(1 / 255)))
def work():
    begin_call("Predict")
    process.fit(FileJob(data, survey_image(data), (spec,), False))
threading.Thread(target=work, daemon=True).start()
while process.pid is None:
    time.sleep(0.01)
print(process.pid, listening.getsockname()[1], flush=True)
time.sleep(600)
"""
    front = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert front.stdout is not None
    try:
        pid, port = map(int, front.stdout.readline().split())
        until = time.monotonic() + PATIENCE
        while _cpu_seconds(pid) < 0.6 and time.monotonic() < until:  # it decodes
            time.sleep(0.02)
        ends = [str(end.readlink()) for end in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [end for end in ends if end.startswith("socket:")]
    finally:
        front.kill()
        front.wait()
        front.stdout.close()
    wait_until_gone(pid)
    socket.create_server(("127.0.0.1", port)).close()


def _cpu_seconds(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def test_callers_take_turns_and_none_has_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one caller's images wait for each other, another's is decoded at once."""
    go_on, began = threading.Semaphore(0), list[str]()
    changed = threading.Condition()

    def fit(_: DecoderProcess, __: FileJob) -> FittedFile:
        with changed:
            began.append(current_call().caller)
            changed.notify_all()
        go_on.acquire()
        return FittedFile([], None, Levels())

    monkeypatch.setattr(DecoderProcess, "fit", fit)
    decoders, sent = Decoders(2, large_seconds=0), job(jpeg())

    def ask(caller: str) -> threading.Thread:
        def work() -> None:
            begin_call("Predict", caller=caller)
            decoders.fit(sent, Levels())

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def have_begun(*callers: str) -> bool:
        with changed:
            return changed.wait_for(lambda: sorted(began) == sorted(callers), PATIENCE)

    threads = [ask("flood") for _ in range(4)]
    assert have_begun("flood")
    threads.append(ask("quiet"))
    assert have_begun("flood", "quiet")
    for _ in threads:
        go_on.release()
    for thread in threads:
        thread.join(PATIENCE)
    assert have_begun(*["flood"] * 4, "quiet")


def test_a_call_that_ends_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_call("Predict")
    decoders, sent = Decoders(1, large_seconds=0), job(jpeg())
    monkeypatch.setattr(DecoderProcess, "fit", lambda *_: FittedFile([], None, Levels()))
    with decoders._turn():
        begin_call("Predict").ended = True
        with pytest.raises(CallCancelled):
            decoders.fit(sent, Levels())
    begin_call("Predict")

    assert decoders.fit(sent, Levels()).fitted == []


def test_the_process_imports_little() -> None:
    script = (
        "import kshot.server.request.decoder_process, sys; "
        "print([name for name in ('torch', 'grpc', 'onnxruntime') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
