"""The `kshot` command: it runs a command of the table and turns failures into one line."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import click

from kshot.command.failure import failure_document, wants_json
from kshot.command.table import COMMANDS, ProgramGroup, missing_extras
from kshot.command.version import version
from kshot.local import printable, safe_streams

# Module: the base classes of errors whose message is for the user. Only a command that has imported
# the module can raise such an error, so this module need not import it.
_USER_ERRORS = {
    "kshot.bundle.errors": ("BundleError", "ImageError"),
    "kshot.client.errors": ("KshotError",),
    "kshot.server.errors": ("KshotServerError",),
    "kshot.trainer.errors": ("TrainerError",),
}
# Of these, the errors that only another request can avoid.
_MISUSES = {"kshot.client.errors": ("InputError", "InvalidArgumentError")}
# Libraries read these when they are imported.
_QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime reports its use to its maker
    "GRPC_VERBOSITY": "NONE",  # gRPC writes what callers send, as it is, among our lines
}
_SERVERS_FAULTS = {"INTERNAL", "UNAVAILABLE", "DATA_LOSS"}  # an operator looks them up in the log
_FAILED = 1
_WRONG_USE = 2
_INTERRUPTED = 128 + signal.SIGINT


def _print_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"kshot {version()}")
        context.exit()


@click.group(
    cls=ProgramGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and stop.",
)
def command() -> None:
    """Serve few-shot learning: adapt a meta-learned model to a handful of examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `kshot` and return its exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.

    A failure is one line on stderr, and with `--json` a document on stdout too. A result that
    stdout does not take is said on stderr, and the command has failed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with safe_streams() as stdout:
        code = _run(arguments)
        sys.stdout.flush()
        if stdout.missed:
            if code != 0 or not stdout.unread:  # nobody misses a help text
                click.echo(stdout.rest(), err=True, nl=False)
                _say(f"stdout: {stdout.why()}; what it was to hold is above", _FAILED)
            code = code or _FAILED
    return code or 0


def _run(arguments: Sequence[str]) -> int | None:
    """Run a command; return None where it has done its work, else an exit code."""
    say = partial(_say, as_json=wants_json(arguments))
    try:
        code = command.main(list(arguments), prog_name="kshot", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return _WRONG_USE
    except click.ClickException as error:
        return say(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return say("interrupted", _INTERRUPTED)
    except ModuleNotFoundError as error:
        name = next((word for word in arguments if not word.startswith("-")), "")
        return say(missing_extras(name, error.name or str(error)), _FAILED)
    except UnicodeEncodeError as error:
        return say(f"{error.object!r} is not valid text", _WRONG_USE)
    except OSError as error:
        if error.filename is None:
            raise
        return say(f"{error.filename}: {error.strerror}", _FAILED)
    except Exception as error:
        if not isinstance(error, _loaded(_USER_ERRORS)):
            raise
        code = _WRONG_USE if isinstance(error, _loaded(_MISUSES)) else _FAILED
        return say(f"{error}{_request_of(error)}", code, error=error)
    return code if isinstance(code, int) else None


def _request_of(error: Exception) -> str:
    """Return by which id the server's log has a call that failed there, where `error` lacks it."""
    request_id = getattr(error, "request_id", "")
    status = getattr(getattr(error, "code", None), "name", "")
    if not request_id or status not in _SERVERS_FAULTS or request_id in str(error):
        return ""
    return f" (request id {request_id})"


def _loaded(table: Mapping[str, tuple[str, ...]]) -> tuple[type[Exception], ...]:
    """Return the classes of a table whose modules are imported: only they can have been raised."""
    loaded = ((sys.modules.get(name), classes) for name, classes in table.items())
    return tuple(
        getattr(module, name)
        for module, classes in loaded
        if module is not None
        for name in classes
    )


def _say(message: str, code: int, *, as_json: bool = False, error: Exception | None = None) -> int:
    """Write a message to stderr as one line, and to stdout as a document where that is wanted."""
    line = " ".join(message.split())
    click.echo(printable(f"kshot: {line}"), err=True)
    if as_json:
        click.echo(json.dumps(failure_document(line, code, error)))
    return code


if __name__ == "__main__":
    sys.exit(main())
