"""Who may call what: every method of every service, over plain text, TLS and mutual TLS."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from click.testing import CliRunner
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2 as details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from kshot.client import PermissionDeniedError
from kshot.command.tenant import command as tenant_command
from kshot.server.access import failed_keys
from kshot.server.access import watch as watch_module
from kshot.server.access.key import Role, new_key
from kshot.server.server import ADMIN_SERVICE, SERVICES
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from tests.server.front.secured import WRONG, Secured, bearer

HEALTH = "grpc.health.v1.Health"
MODES = ("plain", "tls", "mtls")
CALLERS = ("none", "wrong", "right", "other", "admin")
LOOPBACK = ("127.0.0.1", "::1")
UNKNOWN = "am-" + "a" * 26
# Fields that name an adapted model; OIP has one for models of any kind.
IDS = ("adapted_model", "model_name", "name")


@dataclass(frozen=True)
class Served:
    """A running server, and a channel to it of a client that it trusts."""

    mode: str
    address: str
    channel: grpc.Channel
    secured: Secured
    store: Path
    adapted_model: str
    """What the caller `right` made."""

    def key(self, caller: str) -> str | None:
        return {"none": None, "wrong": WRONG}.get(caller) or self.secured.keys.get(caller)


with_tls = pytest.mark.parametrize(
    "served", [mode for mode in MODES if mode != "plain"], indirect=True
)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """Keys and certificates that all servers share."""
    return Secured.create(tmp_path_factory.mktemp("secured"), trustme.CA())


@pytest.fixture(scope="module", autouse=True)
def looks() -> Iterator[None]:
    """Let servers look at their files more often, and answer many failed keys at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failed_keys, "_DELAY_SECONDS", 0.0)
        patch.setattr(watch_module, "_LOOK_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module", params=MODES)
def served(
    request: pytest.FixtureRequest,
    secured: Secured,
    make_config: Callable[..., Any],
    run_in_thread: Callable[..., Any],
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
    adapt_request: Callable[..., wire.AdaptRequest],
) -> Iterator[Served]:
    """A server of each mode, with one adapted model."""
    mode = request.param
    # This host has two addresses, where the machine has IPv6.
    listen = "localhost:0" if mode == "tls" else "127.0.0.1:0"
    config = make_config(listen=listen, **secured.settings(mode))
    with (
        run_in_thread(config) as server,
        secured.channel(server.address, mode) as channel,
    ):
        adapted = AdaptationServiceStub(channel).Adapt(
            adapt_request(), metadata=bearer(secured.keys["right"]), timeout=30
        )
        yield Served(mode, server.address, channel, secured, config.store, adapted.adapted_model.id)


def methods(channel: grpc.Channel, key: str) -> list[MethodDescriptor]:
    """Return all methods of all services that a server registers."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (listed,) = stub.ServerReflectionInfo(iter([asked]), metadata=bearer(key), timeout=30)
    pool = descriptor_pool.Default()
    services = [each.name for each in listed.list_services_response.service]
    assert {*SERVICES, HEALTH} <= set(services)
    return [method for name in services for method in pool.FindServiceByName(name).methods]


def request_about(method: MethodDescriptor, adapted_model: str) -> bytes:
    """Return a request that is empty but for the id of an adapted model."""
    request = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.name in IDS and field.type == FieldDescriptor.TYPE_STRING:
            setattr(request, field.name, adapted_model)
    return bytes(request.SerializeToString())


def outcome(
    channel: grpc.Channel, method: MethodDescriptor, key: str | None, adapted_model: str
) -> tuple[str, str, str]:
    """Call a method; return its code, reason and message, where the id reads ID."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    call = channel.stream_stream(path, bytes, bytes)
    requests = iter([request_about(method, adapted_model)])
    responses = call(requests, metadata=bearer(key), timeout=30)
    try:
        for _ in responses:
            if method.name == "Watch":  # it never ends
                responses.cancel()
                break
    except grpc.RpcError as error:
        failed: Any = error
        status = rpc_status.from_call(failed)
        info = details_pb2.ErrorInfo()
        if status is not None:
            assert status.details[0].Unpack(info)
        text = str(failed.details()).replace(adapted_model, "ID")
        return failed.code().name, info.reason, text
    return "OK", "", ""


@pytest.mark.parametrize("caller", CALLERS)
def test_every_method_asks_who_calls(served: Served, caller: str) -> None:
    """Health is open, administration is for administrators, and the rest for any key."""
    key = served.key(caller)

    for method in methods(served.channel, served.secured.keys["right"]):
        service = method.containing_service.full_name
        deletes = method.name == "DeleteAdaptedModel"
        adapted_model = UNKNOWN if deletes else served.adapted_model
        code, reason, _ = outcome(served.channel, method, key, adapted_model)
        if service == HEALTH:
            assert code == "OK", method.full_name
        elif caller in ("none", "wrong"):
            assert (code, reason) == ("UNAUTHENTICATED",) * 2, method.full_name
        elif service == ADMIN_SERVICE and caller != "admin":
            assert (code, reason) == ("PERMISSION_DENIED",) * 2, method.full_name
        else:
            assert code not in ("UNAUTHENTICATED", "PERMISSION_DENIED"), method.full_name
            assert code not in ("INTERNAL", "UNKNOWN"), method.full_name


@pytest.mark.parametrize("caller", ["other", "admin"])
def test_the_model_of_another_tenant_is_as_any_unknown_one(served: Served, caller: str) -> None:
    for method in methods(served.channel, served.secured.keys["right"]):
        found = [
            outcome(served.channel, method, served.key(caller), adapted_model)
            for adapted_model in (served.adapted_model, UNKNOWN)
        ]
        assert found[0] == found[1], method.full_name
    kept = AdaptationServiceStub(served.channel).GetAdaptedModel(
        wire.GetAdaptedModelRequest(adapted_model=served.adapted_model),
        metadata=bearer(served.key("right")),
        timeout=30,
    )
    assert kept.adapted_model.id == served.adapted_model


@pytest.mark.parametrize("caller", ["none", "wrong"])
@pytest.mark.parametrize("path", ["/no.Such/Thing", f"/{ADMIN_SERVICE}/NoSuch", "/x"])
def test_without_a_key_nobody_hears_what_is_missing(served: Served, caller: str, path: str) -> None:
    def code(key: str | None) -> str:
        with pytest.raises(grpc.RpcError) as refused:
            served.channel.unary_unary(path, bytes, bytes)(b"", metadata=bearer(key), timeout=30)
        failed: Any = refused.value
        return str(failed.code().name)

    assert code(served.key(caller)) == "UNAUTHENTICATED"
    assert code(served.secured.keys["admin"]) == "UNIMPLEMENTED"


def presented(address: str) -> set[str]:
    """Return the certificates that a server shows, at all addresses of its host."""
    host, port = address.split(":")
    found = set()
    for each in LOOPBACK if host == "localhost" else [host]:
        with suppress(OSError):  # a machine without IPv6
            found.add(ssl.get_server_certificate((each, int(port)), timeout=30))
    return found


def code_of(channel: grpc.Channel, key: str | None) -> str:
    """Return how a call ends."""
    stub = AdaptationServiceStub(channel)
    try:
        stub.GetCapabilities(wire.GetCapabilitiesRequest(), metadata=bearer(key), timeout=30)
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name)
    return "OK"


@contextmanager
def load(served: Served, keys: list[str]) -> Iterator[None]:
    """Call all the time with the last of `keys`; new connections come, too. None may fail."""
    ended: list[str] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            ended.append(code_of(served.channel, keys[-1]))
            with served.secured.channel(served.address, served.mode) as channel:
                ended.append(code_of(channel, keys[-1]))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert set(ended) == {"OK"}


def wait_until(holds: Callable[[], bool]) -> None:
    """Ask again and again until something holds; the time limit of the tests ends this."""
    pause = threading.Event()
    while not holds():
        pause.wait(0.01)


def audited(served: Served) -> list[dict[str, Any]]:
    """Return the lines of the audit log, which come soon after the answers."""
    text = (served.secured.folder / "audit").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_keys_are_rotated_under_load(served: Served) -> None:
    (old, old_text), (new, new_text) = (
        new_key("acme", Role.USER, None, datetime.now(UTC)) for _ in range(2)
    )
    served.secured.add(old)
    wait_until(lambda: code_of(served.channel, old_text) == "OK")

    keys = [old_text]
    with load(served, keys):
        served.secured.add(new)
        wait_until(lambda: code_of(served.channel, new_text) == "OK")
        keys.append(new_text)
    with load(served, keys):
        served.secured.revoke(old)
        wait_until(lambda: code_of(served.channel, old_text) == "UNAUTHENTICATED")


@with_tls
def test_certificates_are_rotated_under_load(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken file is logged, and what was shown before is shown on."""
    with load(served, [served.secured.keys["right"]]):
        new = served.secured.write_certificate().decode()
        wait_until(lambda: presented(served.address) == {new})
        (served.secured.folder / "cert.pem").write_text("garbage")
        wait_until(lambda: "certificate_not_read" in caplog.messages)
        assert presented(served.address) == {new}
        served.secured.write_certificate()


def test_deleting_a_tenant_erases_its_models_alone(
    served: Served, adapt_request: Callable[..., wire.AdaptRequest]
) -> None:
    stub = AdaptationServiceStub(served.channel)
    other = bearer(served.key("other"))
    adapted = stub.Adapt(adapt_request(), metadata=other, timeout=30).adapted_model.id
    options = served.secured.options(served.address, served.mode, "admin")

    refused = CliRunner().invoke(
        tenant_command,
        ["delete", "other", *served.secured.options(served.address, served.mode, "right")],
    )
    deleted = CliRunner().invoke(tenant_command, ["delete", "other", "--json", *options])
    again = CliRunner().invoke(tenant_command, ["delete", "other", *options])

    assert isinstance(refused.exception, PermissionDeniedError)
    assert json.loads(deleted.output) == {"tenant": "other", "adapted_model_count": 1}
    assert again.output == "erased 0 adapted models of other\n"
    get = stub.GetAdaptedModel
    with pytest.raises(grpc.RpcError, match="there is no adapted model"):
        get(wire.GetAdaptedModelRequest(adapted_model=adapted), metadata=other, timeout=30)
    right = bearer(served.key("right"))
    mine = wire.GetAdaptedModelRequest(adapted_model=served.adapted_model)
    assert get(mine, metadata=right, timeout=30).adapted_model.id == served.adapted_model
    files = [path.name for path in served.store.rglob("*") if adapted in path.name]
    assert files == []
    wait_until(lambda: audited(served)[-1]["action"] == "delete_tenant")
    last = audited(served)[-1]
    assert (last["action"], last["object"], last["tenant"]) == ("delete_tenant", "other", "ops")


@with_tls
def test_who_speaks_no_tls_disturbs_nobody(served: Served) -> None:
    with load(served, [served.secured.keys["right"]]):
        for _ in range(5):
            with served.secured.channel(served.address, "plain") as channel:
                assert code_of(channel, served.key("right")) == "UNAVAILABLE"
            host, port = served.address.split(":")
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(b"\x16\x03\x01\xff\xffgarbage")


def test_a_client_needs_a_certificate_that_the_server_trusts(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Secured.create(tmp_path_factory.mktemp("stranger"), trustme.CA())
    with stranger.channel(served.address, "tls") as channel:
        assert code_of(channel, served.key("right")) == "UNAVAILABLE"
    mine = served.secured.authority.cert_pem.bytes()
    issued = stranger.authority.issue_cert("client.example")
    pair = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
    for credentials in (
        grpc.ssl_channel_credentials(mine),
        grpc.ssl_channel_credentials(mine, *pair),
    ):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(served.address, credentials, options) as channel:
            wanted = {"plain": "UNAVAILABLE", "tls": "OK", "mtls": "UNAVAILABLE"}[served.mode]
            assert code_of(channel, served.key("right")) == wanted


def test_the_audit_log_names_who_was_refused_and_what_was_deleted(served: Served) -> None:
    key = served.secured.keys["other"]
    stub = AdaptationServiceStub(served.channel)
    deletion = wire.DeleteAdaptedModelRequest(adapted_model=UNKNOWN)
    with pytest.raises(grpc.RpcError):
        stub.Adapt(wire.AdaptRequest(), timeout=30)  # without a key
    with pytest.raises(grpc.RpcError):
        stub.DeleteAdaptedModel(deletion, metadata=bearer(key), timeout=30)

    wait_until(lambda: audited(served)[-1]["outcome"] == "ADAPTED_MODEL_NOT_FOUND")
    text, lines = (served.secured.folder / "audit").read_text(), audited(served)
    refused = [line for line in lines if line["outcome"] == "UNAUTHENTICATED"]
    assert {line["method"] for line in refused} >= {"Adapt"}
    last = lines[-1]
    assert (last["action"], last["tenant"], last["outcome"]) == (
        "delete_adapted_model",
        "other",
        "ADAPTED_MODEL_NOT_FOUND",
    )
    assert last["object"] == UNKNOWN
    assert all(secret.split("_")[2] not in text for secret in served.secured.keys.values())
