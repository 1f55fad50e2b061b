"""The process that answers HTTP: its start, its restarts, its end."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from kshot.server.config import ServerConfig
from kshot.server.engine_link.folder import EngineFolder
from kshot.server.errors import StartError
from kshot.server.event_log import log_event

_NEEDS = ("starlette", "uvicorn")
_START_SECONDS = 60.0
_STOP_SECONDS = 2.0
_FIRST_PAUSE, _MOST_PAUSE = 0.2, 10.0


class Gateway:
    """Keeps a gateway running that reaches this server by the socket `path`.

    The socket's folder is private: who is at its other end names the caller of each call. The
    gateway ends when its standard input closes, with this process.
    """

    def __init__(self, config: ServerConfig) -> None:
        """Make the folder; raise `StartError` where the libraries are missing."""
        missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            raise StartError(
                f"http: {' and '.join(missing)}: not installed; pip install 'kshot[http]'"
            )
        self._config = config
        self._folder = EngineFolder.make()
        self._address = config.http
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._grpc_address = ""
        self._stopped = False
        self._refusals: Counter[tuple[str, str]] = Counter()

    @property
    def path(self) -> str:
        """Return the path of the unix socket."""
        return str(self._folder.path / "front.sock")

    def refusals(self) -> Mapping[tuple[str, str], int]:
        """Return what was refused before a call, by code and reason; for any thread."""
        return self._refusals.copy()

    async def start(self, grpc_address: str) -> str:
        """Start the gateway, and watch it from now on; return its address. Raises `StartError`.

        It tells its callers `grpc_address`, for other clients.
        """
        self._grpc_address = grpc_address
        self._address = await self._launch()
        self._watching = asyncio.create_task(self._watch())
        return self._address

    async def stop(self, seconds: float) -> None:
        """Let it finish its answers, at most so long; then end it. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        process, self._process = self._process, None
        try:
            if process is not None and process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), max(_STOP_SECONDS, seconds))
        finally:
            if process is not None and process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            self._folder.remove()

    async def _launch(self) -> str:
        """Start a process and wait until it listens; return its address."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "kshot.gateway"),
            *self._arguments(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the front
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._process = process
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        try:
            async with asyncio.timeout(_START_SECONDS):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            with suppress(ProcessLookupError):
                process.kill()
            raise StartError(
                f"http: {self._address}: it did not start, exit code {await process.wait()}; its "
                "line above says why"
            )
        return str(json.loads(line)["http"])

    def _arguments(self) -> list[str]:
        config = self._config
        arguments = ["--listen", self._address, "--server", self.path]
        arguments += ["--grpc", self._grpc_address]
        arguments += ["--max-message-bytes", str(config.max_message_bytes)]
        arguments += ["--grace", str(config.drain_grace), "--log-level", config.log_level]
        for name in config.http_hosts:
            arguments += ["--name", name]
        for flag, file in (
            ("--tls-cert", config.tls_cert),
            ("--tls-key", config.tls_key),
            ("--client-ca", config.client_ca),
        ):
            if file is not None:
                arguments += [flag, str(file)]
        return arguments

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Count what a process tells, until it ends."""
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        async for line in process.stdout:
            for code, reason, count in json.loads(line)["refusals"]:
                self._refusals[code, reason] += count

    async def _watch(self) -> None:
        """Start it again whenever it ends, after a pause that grows while it keeps ending."""
        pause = _FIRST_PAUSE
        while True:
            assert self._process is not None  # noqa: S101 -- it was launched
            began = asyncio.get_running_loop().time()
            await self._listen(self._process)
            code = await self._process.wait()
            log_event("gateway_ended", logging.WARNING, exit_code=code)
            if asyncio.get_running_loop().time() - began > _MOST_PAUSE:
                pause = _FIRST_PAUSE
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MOST_PAUSE)
                try:
                    await self._launch()
                except (StartError, OSError) as error:
                    log_event("gateway_not_started", logging.WARNING, problem=str(error))
                else:
                    log_event("gateway_started", http=self._address)
                    break
