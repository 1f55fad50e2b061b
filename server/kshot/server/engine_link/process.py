"""One engine process: its start, its socket, its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from kshot.server.config import ServerConfig
from kshot.server.engine_link.client import EngineClient, EngineFacts
from kshot.server.errors import StartError

_STOP_SECONDS = 5.0
_STDERR = 2
# A unix socket's path has 107 bytes at most; this leaves room for the folder and the name.
_MAX_FOLDER_BYTES = 64


class EngineProcess:
    """A child process that adapts. It ends when its standard input closes, with its parent."""

    def __init__(
        self, process: asyncio.subprocess.Process, folder: Path, client: EngineClient
    ) -> None:
        self._process = process
        self._folder = folder
        self.client = client

    @classmethod
    async def start(cls, config: ServerConfig) -> EngineProcess:
        """Start an engine; raise `StartError` when its program cannot be run."""
        folder = _private_folder()
        socket = folder / "engine.sock"
        arguments = ["--socket", str(socket), "--device", config.device]
        for bundle in config.bundles:
            arguments += ["--bundle", str(bundle)]
        try:
            process = await asyncio.create_subprocess_exec(
                *config.engine_command,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=_STDERR,  # our own stdout is for results
                # Ctrl-C in a terminal is for the front, which stops the engine after its work.
                start_new_session=True,
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    # Files that it unpacks or compiles are removed with the folder.
                    "TMPDIR": str(folder),
                },
            )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StartError(f"the engine cannot be started: {error.strerror}") from error
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
            shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, *, force: bool) -> None:
        with suppress(ProcessLookupError):
            if force:
                self._process.kill()
            else:
                self._process.terminate()


def _private_folder() -> Path:
    """Make a private folder whose path is short enough for a socket."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _MAX_FOLDER_BYTES:
        place = "/tmp"  # noqa: S108 -- mkdtemp makes a private folder in it
    return Path(tempfile.mkdtemp(prefix="kshot-", dir=place))
