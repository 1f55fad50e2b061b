"""Servers with keys and TLS, for tests: files, keys and channels of their callers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import trustme

from kshot.server.access.access_file import AccessFile, change_access
from kshot.server.access.key import Key, Role, new_key

CALLERS = {
    "right": ("acme", Role.USER),
    "other": ("other", Role.USER),
    "admin": ("ops", Role.ADMIN),
}
WRONG = "kshot_aaaaaaaa_" + "a" * 52


@dataclass(frozen=True)
class Secured:
    """The files of a server, in a folder, and who may call it."""

    folder: Path
    authority: trustme.CA
    keys: dict[str, str]
    """The texts of keys by caller."""

    @classmethod
    def create(cls, folder: Path, authority: trustme.CA) -> Secured:
        made = {
            name: new_key(tenant, role, None, datetime.now(UTC))
            for name, (tenant, role) in CALLERS.items()
        }
        secured = cls(folder, authority, {name: text for name, (_, text) in made.items()})
        secured.add(*(key for key, _ in made.values()))
        secured.write_certificate()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        return secured

    def settings(self, mode: str) -> dict[str, Any]:
        """Return settings of a server: `plain`, `tls` or `mtls`."""
        files = {"access": self.access, "audit_log": self.folder / "audit"}
        if mode != "plain":
            files |= {"tls_cert": self.folder / "cert.pem", "tls_key": self.folder / "key.pem"}
        if mode == "mtls":
            files["client_ca"] = self.folder / "ca.pem"
        return files

    @property
    def access(self) -> Path:
        return self.folder / "access.json"

    def add(self, *keys: Key) -> None:
        def edit(file: AccessFile) -> AccessFile:
            return replace(file, keys=(*file.keys, *keys))

        change_access(self.access, edit, create=True)

    def revoke(self, key: Key) -> None:
        def edit(file: AccessFile) -> AccessFile:
            kept = (each for each in file.keys if each != key)
            return replace(file, keys=(*kept, key.revoked_at(datetime.now(UTC))))

        change_access(self.access, edit)

    def write_certificate(self) -> bytes:
        """Write a new certificate and its key; return the certificate."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        key, cert = self.folder / "key.pem", self.folder / "cert.pem"
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        cert.write_bytes(issued.cert_chain_pems[0].bytes())
        return issued.cert_chain_pems[0].bytes()

    def options(self, address: str, mode: str, caller: str) -> list[str]:
        """Return the options of a command that calls a server of this mode."""
        key = self.folder / f"{caller}.key"
        key.touch(0o600)
        key.write_text(self.keys[caller])
        options = ["--server", address, "--api-key-file", str(key)]
        if mode != "plain":
            options += ["--ca", str(self.folder / "ca.pem")]
        if mode == "mtls":
            issued = self.authority.issue_cert("client.example")
            for name, blob in (
                ("--cert", issued.cert_chain_pems[0]),
                ("--cert-key", issued.private_key_pem),
            ):
                path = self.folder / f"client{name}.pem"
                blob.write_to_path(str(path))
                options += [name, str(path)]
        return options

    def channel(self, address: str, mode: str) -> grpc.Channel:
        """Return a channel of a client that has all a server of this mode asks for."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        if mode == "plain":
            return grpc.insecure_channel(address, options)
        pair: tuple[bytes | None, bytes | None] = (None, None)
        if mode == "mtls":
            issued = self.authority.issue_cert("client.example")
            pair = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
        root = self.authority.cert_pem.bytes()
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(root, *pair), options)


def bearer(text: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a caller with a key, or without one."""
    return () if text is None else (("authorization", f"Bearer {text}"),)
