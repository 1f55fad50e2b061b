"""The settings of a server: one frozen dataclass, every field checked."""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from kshot.server.errors import ConfigError

MAX_ENGINES = 64
LOG_LEVELS = ("debug", "info", "warning", "error")
DAY_SECONDS = 24 * 3600.0

# The time of expiry must be before the year 10,000.
_MAX_TTL = 36_500 * DAY_SECONDS


def _count(default: int, text: str, least: int = 1, greatest: int = 2**53) -> int:
    """Declare a number that has a flag: its default, its help, its least and greatest value."""
    return field(default=default, metadata={"help": text, "span": (least, greatest)})


def _seconds(
    default: float, text: str, greatest: float = DAY_SECONDS, least: float = 0.001
) -> float:
    """Declare a span of time that has a flag: its default, its help, its ends."""
    return field(default=default, metadata={"help": text, "span": (least, greatest)})


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one server; raises `ConfigError` naming an invalid one.

    `kshot serve` has a flag for each field; it makes those that have a help text here from it.
    """

    bundles: tuple[Path, ...]
    """Folders of the bundles to serve, at least one unless there are repositories."""
    store: Path
    """The folder that keeps adapted models."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT; port 0 picks a free one."""
    device: str = "auto"
    """Where the engine computes: `auto`, `cpu` or `cuda`."""
    engines: int = 0
    """Engine processes; 0 for as many as pay."""
    access: Path | None = None
    """The access file with keys and tenants; without one, everyone may call."""
    tls_cert: Path | None = None
    """The PEM file with the server's certificate and those between it and its authority."""
    tls_key: Path | None = None
    """The PEM file with the certificate's private key."""
    client_ca: Path | None = None
    """The PEM file with the authorities that clients' certificates must be from, if any."""
    audit_log: Path | None = None
    """The file that lists what was done to keys, bundles, adapted models and tenants, if any."""
    repositories: tuple[Path, ...] = ()
    """Folders of which all bundles NAME/VERSION are served."""
    store_key: Path | None = None
    """The file with the keys that encrypt what the store keeps of images, if any."""
    insecure: bool = False
    """Whether other machines may reach the server without encryption or keys."""
    metrics: str = ""
    """HOST:PORT that answers Prometheus over plain HTTP; empty for none."""
    http: str = ""
    """HOST:PORT that answers HTTP: the page, and JSON; empty for none."""
    http_hosts: tuple[str, ...] = ()
    """Names of this host, besides its addresses and localhost, that HTTP is answered under."""
    trace: bool = False
    """Whether to send traces even if no variable of OpenTelemetry asks for them."""
    log_level: str = "info"
    """The least level that is logged."""
    # At most gRPC's own bound.
    max_message_bytes: int = _count(
        32 * 2**20, "Maximum size of a request, in bytes.", least=1024, greatest=2**31 - 1
    )
    # Decoders refuse more than the greatest value.
    max_image_pixels: int = _count(
        2**26, "Maximum pixels of one image before resizing.", greatest=2**26
    )
    max_request_pixels: int = _count(
        2**29, "Maximum pixels of all images of a request before resizing."
    )
    max_predict_images: int = _count(
        2**15,
        "Maximum images that a request to predict may run through the network; mode "
        "support_and_query runs the support set with each query.",
    )
    max_predict_macs: int = _count(
        250_000_000_000,
        "Maximum multiply-accumulate operations of a request to predict: of each image that it may "
        "run, as the model's capabilities count them.",
    )
    max_answer_bytes: int = _count(
        4 * 2**20,
        "Maximum size of an answer to queries, in bytes; clients of gRPC take 4 MiB by default.",
        least=2**14,
        greatest=2**30,
    )
    max_connection_calls: int = _count(
        128,
        "Maximum calls of one connection that run or wait; others get UNAVAILABLE.",
        greatest=1_000_000,
    )
    max_connection_age: float = _seconds(
        3600.0, "Seconds after which a connection is replaced; its calls may end."
    )
    max_connection_idle: float = _seconds(
        120.0, "Seconds after which a connection without calls is closed."
    )
    message_timeout: float = _seconds(30.0, "Seconds that a request may take to arrive.")
    answer_timeout: float = _seconds(
        30.0, "Seconds that a client may take to read an answer, besides 4 for each megabyte."
    )
    max_adapted_models: int = _count(10_000, "Maximum number of stored adapted models.")
    max_adapted_bytes: int = _count(8 * 2**30, "Maximum bytes of stored adapted models.")
    poll_repository: float = field(
        default=10.0,
        metadata={
            "help": "Seconds between looks for bundles of --repository that have come, changed "
            "labels or gone; 0 for none, then only ReloadBundles looks.",
            "span": (0.0, DAY_SECONDS),
        },
    )
    default_ttl: float = _seconds(
        7 * DAY_SECONDS,
        "Seconds an adapted model is kept unless the caller sets a time to live.",
        greatest=_MAX_TTL,
    )
    max_ttl: float = _seconds(
        30 * DAY_SECONDS,
        "Maximum time to live that a caller may set, in seconds.",
        greatest=_MAX_TTL,
    )
    request_id_ttl: float = _seconds(
        3600.0,
        "Seconds that the answer to a request id is kept: a repetition gets it and adapts no "
        "second time.",
        least=600.0,
    )
    max_adapt_queue: int = _count(
        256,
        "Maximum calls that adapt or wait to adapt; others get UNAVAILABLE.",
        greatest=1_000_000,
    )
    max_predict_queue: int = _count(
        256,
        "Maximum calls that predict or wait to predict; others get UNAVAILABLE.",
        greatest=1_000_000,
    )
    cache_bytes: int = _count(
        256 * 2**20, "Maximum bytes of adapted models held in memory.", least=0
    )
    max_hot_sessions: int = _count(
        64,
        "Maximum adapted models in memory with a network of their own. It answers in "
        "half the time and takes about three times the memory of its weights; unused on a GPU.",
        least=0,
        greatest=100_000,
    )
    drain_grace: float = _seconds(
        30.0, "Seconds that running calls may take to finish when the server stops."
    )
    engine_start: float = _seconds(300.0, "Seconds that the engine may take to become ready.")
    engine_probe: float = _seconds(
        5.0,
        "Seconds between probes of the engine, and to wait for each answer; an engine "
        "that misses three in a row is replaced.",
    )
    engine_wait: float = _seconds(
        3.0, "Seconds that an adaptation waits for an engine while none is ready."
    )
    engine_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kshot.engine")
    """The command that starts an engine; its flags are appended."""

    def __post_init__(self) -> None:
        if not (self.bundles or self.repositories):
            raise ConfigError("bundles: expected at least one, got none")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device: expected auto, cpu or cuda, got {self.device!r}")
        if not 0 <= self.engines <= MAX_ENGINES:
            raise ConfigError(f"engines: expected 1 to {MAX_ENGINES}, or auto, got {self.engines}")
        for setting in fields(self):
            if "span" not in setting.metadata:
                continue
            value, (least, greatest) = getattr(self, setting.name), setting.metadata["span"]
            if not least <= value <= greatest:
                raise ConfigError(
                    f"{setting.name}: expected {least:.16g} to {greatest:.16g}, got {value:.16g}"
                )
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(
                f"log_level: expected one of {', '.join(LOG_LEVELS)}, got {self.log_level!r}"
            )
        if self.metrics:
            parse_address("metrics", self.metrics)
        if self.default_ttl > self.max_ttl:
            raise ConfigError(
                f"default_ttl: expected at most {self.max_ttl:g} (max_ttl), "
                f"got {self.default_ttl:g}"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("cert", "key") if self.tls_key is None else ("key", "cert")
            raise ConfigError(f"tls_{missing}: required with tls_{given}, got none")
        if self.client_ca is not None and self.tls_cert is None:
            raise ConfigError("tls_cert: required with client_ca, got none")
        self._check_host("listen", self.host)
        if self.http:
            self._check_host("http", parse_address("http", self.http)[0])
        elif self.http_hosts:
            raise ConfigError("http: required with http_hosts, got none")

    def _check_host(self, setting: str, host: str) -> None:
        missing = [
            words
            for words, there in (
                ("encryption (--tls-cert and --tls-key)", self.tls_cert),
                ("keys (--access)", self.access),
            )
            if there is None
        ]
        if missing and not self.insecure and not _loopback(host):
            raise ConfigError(
                f"{setting}: expected a loopback address, got {host}, which other machines can "
                f"reach without {' or '.join(missing)}; add what is missing, or pass --insecure"
            )

    @property
    def host(self) -> str:
        """Return the host part of `listen`; raise `ConfigError` unless it is HOST:PORT."""
        return self._address[0]

    @property
    def port(self) -> int:
        """Return the port of `listen`; raise `ConfigError` unless it is HOST:PORT."""
        return self._address[1]

    @property
    def _address(self) -> tuple[str, int]:
        return parse_address("listen", self.listen)


def parse_address(setting: str, text: str) -> tuple[str, int]:
    """Return host and port; raise `ConfigError`, which names the setting, unless HOST:PORT."""
    host, colon, port = text.rpartition(":")
    expected = f"{setting}: expected HOST:PORT with a port from 0 to 65535"
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ConfigError(f"{expected}, got {text!r}")
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare and host != f"[{bare}]":
        raise ConfigError(
            f"{expected} and an IPv6 address in brackets, such as [::1]:50051, got {text!r}"
        )
    return host, int(port)


def default_store() -> Path:
    """Return the folder for adapted models below the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "kshot"


def _loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
