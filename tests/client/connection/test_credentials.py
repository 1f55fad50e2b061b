"""TLS, certificates and keys: what is taken, what is refused, and what stays secret."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo

from kshot.__main__ import main
from kshot.client import (
    Client,
    InputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from kshot.client.connection.credentials import Credentials, Requested, read_credentials
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import (
    AdaptationServiceServicer,
    add_AdaptationServiceServicer_to_server,
)

if TYPE_CHECKING:
    from conftest import FakeServicer

KEY = "secret-8f3Ab.c_d"
OTHER = "db.example.org"


@dataclass(frozen=True)
class Authority:
    """Certificates of one authority, as files."""

    ca: Path
    cert: tuple[Path, Path]
    ports: dict[str, int]


class Keyed(AdaptationServiceServicer):
    """Answers with the key that it is called with."""

    def GetCapabilities(  # noqa: N802 -- the service's own name
        self, _request: wire.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> wire.GetCapabilitiesResponse:
        metadata = dict(context.invocation_metadata())
        return wire.GetCapabilitiesResponse(server_version=str(metadata.get("authorization")))


@contextmanager
def serving(credentials: grpc.ServerCredentials | None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    add_AdaptationServiceServicer_to_server(Keyed(), server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port
    server.stop(None).wait()


def credentials_of(
    cert: trustme.LeafCert, clients: trustme.CA | None = None
) -> grpc.ServerCredentials:
    chain = b"".join(part.bytes() for part in cert.cert_chain_pems)
    pairs = [(cert.private_key_pem.bytes(), chain)]
    if clients is None:
        return grpc.ssl_server_credentials(pairs)
    return grpc.ssl_server_credentials(pairs, clients.cert_pem.bytes(), True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """An authority and the ports of servers: with TLS, mTLS, and certificates that do not fit."""
    folder, ca = tmp_path_factory.mktemp("authority"), trustme.CA()
    good, own = ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("me")
    old = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    expired = ca.issue_cert("127.0.0.1", not_before=old[0], not_after=old[1])
    ca.cert_pem.write_to_path(folder / "ca.pem")
    own.private_key_pem.write_to_path(folder / "me.key")
    own.cert_chain_pems[0].write_to_path(folder / "me.pem")
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(serving(credentials))
            for name, credentials in {
                "plain": None,
                "tls": credentials_of(good),
                "mtls": credentials_of(good, ca),
                "elsewhere": credentials_of(ca.issue_cert(OTHER)),
                "expired": credentials_of(expired),
            }.items()
        }
        yield Authority(folder / "ca.pem", (folder / "me.pem", folder / "me.key"), ports)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, whom no server knows."""
    folder, ca = tmp_path_factory.mktemp("stranger"), trustme.CA()
    own = ca.issue_cert("me")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    own.private_key_pem.write_to_path(folder / "me.key")
    own.cert_chain_pems[0].write_to_path(folder / "me.pem")
    return Authority(folder / "ca.pem", (folder / "me.pem", folder / "me.key"), {})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TLS", "CA", "CERT", "CERT_KEY", "API_KEY", "API_KEY_FILE", "SERVER"):
        monkeypatch.delenv(f"KSHOT_{name}", raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(f"{KEY}\n")
    return path


@pytest.mark.parametrize("name", ["plain", "tls", "mtls"])
def test_keys_and_certificates_reach_the_server(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, key_file: Path, name: str
) -> None:
    """By arguments and by the environment."""
    address = f"127.0.0.1:{authority.ports[name]}"
    wanted: dict[str, Any] = {"plain": {}, "tls": {"ca": authority.ca}}.get(
        name, {"ca": str(authority.ca), "cert": authority.cert}
    )
    with Client(address, api_key=key_file, **wanted) as client:
        assert client.capabilities().server_version == f"Bearer {KEY}"
    if name != "plain":
        monkeypatch.setenv("KSHOT_CA", str(authority.ca))
    if name == "mtls":
        monkeypatch.setenv("KSHOT_CERT", str(authority.cert[0]))
        monkeypatch.setenv("KSHOT_CERT_KEY", str(authority.cert[1]))
    monkeypatch.setenv("KSHOT_API_KEY", "another")
    with Client(address) as client:
        assert client.capabilities().server_version == "Bearer another"


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("plain", ["ca"], "does not speak TLS; leave TLS out (--no-tls, KSHOT_TLS=0), or serve"),
        ("tls", [], "if it wants TLS, pass tls=True (--tls, KSHOT_TLS=1) or ca= (--ca, KSHOT_CA)"),
        ("mtls", [], "if it wants TLS, pass tls=True"),
        ("tls", ["tls"], "not signed by an authority that this client knows; pass the authority's"),
        ("tls", ["strange ca"], "certificate as ca= (--ca, KSHOT_CA)"),
        ("elsewhere", ["ca"], "its certificate is not for 127.0.0.1; use an address that the cert"),
        ("expired", ["ca"], "its certificate has expired; the server needs a new one"),
        ("mtls", ["ca"], "pass cert= (--cert and --cert-key, KSHOT_CERT and KSHOT_CERT_KEY)"),
        ("mtls", ["ca", "strange cert"], "its --client-ca must have signed it"),
    ],
)
def test_failures_of_tls_say_what_to_do(
    authority: Authority, stranger: Authority, name: str, wanted: list[str], words: str
) -> None:
    values: dict[str, Any] = {
        "tls": ("tls", True),
        "ca": ("ca", authority.ca),
        "strange ca": ("ca", stranger.ca),
        "strange cert": ("cert", stranger.cert),
    }
    address = f"127.0.0.1:{authority.ports[name]}"
    with (
        Client(address, **dict(values[each] for each in wanted)) as client,
        pytest.raises(UnavailableError, match=re.escape(words)) as caught,
    ):
        client.delete("am-1")  # which is not tried again

    assert str(caught.value).startswith(f"cannot reach a kshot server at {address}: ")


def read(
    host: str = "localhost",
    environ: dict[str, str] | None = None,
    **asked: Any,  # noqa: ANN401 -- right and wrong ones
) -> Credentials:
    return read_credentials(Requested(**asked), host, environ or {})


def test_what_is_passed_counts_before_the_environment(authority: Authority) -> None:
    ca, said = authority.ca.read_bytes(), {"KSHOT_CA": str(authority.ca)}

    assert not read().tls
    assert not read(environ=said, tls=False).tls
    assert not read(environ=said | {"KSHOT_TLS": "off"}).tls
    assert read(environ={"KSHOT_TLS": "0"}, ca=authority.ca).roots == ca
    assert read(environ=said).roots == ca
    assert read(environ=said | {"KSHOT_TLS": "1"}).roots == ca
    assert read(environ=said, tls=True).roots == ca
    assert read(environ=said, cert=authority.cert).certificate is not None
    assert read(environ={"KSHOT_API_KEY": "a", "KSHOT_API_KEY_FILE": "b"}).api_key == "a"
    assert read(environ={"KSHOT_API_KEY": "a"}, api_key="b").api_key == "b"
    assert read(environ={"KSHOT_API_KEY": "", "KSHOT_TLS": "", "KSHOT_CA": ""}) == Credentials()


def test_authorities_are_the_machine_s(authority: Authority) -> None:
    """Not gRPC's own list, unless there are none."""
    assert read(tls=True, environ={"SSL_CERT_FILE": str(authority.ca)}).roots is not None
    assert read(tls=True, environ={"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "x"}).roots is None


@pytest.mark.parametrize("host", [OTHER, "10.0.0.1", "2001:db8::1"])
def test_a_key_never_leaves_the_machine_in_plain_text(
    monkeypatch: pytest.MonkeyPatch, key_file: Path, host: str
) -> None:
    words = f"expected TLS or a loopback address, got {host} in plain text"
    for given in (KEY, key_file):
        with pytest.raises(InputError, match=re.escape(words)) as caught:
            read(host, api_key=given)
        assert "pass tls=True (--tls, KSHOT_TLS=1)" in str(caught.value)
        assert KEY not in str(caught.value)
        assert read(host, api_key=given, tls=True).metadata
    monkeypatch.setenv("KSHOT_API_KEY", KEY)
    with pytest.raises(InputError, match="KSHOT_API_KEY: expected TLS"):
        Client(f"{OTHER}:50051")
    for near in ("localhost", "127.0.0.1", "::1"):
        assert read(near, api_key=KEY).metadata == (("authorization", f"Bearer {KEY}"),)


def test_bad_input_is_named(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    garbage, open_key, empty = (tmp_path / name for name in ("garbage", "open", "empty"))
    garbage.write_bytes(b"\xff\x00 no PEM")
    open_key.write_text(KEY)
    open_key.chmod(0o604)
    empty.touch(mode=0o600)
    cert, key = authority.cert
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tls": "yes"}, "tls: expected True or False, got 'yes'"),
        ({"tls": False, "ca": cert}, "tls=False: cannot be combined with ca"),
        ({"tls": False, "ca": cert, "cert": (cert, key)}, "cannot be combined with ca and cert"),
        ({"ca": tmp_path / "no"}, f"ca: {tmp_path}/no: No such file or directory"),
        ({"ca": tmp_path}, f"ca: {tmp_path}: Is a directory"),
        ({"ca": "a\0b"}, "ca: a\0b: embedded null byte"),
        ({"ca": b"ca.pem"}, "ca: expected the path of a file, got b'ca.pem'"),
        ({"ca": garbage}, "expected certificates in PEM, got none that can be read"),
        ({"ca": empty}, "expected certificates in PEM, got none"),
        ({"ca": key}, "expected certificates in PEM, got none"),
        ({"cert": cert}, "cert: expected two files, a certificate and its private key, got one"),
        ({"cert": (cert, None)}, "cert: expected two files"),
        ({"cert": (cert, 7)}, "cert: expected the path of a file, got 7"),
        ({"cert": (cert, tmp_path / "no")}, f"cert: {tmp_path}/no: No such file or directory"),
        ({"cert": (cert, stranger.cert[1])}, "its private key that belong together, got"),
        ({"cert": (key, cert)}, "its private key in PEM, the key without a password, got"),
        ({"cert": (garbage, key)}, "its private key in PEM, the key without a password, got"),
        ({"environ": {"KSHOT_CERT": str(cert)}}, "KSHOT_CERT and KSHOT_CERT_KEY: expected two"),
        ({"environ": {"KSHOT_TLS": "maybe"}}, "KSHOT_TLS: expected 1 or 0, got 'maybe'"),
        ({"api_key": ""}, "api_key: expected a key of up to 512 printable ASCII characters"),
        ({"api_key": "a b"}, "without spaces, got one of 3 characters"),
        ({"api_key": "a\r\nx: y"}, "without spaces, got one of 7 characters"),
        ({"api_key": "ä"}, "without spaces, got one of 1 characters"),
        ({"api_key": "x" * 513}, "without spaces, got one of 513 characters"),
        ({"api_key": b"key"}, "api_key: expected a string, or the path of a file as a Path, got b"),
        ({"api_key": str(open_key)}, "got the path of a file; pass it as a Path"),
        ({"api_key": open_key}, "expected a file that others cannot read, got mode 0604; chmod"),
        ({"api_key": empty}, f"api_key: {empty}: expected a key of up to 512 printable"),
        ({"api_key": tmp_path / "no"}, f"api_key: {tmp_path}/no: No such file or directory"),
        ({"api_key": Path(f"kshot_{KEY}")}, "expected the path of a file, got what looks like a k"),
        ({"environ": {"KSHOT_API_KEY_FILE": "/no"}}, "KSHOT_API_KEY_FILE: /no: No such file"),
    ]
    for asked, words in cases:
        with pytest.raises(InputError, match=re.escape(words)) as caught:
            read(**asked)
        assert str(caught.value).count("api_key: ") <= 1  # the file is named once
        assert KEY not in "".join(traceback.format_exception(caught.value))


def test_secrets_are_not_shown(authority: Authority, key_file: Path) -> None:
    credentials = read(ca=authority.ca, cert=authority.cert, api_key=key_file)
    with Client("localhost:1", api_key=KEY) as client:
        shown = [repr(credentials), repr(Requested(api_key=KEY)), repr(client)]
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            for secret in (credentials, client):
                with pytest.raises(TypeError, match="neither copied nor pickled") as caught:
                    attempt(secret)
                shown.append(str(caught.value))

    assert not any(KEY in each or "PRIVATE KEY" in each for each in shown)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_refused_key_is_named_by_where_it_is_from(
    address: str, servicer: FakeServicer, key_file: Path, key: str | None
) -> None:
    given = None if key is None else key_file
    words = "; pass a key as api_key (--api-key-file, KSHOT_API_KEY or KSHOT_API_KEY_FILE)"
    if key is not None:
        words = f"; the key is that of {key_file}"
    with Client(address, api_key=given) as client:
        for code, kind in (
            (Code.UNAUTHENTICATED, UnauthenticatedError),
            (Code.PERMISSION_DENIED, PermissionDeniedError),
        ):
            info = ErrorInfo(reason=Code.Name(code), domain="kshot")
            servicer.refuse(code, "no", info)
            with pytest.raises(kind) as caught:
                client.capabilities()
            expected = words if key or code == Code.UNAUTHENTICATED else ""
            assert str(caught.value) == f"no{expected}"


def test_commands_take_the_same_by_files(
    authority: Authority,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KSHOT_SERVER", f"127.0.0.1:{authority.ports['mtls']}")
    cert, key = map(str, authority.cert)
    files = ["--ca", str(authority.ca), "--cert", cert, "--cert-key", key]

    for arguments, words in (
        ([*files, "--api-key-file", str(key_file)], "answered UNIMPLEMENTED"),
        (files[:2], "pass cert="),
        (files[:4], "--cert and --cert-key: expected both, got one of them"),
        (["--no-tls"], "if it wants TLS"),
        (["--no-tls", *files[:2]], "tls=False: cannot be combined with ca"),
        (["--api-key-file", KEY], "No such file"),
    ):
        assert main(["models", "delete", "am-1", *arguments]) != 0
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
