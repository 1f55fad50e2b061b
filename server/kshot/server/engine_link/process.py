"""One engine process: its start, its socket, its end."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kshot.server.config import ServerConfig
from kshot.server.engine_link.client import EngineClient, EngineFacts
from kshot.server.engine_link.folder import EngineFolder
from kshot.server.errors import StartError

_STOP_SECONDS = 5.0
_STDERR = 2
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class EngineSetting:
    """What an engine of several is started with.

    `gpu` counts from 0 among `gpu_count` that this process sees; None leaves all visible. The
    greater its `niceness`, the sooner it leaves its core to the front. Of the digests in
    `tail_seconds` the speed is known: the engine does not measure it.
    """

    gpu: int | None = None
    gpu_count: int = 1
    niceness: int = 0
    tail_seconds: Mapping[str, float] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the variables that differ from this process's."""
        if self.gpu is None:
            return {}
        visible = list(filter(None, os.environ.get(_VISIBLE, "").split(",")))
        names = visible or [str(number) for number in range(self.gpu_count)]
        return {_VISIBLE: names[self.gpu % len(names)].strip()}


class EngineProcess:
    """A child process that adapts. It ends when its standard input closes, with its parent."""

    def __init__(
        self, process: asyncio.subprocess.Process, folder: EngineFolder, client: EngineClient
    ) -> None:
        self._process = process
        self._folder = folder
        self.client = client

    @classmethod
    async def start(
        cls, config: ServerConfig, setting: EngineSetting, bundles: Sequence[Path]
    ) -> EngineProcess:
        """Start an engine of bundles; raise `StartError` when its program cannot be run."""
        try:
            folder = EngineFolder.make()
        except OSError as error:
            raise StartError(
                f"{error.filename or tempfile.gettempdir()}: no folder for the engine can be made: "
                f"{error.strerror}; name a folder in TMPDIR that has room"
            ) from error
        socket = folder.path / "engine.sock"
        arguments = ["--socket", str(socket), "--device", config.device]
        for bundle in bundles:
            arguments += ["--bundle", str(bundle)]
        for digest, seconds in setting.tail_seconds.items():
            arguments += ["--tail-seconds", f"{digest}={seconds!r}"]
        if config.trace:
            arguments.append("--trace")
        if config.log_level != "info":
            arguments += ["--log-level", config.log_level]
        try:
            process = await asyncio.create_subprocess_exec(
                *config.engine_command,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=_STDERR,  # our own stdout is for results
                # Ctrl-C in a terminal is for the front, which stops the engine after its work.
                start_new_session=True,
                pass_fds=(folder.lock,),
                env=os.environ
                | setting.environment()
                | {
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    # Files that it unpacks or compiles are removed with the folder.
                    "TMPDIR": str(folder.path),
                },
            )
        except BaseException as error:
            folder.remove()
            if isinstance(error, OSError):
                raise StartError(f"the engine cannot be started: {error.strerror}") from error
            raise
        if setting.niceness:
            with suppress(OSError):  # it has ended, or may not
                os.setpriority(os.PRIO_PROCESS, process.pid, setting.niceness)
        return cls(process, folder, EngineClient(str(socket)))

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    async def ready(self, seconds: float) -> EngineFacts:
        """Wait until the engine answers; raise `StartError` when it ends or takes too long."""
        describe = asyncio.ensure_future(self.client.describe())
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait(
                (describe, ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if describe.done():
                return describe.result()
            if ended.done():
                raise StartError(
                    f"the engine ended with exit code {ended.result()} before it was ready; "
                    "its log above says why"
                )
            raise StartError(
                f"the engine was not ready within {seconds:g} seconds; raise --engine-start"
            )
        finally:
            for waiting in (describe, ended):
                waiting.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await waiting

    async def ended(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return await self._process.wait()

    def kill(self) -> None:
        """Kill the process without waiting for it."""
        self._signal(force=True)

    async def stop(self) -> None:
        """End the process and remove its socket; kill it if it takes long or this is cancelled."""
        try:
            await self.client.close()
            if self._process.returncode is None:
                if self._process.stdin is not None:
                    self._process.stdin.close()
                self._signal(force=False)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        finally:
            if self._process.returncode is None:
                self._signal(force=True)
                await self._process.wait()
            self._folder.remove()

    def _signal(self, *, force: bool) -> None:
        with suppress(ProcessLookupError):
            if force:
                self._process.kill()
            else:
                self._process.terminate()
