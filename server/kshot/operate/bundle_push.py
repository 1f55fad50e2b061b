"""`kshot bundle push`: a bundle goes to the repository that a server watches."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from kshot.bundle import (
    Bundle,
    BundleError,
    folder_digest,
    load_bundle,
    replace_file,
    sync_folder,
    version_numbers,
    write_synced,
)
from kshot.bundle.schema import MANIFEST_FILE
from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    server_options,
    timeout_option,
)
from kshot.client.commands.reload import reload_bundles
from kshot.operate.bundle_inspect import open_bundle
from kshot.server.bundles.repository import LABEL_PATTERN, LABELS_FILE, read_labels


@click.command(name="push")
@click.argument("bundle", metavar="PATH|NAME")
@click.option(
    "--repository",
    required=True,
    type=click.Path(path_type=Path),
    envvar="KSHOT_REPOSITORY",
    show_envvar=True,
    metavar="DIR",
    help="Folder that `kshot serve --repository` watches.",
)
@click.option(
    "--label", "labels", multiple=True, help="Let this label mean the version; may be repeated."
)
@click.option(
    "--reload", "reloads", is_flag=True, help="Let --server load it now, and wait for that."
)
@server_options()
@timeout_option
@json_option
def command(
    bundle: str,
    repository: Path,
    labels: tuple[str, ...],
    reloads: bool,
    server: Server,
    timeout: float,
    as_json: bool,
) -> None:
    """Copy a bundle into a server's repository, whole or not at all.

    A version that is there already stays: another content needs another version.
    """
    _check_labels(labels)
    found = open_bundle(bundle)
    try:
        copied = push_bundle(found, repository, labels)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    name, version = found.manifest.name, found.manifest.version
    if reloads:
        served = reload_bundles(server, timeout)
        wanted = (name, version, found.digest)
        if wanted not in [
            (each["model"], each["version"], each["bundle_digest"]) for each in served
        ]:
            raise click.ClickException(
                f"{server.address} does not serve {name}@{version}: does it watch {repository}? "
                "kshot serve --repository names the folder"
            )
    path = repository / name / str(version)
    if as_json:
        print_document(
            {
                "name": name,
                "version": version,
                "digest": found.digest,
                "path": str(path),
                "copied": copied,
                "labels": list(labels),
                "served": reloads,
            }
        )
        return
    click.echo(f"{path}: {'copied' if copied else 'was there already'}")
    if labels:
        click.echo(f"{', '.join(labels)} now means {name}@{version}")
    if reloads:
        click.echo(f"{server.address} serves {name}@{version}")


def push_bundle(bundle: Bundle, repository: Path, labels: Sequence[str] = ()) -> bool:
    """Copy a bundle and set labels; tell whether it was copied, and not there already.

    Raises `BundleError` for a version with another content, and where nothing can be written.
    """
    if not repository.is_dir():
        raise BundleError(f"{repository}: not a directory; make it, or name another repository")
    folder = repository / bundle.manifest.name
    try:
        folder.mkdir(exist_ok=True)
        with _alone(folder):
            copied = _copy(bundle, folder)
            if labels:
                _set_labels(folder, labels, bundle.manifest.version)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error.strerror}") from error
    return copied


def _copy(bundle: Bundle, folder: Path) -> bool:
    target = folder / str(bundle.manifest.version)
    if target.exists():
        if folder_digest(target) != bundle.digest:
            raise BundleError(
                f"{target}: has another content already; give the bundle another version"
            )
        load_bundle(target)
        return False
    partial = folder / f".{target.name}.{secrets.token_hex(4)}"  # no server takes it for a version
    partial.mkdir()
    try:
        for name in (*bundle.manifest.files, MANIFEST_FILE):
            write_synced(partial / name, (bundle.path / name).read_bytes())
        sync_folder(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(folder)
    load_bundle(target)
    return True


def _set_labels(folder: Path, labels: Sequence[str], version: int) -> None:
    path = folder / LABELS_FILE
    found = read_labels(path, version_numbers(folder)) | dict.fromkeys(labels, version)
    replace_file(path, (json.dumps(found, indent=2, sort_keys=True) + "\n").encode())


def _check_labels(labels: Sequence[str]) -> None:
    for label in labels:
        if not re.fullmatch(LABEL_PATTERN, label):
            raise click.UsageError(f"--label: expected a match of {LABEL_PATTERN}, got {label!r}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let pushes of a bundle take turns: each reads the labels and writes them anew."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
