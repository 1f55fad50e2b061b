from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kshot.server.access.access_file import change_access
from kshot.server.access.gate import Gate
from kshot.server.access.key import Role, new_key
from kshot.server.access.live_access import LiveAccess
from kshot.server.call_context import Call
from kshot.server.errors import PermissionDenied, Unauthenticated

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
USER, ADMIN = (new_key("acme", role, None, NOW) for role in Role)
OLD = new_key("acme", Role.USER, None, NOW)
ADAPT, RELOAD = "/kshot.v1.AdaptationService/Adapt", "/kshot.v1.AdminService/ReloadBundles"
CHECK = "/grpc.health.v1.Health/Check"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate that knows two keys, and a revoked one."""
    path = tmp_path_factory.mktemp("access") / "access.json"
    keys = (USER[0], ADMIN[0], OLD[0].revoked_at(NOW))
    change_access(path, lambda file: replace(file, keys=keys), create=True)
    return Gate(LiveAccess(path))


def bearer(text: str, scheme: str = "Bearer") -> tuple[str, str]:
    return "authorization", f"{scheme} {text}"


def test_a_key_names_the_caller(gate: Gate) -> None:
    call = Call("Adapt", "ipv4:1", "ipv4:1")

    gate.admit(call, ADAPT, [("user-agent", "x"), bearer(USER[1], "bearer")])

    assert (call.caller, call.connection) == ("tenant:acme", "ipv4:1")
    assert (call.tenant, call.admin, call.key) == ("acme", False, USER[0].prefix)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", USER[1])],
        [("authorization", bearer(USER[1])[1].encode())],
        [bearer(USER[1], "Basic")],
        [bearer(USER[1] + "x")],
        [bearer(" " + USER[1])],
        [bearer(USER[1]), bearer(ADMIN[1])],
        [("x-api-key", USER[1])],
    ],
)
@pytest.mark.parametrize("path", [ADAPT, RELOAD, "/no/Such", "/grpc.health.v1.Healthy/Check"])
def test_without_a_key_nothing_is_told(
    gate: Gate, path: str, metadata: list[tuple[str, str | bytes]]
) -> None:
    with pytest.raises(Unauthenticated):
        gate.admit(Call("x"), path, metadata)


def test_a_revoked_key_is_named_in_the_audit_log_alone(gate: Gate) -> None:
    call, forged = Call("Adapt"), Call("Adapt")

    with pytest.raises(Unauthenticated) as caught:
        gate.admit(call, ADAPT, [bearer(OLD[1])])
    with pytest.raises(Unauthenticated):
        gate.admit(forged, ADAPT, [bearer(OLD[1][:-1] + "!")])

    assert (call.key, call.tenant, forged.key) == (OLD[0].prefix, "", "")
    assert str(caught.value) == str(Unauthenticated())


def test_health_needs_no_key(gate: Gate) -> None:
    call = Call("Check")

    gate.admit(call, CHECK, [])
    gate.admit(call, CHECK, [bearer("wrong")])

    assert call.tenant == ""


def test_administration_needs_the_role(gate: Gate) -> None:
    call = Call("ReloadBundles")

    gate.admit(call, RELOAD, [bearer(ADMIN[1])])

    assert call.admin
    with pytest.raises(PermissionDenied, match="role admin"):
        gate.admit(Call("x"), RELOAD, [bearer(USER[1])])


def test_a_server_without_keys_has_no_administrators() -> None:
    call = Call("Adapt", "ipv4:1", "ipv4:1")

    Gate().admit(call, ADAPT, [])

    assert (call.caller, call.tenant) == ("ipv4:1", "")
    with pytest.raises(PermissionDenied, match="--access"):
        Gate().admit(call, RELOAD, [bearer(ADMIN[1])])
