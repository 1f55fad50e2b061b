"""What a server is told when it starts: one frozen dataclass, every field checked."""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kshot.server.errors import ConfigError

DAY_SECONDS = 24 * 3600.0

_MOST_COUNTED = 2**53
# What numbers may be, from and to.
_SPANS: dict[str, tuple[float, float]] = {
    "max_message_bytes": (1024, 2**31 - 1),  # gRPC's own bound
    "max_image_pixels": (1, 2**26),  # decoders refuse more by themselves
    "max_request_pixels": (1, _MOST_COUNTED),
    "max_predict_images": (1, _MOST_COUNTED),
    "max_adapted_models": (1, _MOST_COUNTED),
    "max_adapted_bytes": (1, _MOST_COUNTED),
    # A time of expiry has to be before the year 10,000.
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
    """The settings of one server; raises `ConfigError` naming the one that does not fit.

    Each field says in its metadata what it is; `kshot serve` makes its flags from them.
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
    """Whether an address beyond this machine may be listened on, without encryption or keys."""
    max_message_bytes: int = field(
        default=16 * 2**20, metadata={"help": "Largest request, in bytes."}
    )
    max_image_pixels: int = field(
        default=2**24, metadata={"help": "Most pixels of one image before resizing."}
    )
    max_request_pixels: int = field(
        default=2**26,
        metadata={"help": "Most pixels of all images of a request before resizing."},
    )
    max_predict_images: int = field(
        default=2**17,
        metadata={
            "help": "Most images that a request to predict may run through the network; mode "
            "support_and_query runs the support set with each query."
        },
    )
    max_adapted_models: int = field(
        default=10_000, metadata={"help": "Most adapted models that are kept."}
    )
    max_adapted_bytes: int = field(
        default=8 * 2**30, metadata={"help": "Most bytes of adapted models that are kept."}
    )
    default_ttl: float = field(
        default=7 * DAY_SECONDS,
        metadata={"help": "Seconds an adapted model is kept when the caller names none."},
    )
    max_ttl: float = field(
        default=30 * DAY_SECONDS, metadata={"help": "Most seconds a caller may ask for."}
    )
    max_adapt_queue: int = field(
        default=256, metadata={"help": "Most calls that adapt or wait to; more are UNAVAILABLE."}
    )
    max_predict_queue: int = field(
        default=256, metadata={"help": "Most calls that predict or wait to; more are UNAVAILABLE."}
    )
    cache_bytes: int = field(
        default=256 * 2**20, metadata={"help": "Most bytes of adapted models held in memory."}
    )
    max_hot_sessions: int = field(
        default=64,
        metadata={
            "help": "Most adapted models in memory that have a network of their own, which answers "
            "in half the time and takes about three times its weights; none on a GPU."
        },
    )
    drain_grace: float = field(
        default=30.0, metadata={"help": "Seconds that calls may take to finish at a stop."}
    )
    engine_start: float = field(
        default=300.0, metadata={"help": "Seconds that the engine may take to become ready."}
    )
    engine_probe: float = field(
        default=5.0,
        metadata={
            "help": "Seconds between probes of the engine, and for its answer to each; one that "
            "misses three in a row is replaced."
        },
    )
    engine_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kshot.engine")
    """What starts an engine; its flags are appended."""

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ConfigError("bundles: got none, wanted at least one")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device: got {self.device!r}, wanted auto, cpu or cuda")
        for name, (least, greatest) in _SPANS.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise ConfigError(
                    f"{name}: got {value:.16g}, wanted {least:.16g} to {greatest:.16g}"
                )
        if self.default_ttl > self.max_ttl:
            raise ConfigError(
                f"default_ttl: got {self.default_ttl:g}, wanted at most max_ttl, {self.max_ttl:g}"
            )
        host = self.host
        if not self.insecure and not _loopback(host):
            raise ConfigError(
                f"listen: {host} may be reached from other machines, without encryption or keys; "
                "wanted a loopback address, or --insecure to allow it"
            )

    @property
    def host(self) -> str:
        """Return the host part of `listen`; raise `ConfigError` unless it is HOST:PORT."""
        host, colon, port = self.listen.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
            raise ConfigError(f"listen: got {self.listen!r}, wanted HOST:PORT, port 0 to 65535")
        return host


def default_store() -> Path:
    """Return the folder for adapted models that a person's other state lies beside."""
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
