"""`kshot store`: check, repair, assign, back up and restore the folder of adapted models."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kshot.server.access.audit import AuditLog
from kshot.server.access.command import TENANT, audit_option, record_command
from kshot.server.config import default_store
from kshot.server.errors import StartError
from kshot.server.store.folder import StoreFolder
from kshot.server.store.sealing import Seals
from kshot.server.upkeep.assignment import assign as assign_models
from kshot.server.upkeep.backup import back_up
from kshot.server.upkeep.inspection import check_store
from kshot.server.upkeep.restore import restore as restore_backup

_path = click.argument(
    "path", type=click.Path(path_type=Path), default=default_store, metavar="[PATH]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def command() -> None:
    """Check, repair, assign, back up or restore a folder of adapted models.

    PATH is the folder that `kshot serve --store` takes, by default the same one. Its server may run
    while it is backed up, and must not run otherwise.
    """


@command.command()
@_path
@_json
def check(path: Path, as_json: bool) -> None:
    """Read every row and file of the store PATH, change nothing, and say what is damaged.

    Exits with 1 if there is something to repair.
    """
    try:
        report = check_store(path)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        models = [vars(finding) for finding in report.findings]
        document = {"store": str(path), "sound": report.sound, "index": report.index}
        click.echo(json.dumps(document | {"counts": report.counts, "models": models}))
    else:
        for finding in report.findings:
            if finding.state != "healthy":
                click.echo(f"{finding.id}  {finding.state}: {finding.detail}")
        if report.index:
            click.echo(report.index)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
        click.echo(f"{path}: {counts or 'no adapted models'}")
        if not report.sound:
            click.echo(f"repair it: kshot store repair {path}", err=True)
    if not report.sound:
        raise SystemExit(1)


@command.command()
@_path
@_json
def repair(path: Path, as_json: bool) -> None:
    """Move what is damaged in the store PATH to quarantine, and make its index whole.

    Rows come from the old index where they are whole, else from the models' files. Nothing is
    deleted: the old index goes to quarantine too.
    """
    try:
        report = check_store(path)
        with_index = StoreFolder.open(path, repair=True)
        with_index.close()
        after = check_store(path)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    before = {finding.id: finding for finding in report.findings}
    mended = [each for each in after.findings if before.get(each.id) != each]
    if as_json:
        document = {"store": str(path), "sound": after.sound, "counts": after.counts}
        click.echo(json.dumps(document | {"changed": [vars(finding) for finding in mended]}))
    else:
        for finding in mended:
            click.echo(f"{finding.id}  {finding.state}")
        counts = ", ".join(f"{count} {state}" for state, count in sorted(after.counts.items()))
        click.echo(f"{path}: {counts or 'no adapted models'}")
    if not after.sound:
        raise SystemExit(1)


@command.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Give all models that belong to nobody.")
@click.option("--tenant", required=True, type=TENANT, help="Who gets the models.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=default_store,
    envvar="KSHOT_STORE",
    show_envvar=True,
    help="Folder that `kshot serve --store` takes; its server must not run.",
)
@click.option(
    "--store-key",
    type=click.Path(path_type=Path),
    envvar="KSHOT_STORE_KEY",
    show_envvar=True,
    help="File that `kshot serve --store-key` takes.",
)
@audit_option
@_json
def assign(
    ids: tuple[str, ...],
    everything: bool,
    tenant: str,
    store: Path,
    store_key: Path | None,
    audit_log: Path | None,
    as_json: bool,
) -> None:
    """Give adapted models that were kept without keys to a tenant.

    With `--access` nobody reaches them otherwise. Names each ID, or takes --all. Exits with 1 if
    some are damaged; these go to quarantine.
    """
    if everything == bool(ids):
        raise click.UsageError("expected ids or --all, got both or neither")
    try:
        audit = AuditLog(audit_log)  # before anything changes
        seals = None if store_key is None else Seals.read(store_key)
        done = assign_models(store, tenant, None if everything else ids, seals)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    for each in done.ids:
        record_command(audit, "assign_adapted_model", tenant=tenant, object=each)
    if as_json:
        click.echo(json.dumps({"store": str(store), "tenant": tenant, **vars(done)}))
    else:
        click.echo(f"{store}: {len(done.ids)} models now belong to {tenant}")
        for each in done.damaged:
            click.echo(f"{each}  damaged", err=True)
    if done.damaged:
        raise SystemExit(1)


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@_json
def backup(path: Path, dest: Path, as_json: bool) -> None:
    """Copy the store PATH into the folder DEST while its server runs, and verify every file.

    DEST is empty or has an earlier backup, of which equal files stay. Exits with 1 if the store has
    damaged models, which no backup holds, as it holds none with durability `memory`.
    """
    try:
        done = back_up(path, dest)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"store": str(path), "backup": str(dest), **vars(done)}))
    else:
        left_out = f", {done.memory} in memory left out" if done.memory else ""
        click.echo(f"{dest}: {done.models} models, {done.copied} of them copied now{left_out}")
    if done.damaged:
        click.echo(f"{done.damaged} damaged models: run kshot store check {path}", err=True)
        raise SystemExit(1)


@command.command()
@click.argument("dest", type=click.Path(path_type=Path))
@click.argument("path", type=click.Path(path_type=Path))
@_json
def restore(dest: Path, path: Path, as_json: bool) -> None:
    """Verify the backup DEST, then write it as the store PATH, which must be empty."""
    try:
        manifest = restore_backup(dest, path)
    except StartError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        document = {"store": str(path), "backup": str(dest), "models": len(manifest.models)}
        click.echo(json.dumps(document))
    else:
        click.echo(f"{path}: {len(manifest.models)} models")
