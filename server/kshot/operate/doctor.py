"""`kshot doctor`: what is wrong with an installation or a server, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from kshot.client.commands.options import Server, json_option, print_document, server_options
from kshot.client.commands.progress import waiting
from kshot.local import printable
from kshot.operate.finding import Finding, State, worst
from kshot.operate.installation import check_installation
from kshot.operate.machine import cache_folder, check_cache, check_disk, check_port
from kshot.operate.reach import check_folder_of_store, check_http, check_server

_COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@server_options()
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="KSHOT_STORE",
    help="Folder of adapted models to check.  [env var: KSHOT_STORE; default: that of kshot serve]",
)
@click.option(
    "--listen",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="KSHOT_LISTEN",
    metavar="HOST:PORT",
    help="Address on which a server is to listen.",
)
@click.option(
    "--http",
    default="127.0.0.1:8080",
    show_default=True,
    envvar="KSHOT_HTTP",
    metavar="HOST:PORT",
    help="Address at which `kshot serve --http` is to answer.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds to wait for the server.",
)
@json_option
def command(
    server: Server, store: Path | None, listen: str, http: str, timeout: float, as_json: bool
) -> None:
    """Check this installation and a server: each thing is ok, a warning or a problem.

    Tells how to mend what is not ok. Changes nothing. Exits with 1 if there is a problem.
    """
    here, page = _place("--listen", listen), _place("--http", http)
    findings: list[Finding] = []
    with waiting("checking"):
        findings += check_installation()
        findings += _check_machine(store or default_store())
        with server.client(timeout) as client:
            reached = check_server(client, named=_named("server"))
        findings.append(reached)
        served = reached.found.startswith(f"{server.address}: kshot ") and _same(server, here)
        findings.append(check_port(*here, served=served))
        credentials = server.credentials()
        findings.append(check_http(*page, credentials, named=_named("http"), timeout=timeout))
    state = worst(findings)
    if as_json:
        print_document({"state": state, "findings": [asdict(each) for each in findings]})
    else:
        _print(findings)
    if state == "problem":
        click.get_current_context().exit(1)


def _place(flag: str, text: str) -> tuple[str, int]:
    """Return host and port; raise `UsageError`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"{flag}: expected HOST:PORT, got {text!r}")
    return host.strip("[]"), int(port)


def _named(option: str) -> bool:
    """Tell whether somebody named a thing, so that it should be there."""
    source = click.get_current_context().get_parameter_source(option)
    return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def default_store() -> Path:
    """Return the folder in which `kshot serve` keeps adapted models by default."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "kshot"


def _check_machine(store: Path) -> Iterator[Finding]:
    cache = cache_folder()
    yield check_cache(cache)
    yield check_folder_of_store(store)
    yield from check_disk((store, cache))


def _same(server: Server, here: tuple[str, int]) -> bool:
    """Tell whether a server of this machine has this port."""
    host, _, port = server.address.rpartition(":")
    return int(port) == here[1] and host in ("localhost", "127.0.0.1", "[::1]", here[0])


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for each in findings:
        line = Text.assemble(
            (f"{each.state:8}", _COLOURS[each.state]), printable(f"{each.check}: {each.found}")
        )
        console.print(line)
        if each.remedy:
            console.print(Text(printable(f"        {each.remedy}")))
