"""The settings of a server: one frozen dataclass, every field checked."""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kshot.server.errors import ConfigError

DAY_SECONDS = 24 * 3600.0

_MOST_COUNTED = 2**53
# The least and the greatest value of each number.
_SPANS: dict[str, tuple[float, float]] = {
    "max_message_bytes": (1024, 2**31 - 1),  # gRPC's own bound
    "max_image_pixels": (1, 2**26),  # decoders refuse more
    "max_request_pixels": (1, _MOST_COUNTED),
    "max_predict_images": (1, _MOST_COUNTED),
    "max_adapted_models": (1, _MOST_COUNTED),
    "max_adapted_bytes": (1, _MOST_COUNTED),
    # The time of expiry must be before the year 10,000.
    "default_ttl": (0.001, 36_500 * DAY_SECONDS),
    "max_ttl": (0.001, 36_500 * DAY_SECONDS),
    "max_adapt_queue": (1, 1_000_000),
    "max_predict_queue": (1, 1_000_000),
    "cache_bytes": (0, _MOST_COUNTED),
    "max_hot_sessions": (0, 100_000),
    "drain_grace": (0.001, DAY_SECONDS),
    "engine_start": (0.001, DAY_SECONDS),
    "engine_probe": (0.001, DAY_SECONDS),
}


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one server; raises `ConfigError` naming an invalid one.

    `kshot serve` has a flag for each field; it makes those that have a help text here from it.
    """

    bundles: tuple[Path, ...]
    """Folders of the bundles to serve, at least one."""
    store: Path
    """The folder that keeps adapted models."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT; port 0 picks a free one."""
    device: str = "auto"
    """Where the engine computes: `auto`, `cpu` or `cuda`."""
    insecure: bool = False
    """Whether to listen on an address that other machines can reach, without encryption or keys."""
    max_message_bytes: int = field(
        default=16 * 2**20, metadata={"help": "Maximum size of a request, in bytes."}
    )
    max_image_pixels: int = field(
        default=2**24, metadata={"help": "Maximum pixels of one image before resizing."}
    )
    max_request_pixels: int = field(
        default=2**26,
        metadata={"help": "Maximum pixels of all images of a request before resizing."},
    )
    max_predict_images: int = field(
        default=2**17,
        metadata={
            "help": "Maximum images that a request to predict may run through the network; mode "
            "support_and_query runs the support set with each query."
        },
    )
    max_adapted_models: int = field(
        default=10_000, metadata={"help": "Maximum number of stored adapted models."}
    )
    max_adapted_bytes: int = field(
        default=8 * 2**30, metadata={"help": "Maximum bytes of stored adapted models."}
    )
    default_ttl: float = field(
        default=7 * DAY_SECONDS,
        metadata={
            "help": "Seconds an adapted model is kept unless the caller sets a time to live."
        },
    )
    max_ttl: float = field(
        default=30 * DAY_SECONDS,
        metadata={"help": "Maximum time to live that a caller may set, in seconds."},
    )
    max_adapt_queue: int = field(
        default=256,
        metadata={"help": "Maximum calls that adapt or wait to adapt; others get UNAVAILABLE."},
    )
    max_predict_queue: int = field(
        default=256,
        metadata={"help": "Maximum calls that predict or wait to predict; others get UNAVAILABLE."},
    )
    cache_bytes: int = field(
        default=256 * 2**20, metadata={"help": "Maximum bytes of adapted models held in memory."}
    )
    max_hot_sessions: int = field(
        default=64,
        metadata={
            "help": "Maximum adapted models in memory with a network of their own. It answers in "
            "half the time and takes about three times the memory of its weights; unused on a GPU."
        },
    )
    drain_grace: float = field(
        default=30.0,
        metadata={"help": "Seconds that running calls may take to finish when the server stops."},
    )
    engine_start: float = field(
        default=300.0, metadata={"help": "Seconds that the engine may take to become ready."}
    )
    engine_probe: float = field(
        default=5.0,
        metadata={
            "help": "Seconds between probes of the engine, and to wait for each answer; an engine "
            "that misses three in a row is replaced."
        },
    )
    engine_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kshot.engine")
    """The command that starts an engine; its flags are appended."""

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ConfigError("bundles: expected at least one, got none")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device: expected auto, cpu or cuda, got {self.device!r}")
        for name, (least, greatest) in _SPANS.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise ConfigError(
                    f"{name}: expected {least:.16g} to {greatest:.16g}, got {value:.16g}"
                )
        if self.default_ttl > self.max_ttl:
            raise ConfigError(
                f"default_ttl: expected at most {self.max_ttl:g} (max_ttl), "
                f"got {self.default_ttl:g}"
            )
        host = self.host
        if not self.insecure and not _loopback(host):
            raise ConfigError(
                f"listen: expected a loopback address, got {host}, which other machines can reach "
                "without encryption or keys; pass --insecure to allow it"
            )

    @property
    def host(self) -> str:
        """Return the host part of `listen`; raise `ConfigError` unless it is HOST:PORT."""
        host, colon, port = self.listen.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
            raise ConfigError(
                f"listen: expected HOST:PORT with a port from 0 to 65535, got {self.listen!r}"
            )
        return host


def default_store() -> Path:
    """Return the folder for adapted models below the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "kshot"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
