"""ONNX Runtime in this process: where it computes, and how its sessions are made."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from kshot.server.event_log import log_event

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
# TF32 would keep ten bits of each factor.
_CUDA_OPTIONS = {"use_tf32": "0"}
_WARNINGS, _ERRORS, _NOTHING = 2, 3, 4  # what a logger of ONNX Runtime lets through
_MAX_REASON = 200


class Runtime:
    """Makes sessions, all on one kind of device; for one thread until the first is open.

    If there is a GPU that cannot be used, one event `predict_on_cpu` says why.
    """

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        """Choose the kind of device: the CPU if `cpu` is asked for, else a GPU if there is one."""
        self._threads = threads
        self._cuda = device != "cpu" and _gpu_there()
        if self._cuda and _CUDA not in onnxruntime.get_available_providers():
            self._give_up("this onnxruntime is built for CPUs; install onnxruntime-gpu")
        _share_arena()

    @property
    def on_gpu(self) -> bool:
        """Tell whether sessions compute on a GPU."""
        return self._cuda

    def open(
        self, model: Path | bytes, constants: Mapping[str, npt.NDArray[np.float32]] | None = None
    ) -> onnxruntime.InferenceSession:
        """Open a model with its external `constants`.

        Raises what ONNX Runtime raises; its exceptions have no common base.
        """
        if self._cuda:
            try:
                session = self._open_on_gpu(model, constants)
            except Exception as error:
                self._give_up(str(error))
            else:
                if _CUDA in session.get_providers():
                    return session
                self._give_up("ONNX Runtime could not load its CUDA provider")
        return self._open(model, constants, [_CPU])

    def _open_on_gpu(
        self, model: Path | bytes, constants: Mapping[str, npt.NDArray[np.float32]] | None
    ) -> onnxruntime.InferenceSession:
        # A provider that cannot be loaded would print its own lines to stderr.
        onnxruntime.set_default_logger_severity(_NOTHING)
        try:
            return self._open(model, constants, [(_CUDA, _CUDA_OPTIONS), _CPU])
        finally:
            onnxruntime.set_default_logger_severity(_WARNINGS)

    def _open(
        self,
        model: Path | bytes,
        constants: Mapping[str, npt.NDArray[np.float32]] | None,
        providers: list[object],
    ) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS
        options.add_session_config_entry("session.use_env_allocators", "1")
        if constants:
            # They outlive every run: in the arena they would keep it from shrinking.
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
            options.add_external_initializers(
                list(constants),
                [
                    onnxruntime.OrtValue.ortvalue_from_numpy(
                        np.require(array, np.float32, ["C", "A"])
                    )
                    for array in constants.values()
                ],
            )
        # Its own fallback to the CPU prints to stdout.
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)

    def _give_up(self, reason: str) -> None:
        self._cuda = False
        first_line = next(iter(reason.splitlines()), "")
        log_event("predict_on_cpu", logging.WARNING, reason=first_line[:_MAX_REASON])


@functools.cache
def _share_arena() -> None:
    """Let all sessions share one memory arena; otherwise each grows its own."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    onnxruntime.create_and_register_allocator(memory, None)


def _gpu_there() -> bool:
    """Tell whether this process may see an NVIDIA GPU: without one, CUDA only complains."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))
