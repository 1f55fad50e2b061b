"""`kshot serve`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import click

from kshot.bundle import PHOTOS, PHOTOS_VERSION, default_bundles, locate_bundle
from kshot.bundle.signals.json_log import start_logging
from kshot.server.access.access_file import AccessFile, change_access
from kshot.server.access.key import Role, new_key
from kshot.server.config import LOG_LEVELS, MAX_ENGINES, ServerConfig, default_store
from kshot.server.errors import ConfigError, StartError
from kshot.server.event_log import log_event, without_ids
from kshot.server.server import serve

_STANDARD_INPUT = 0


class _EngineCount(click.ParamType[int]):
    """A number, or auto: 0."""

    name = "N|auto"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        if value == "auto":
            return 0
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= MAX_ENGINES):
            self.fail(f"expected 1 to {MAX_ENGINES}, or auto, got {value!r}", param, ctx)
        return int(value)


class _HostName(click.ParamType[str]):
    """A name; several in a variable are separated as paths are."""

    name = "NAME"
    envvar_list_splitter = os.pathsep


@click.command(name="serve", context_settings={"show_default": True})
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=click.Path(),  # so that the variable is split as paths are
    envvar="KSHOT_BUNDLE",
    metavar="PATH|NAME",
    show_default="drawings, and photos where it was built",
    help="Folder NAME/VERSION, or NAME for its highest version, of a bundle to serve, or the name "
    "of a built-in or built one, NAME@VERSION for another version; repeatable.  [env var: "
    f"KSHOT_BUNDLE, several separated by {os.pathsep}]",
)
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    type=click.Path(path_type=Path),
    envvar="KSHOT_REPOSITORY",
    metavar="PATH",
    help="Folder of bundles NAME/VERSION to serve all of, in all their versions, also those that "
    "come later; NAME/labels.json labels versions; repeatable.  [env var: KSHOT_REPOSITORY, "
    f"several separated by {os.pathsep}]",
)
@click.option(
    "--listen",
    default="127.0.0.1:50051",
    metavar="HOST:PORT",
    envvar="KSHOT_LISTEN",
    help="Address for gRPC; port 0 picks a free one.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=default_store,
    show_default="$XDG_STATE_HOME/kshot",
    envvar="KSHOT_STORE",
    help="Folder that keeps adapted models.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    envvar="KSHOT_DEVICE",
    help="Device to adapt on; auto uses a GPU if there is one.",
)
@click.option(
    "--engines",
    type=_EngineCount(),
    default="auto",
    envvar="KSHOT_ENGINES",
    help="Processes that adapt. auto: one for each GPU; on a CPU as many as give the best "
    "throughput, and where memory suffices two at least, so that one takes over from the other.",
)
@click.option(
    "--access",
    type=click.Path(path_type=Path),
    envvar="KSHOT_ACCESS",
    help="File with API keys and tenants, which `kshot keys create` makes; without one, whoever "
    "reaches the port may call.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    envvar="KSHOT_TLS_CERT",
    help="PEM file with the server's certificate, and those between it and its authority; read "
    "again when it changes.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path),
    envvar="KSHOT_TLS_KEY",
    help="PEM file with the certificate's private key.",
)
@click.option(
    "--client-ca",
    type=click.Path(path_type=Path),
    envvar="KSHOT_CLIENT_CA",
    help="PEM file with authorities: clients must show a certificate from one of them.",
)
@click.option(
    "--audit-log",
    type=click.Path(path_type=Path),
    envvar="KSHOT_AUDIT_LOG",
    help="File that lists deletions, reloads of bundles and refused calls, a JSON line each, and "
    "those changes of keys and limits that are made with it; it may be moved away at any time.",
)
@click.option(
    "--store-key",
    type=click.Path(path_type=Path),
    envvar="KSHOT_STORE_KEY",
    help="File of keys, 32 bytes in base64 a line: the first encrypts adapted models and their "
    "support sets on disk, all of them decrypt.",
)
@click.option(
    "--insecure",
    is_flag=True,
    envvar="KSHOT_INSECURE",
    help="Allow an address that other machines can reach, without encryption or without keys.",
)
@click.option(
    "--metrics",
    default="",
    metavar="HOST:PORT",
    envvar="KSHOT_METRICS",
    show_default="off",
    help="Address that answers Prometheus over plain HTTP, at /metrics. Whoever reaches it reads "
    "the names of models and tenants, and counts; port 0 picks a free one.",
)
@click.option(
    "--http",
    default="",
    metavar="HOST:PORT",
    envvar="KSHOT_HTTP",
    show_default="off",
    help="Address for the page and JSON over HTTP, with the same keys, limits and certificate as "
    "gRPC; port 0 picks a free one. The extra `http` has the libraries.",
)
@click.option(
    "--http-host",
    "http_hosts",
    multiple=True,
    type=_HostName(),
    envvar="KSHOT_HTTP_HOST",
    help="Name of this host that browsers may use for --http, besides localhost and addresses; "
    f"repeatable.  [env var: KSHOT_HTTP_HOST, several separated by {os.pathsep}]",
)
@click.option(
    "--trace",
    is_flag=True,
    envvar="KSHOT_TRACE",
    help="Send OpenTelemetry traces by OTLP over gRPC; the extra `otel` has the libraries. "
    "OTEL_EXPORTER_OTLP_ENDPOINT says where to, and turns them on as well.",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="info",
    envvar="KSHOT_LOG_LEVEL",
    help="Least level of what is logged; requests are info.",
)
@click.option(
    "--private",
    is_flag=True,
    hidden=True,
    help="Serve the program that holds the other end of standard input: end when it closes, keep "
    "the store in a temporary folder, and print the one key that is let in with the ready event.",
)
def command(bundles: tuple[str, ...], private: bool, **settings: Any) -> None:  # noqa: ANN401 -- one per option
    """Serve bundles over gRPC: adapt and predict.

    Prints one JSON line {"event": "ready", "grpc": "HOST:PORT", …} once it can adapt, and logs JSON
    lines to stderr. On SIGTERM or SIGINT it finishes running calls and exits.
    """
    try:
        folders = tuple(map(locate_bundle, bundles))
        if not (folders or settings["repositories"]):
            folders = default_bundles()
        with _private_folder() if private else nullcontext() as folder:
            told: dict[str, str] = {}
            if folder is not None:
                settings |= {"store": folder / "store", "access": folder / "access.json"}
                told["api_key"] = _make_key(settings["access"])
            config = ServerConfig(bundles=folders, **settings)
            start_logging(redact=without_ids, level=config.log_level)
            if folders and (not bundles or PHOTOS in bundles):
                _tell_of_photos(folders)
            if private:
                Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
            asyncio.run(serve(config, partial(_announce, told=told)))
        _leave()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _tell_of_photos(folders: Sequence[Path]) -> None:
    """Log the command that builds this release's `photos`, unless that is served."""
    served = [folder.name for folder in folders if folder.parent.name == PHOTOS]
    build = f"kshot bundle build {PHOTOS}"
    if not served:
        log_event("photos_not_built", command=build)
    elif str(PHOTOS_VERSION) not in served:
        log_event(
            "photos_of_another_version", served=served[0], wanted=str(PHOTOS_VERSION), command=build
        )


def _announce(ready: dict[str, object], told: Mapping[str, str]) -> None:
    """Print the ready event with what only its reader is told; log it without that.

    Nobody may read stdout, which must not stop the server.
    """
    fields: dict[str, Any] = dict(ready)
    log_event(fields.pop("event"), **fields)
    Thread(target=click.echo, args=[json.dumps({**ready, **told})], daemon=True).start()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder of this user alone, which is removed afterwards."""
    with TemporaryDirectory(prefix="kshot-store-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _make_key(access: Path) -> str:
    """Write an access file with one new key; return the key."""
    key, text = new_key("private", Role.USER, None, datetime.now(UTC))
    change_access(access, lambda _: AccessFile((key,)), create=True)
    return text


def _end_with_parent() -> None:
    """Stop the server when standard input ends: its other end closes when the parent dies."""
    while os.read(_STANDARD_INPUT, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _leave() -> None:
    """End the process even if threads still run: the grace for their work is over."""
    logging.shutdown()
    os._exit(0)


def _add_setting_options() -> None:
    """Add a flag for each setting that has a help text."""
    for setting in dataclasses.fields(ServerConfig):
        if "help" not in setting.metadata:
            continue
        flag = "--" + setting.name.replace("_", "-")
        option = click.option(
            flag,
            setting.name,
            default=setting.default,
            type=type(setting.default),
            envvar=f"KSHOT_{setting.name.upper()}",
            help=setting.metadata["help"],
        )
        option(command)


_add_setting_options()
