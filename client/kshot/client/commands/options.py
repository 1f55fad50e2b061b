"""Shared by the commands: the server and how to connect to it, and printing results."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from kshot.client.client import Client
from kshot.client.commands.flags import name_flags
from kshot.client.connection.addresses import check_address
from kshot.client.connection.connection import Connection
from kshot.client.connection.credentials import Credentials, Requested, read_credentials
from kshot.client.errors import KshotError
from kshot.local import printable

DEFAULT_SERVER = "localhost:50051"


@dataclass(frozen=True)
class Server:
    """What the options of a command say of the server; what they leave out the environment says."""

    address: str
    tls: bool | None = None
    ca: Path | None = None
    cert: tuple[Path, Path] | None = None
    api_key: Path | None = None

    def credentials(self) -> Credentials:
        """Read what other connections than the client's need; raises `InputError`."""
        asked = Requested(self.tls, self.ca, self.cert, self.api_key)
        return read_credentials(asked, check_address(self.address))

    def connection(self) -> Connection:
        """Open a connection for calls that no client has; raises `InputError`."""
        asked = Requested(self.tls, self.ca, self.cert, self.api_key)
        return Connection(self.address, asked)

    def client(self, timeout: float) -> Client:
        """Open a client; raises `InputError`."""
        return Client(
            self.address,
            tls=self.tls,
            ca=self.ca,
            cert=self.cert,
            api_key=self.api_key,
            timeout=timeout,
        )


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that each call may take.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_UNBOUNDED = 1_000_000
_FILE = click.Path(path_type=Path)


def server_options(
    default: str | None = DEFAULT_SERVER, text: str = "The server's address."
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `--server` and how to connect to it; the command gets them as `server`, a `Server`.

    Without a `default` it gets None where no server is named. Keys have no option: processes of
    other users can read a command line.
    """
    options = (
        click.option(
            "--server",
            default=default,
            envvar="KSHOT_SERVER" if default else None,
            metavar="HOST:PORT",
            show_default=bool(default),
            show_envvar=bool(default),
            help=text,
        ),
        click.option(
            "--tls/--no-tls",
            default=None,
            help="Encrypt; --ca and --cert imply it.  [env var: KSHOT_TLS]",
        ),
        click.option(
            "--ca",
            type=_FILE,
            metavar="FILE",
            help="Certificates in PEM of the authorities that vouch for the server.  [env var: "
            "KSHOT_CA; default: the machine's]",
        ),
        click.option(
            "--cert",
            type=_FILE,
            metavar="FILE",
            help="This client's own certificate in PEM, where the server wants one.  [env var: "
            "KSHOT_CERT]",
        ),
        click.option(
            "--cert-key",
            type=_FILE,
            metavar="FILE",
            help="The private key of --cert.  [env var: KSHOT_CERT_KEY]",
        ),
        click.option(
            "--api-key-file",
            type=_FILE,
            metavar="FILE",
            help="File with the key for the server; KSHOT_API_KEY may hold the key itself.  "
            "[env var: KSHOT_API_KEY_FILE]",
        ),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gathered(
            *,
            server: str | None,
            tls: bool | None,
            ca: Path | None,
            cert: Path | None,
            cert_key: Path | None,
            api_key_file: Path | None,
            **given: Any,  # noqa: ANN401 -- the command's own options
        ) -> None:
            if (cert is None) != (cert_key is None):
                raise click.UsageError("--cert and --cert-key: expected both, got one of them")
            others = {"--tls": tls, "--ca": ca, "--cert": cert, "--api-key-file": api_key_file}
            alone = [name for name, value in others.items() if value is not None]
            if server is None and alone:
                raise click.UsageError(f"{alone[0]} requires --server")
            own = (cert, cert_key) if cert is not None and cert_key is not None else None
            found = None if server is None else Server(server, tls, ca, own, api_key_file)
            try:
                command(server=found, **given)
            except KshotError as error:
                name_flags(error, click.get_current_context().command.params)
                raise

        for option in reversed(options):
            gathered = option(gathered)
        return gathered

    return decorate


def print_document(document: object, *, aside: bool = False) -> None:
    """Print one JSON document on stdout, or on stderr where stdout holds something else."""
    click.echo(json.dumps(document), err=aside)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print the server's warnings on stderr, a line for each."""
    for warning in warnings:
        click.echo(printable(f"warning: {warning}"), err=True)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    justify: Literal["left", "right"] = "left",
) -> None:
    """Print a table on stdout; as wide as its content unless stdout is a terminal.

    `justify` places the columns after the first.
    """
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        # People copy the first column: an id or a path stays in one piece.
        first = index == 0
        table.add_column(
            heading, overflow="fold", no_wrap=first, justify="left" if first else justify
        )
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        unbounded = console.options.update(max_width=_UNBOUNDED)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


def time_text(time: datetime | None) -> str | None:
    """Write a time as RFC 3339 in UTC."""
    return None if time is None else time.isoformat(timespec="seconds").replace("+00:00", "Z")


def print_described(named: tuple[str, str], document: Mapping[str, object]) -> None:
    """Print a document's fields as a table for people, under a heading of two cells."""
    print_table(named, [(name, _cell(value)) for name, value in document.items()])


def _cell(value: object) -> str:
    """Write a value of a document in one cell."""
    if isinstance(value, dict):
        return "\n".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
