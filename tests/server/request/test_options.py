"""One table holds the options: each of the wire is in it, checked, stored, digested and echoed."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from kshot.bundle import (
    BatchNormMode,
    Head,
    HeadPolicy,
    Manifest,
    Preconditioner,
    Scope,
    StepCountRule,
)
from kshot.client import AdaptOptions as ClientOptions
from kshot.client import ResolvedOptions
from kshot.client.options import decode_options, encode_options
from kshot.internal.v1 import engine_pb2
from kshot.server.errors import InvalidRequest
from kshot.server.request.digest import begin_adaptation_digest
from kshot.server.request.options import (
    OPTION_TYPES,
    AdaptOptions,
    Bounds,
    Durability,
    TtlLimits,
    resolve_options,
)
from kshot.server.request.violations import Violations
from kshot.server.rpc.decode import adapt_input
from kshot.server.rpc.encode import options_message
from kshot.v1 import adaptation_pb2 as wire

ON_THE_WIRE = [field.name for field in wire.AdaptOptions.DESCRIPTOR.fields]
OPTIONS = AdaptOptions(
    step_count=3,
    learning_rate=0.1,
    batch_size=5,
    preconditioner=Preconditioner.SGD,
    head=Head.ZERO,
    scope=Scope.HEAD,
    batch_norm_mode=BatchNormMode.TRANSDUCTIVE,
    seed=2**63 - 1,
    ttl=1.5,
    allow_partial=True,
    deterministic=False,
    estimate=True,
    balance_classes=False,
    fold_count=0,
    time_budget=2.0,
    retain_support=True,
    readapt=False,
    durability=Durability.DISK,
)
OTHERS = AdaptOptions(
    step_count=4,
    learning_rate=0.2,
    batch_size=10,
    preconditioner=Preconditioner.FRESH,
    head=Head.PROTOTYPE,
    scope=Scope.ALL,
    batch_norm_mode=BatchNormMode.SUPPORT,
    seed=0,
    ttl=9.0,
    allow_partial=False,
    deterministic=True,
    estimate=False,
    balance_classes=True,
    fold_count=5,
    time_budget=20.0,
    retain_support=False,
    readapt=True,
    durability=Durability.MEMORY,
)
# As an older release stored it.
STORED = (
    '{"step_count": 3, "learning_rate": 0.1, "batch_size": 5, "preconditioner": "sgd", '
    '"head": "zero", "scope": "head", "batch_norm_mode": "transductive", '
    '"seed": 9223372036854775807, "ttl": 1.5, "allow_partial": true, "deterministic": false}'
)
TTL = TtlLimits(default=7.0, greatest=60.0)


def resolved(asked: dict[str, object], manifest: Manifest, support_count: int = 25) -> AdaptOptions:
    violations = Violations()
    options = resolve_options(asked, Bounds(manifest, 5, support_count, TTL), violations)
    violations.check()
    return options


def test_every_table_has_the_options_of_the_wire() -> None:
    client = [field.name for field in fields(ResolvedOptions)]

    assert list(OPTION_TYPES) == client == list(ClientOptions.__annotations__) == ON_THE_WIRE


@pytest.mark.parametrize("name", ON_THE_WIRE)
def test_each_option_is_echoed(name: str) -> None:
    options = replace(OPTIONS, **{name: getattr(OTHERS, name)})

    assert asdict(decode_options(options_message(options))) == options.document()


def test_each_option_is_read_as_it_was_sent() -> None:
    message = encode_options(ClientOptions(**asdict(decode_options(options_message(OPTIONS)))))
    violations = Violations()

    asked = adapt_input(wire.AdaptRequest(options=message), violations).options

    assert asked == OPTIONS.document()
    assert not violations


def test_options_left_out_have_defaults(manifest: Manifest) -> None:
    loop = manifest.inner_loop

    assert resolved({}, manifest) == AdaptOptions(
        step_count=loop.step_count,
        learning_rate=loop.learning_rate,
        batch_size=5,
        preconditioner=loop.preconditioner,
        head=manifest.head.default,
        scope=manifest.scope.default,
        batch_norm_mode=manifest.batch_norm.default,
        seed=0,
        ttl=TTL.default,
        allow_partial=False,
        deterministic=False,
        estimate=True,
        balance_classes=False,
        fold_count=0,
        time_budget=2.0,
        retain_support=True,
        readapt=False,
        durability=Durability.DISK,
    )


@pytest.mark.parametrize(("support_count", "wanted"), [(5, 0), (8, 3), (15, 3), (16, 10)])
def test_the_default_step_count_depends_on_the_shot(
    manifest: Manifest, support_count: int, wanted: int
) -> None:
    """Of 5 classes, uneven ones by their mean."""
    rules = (StepCountRule(max_shot=1, step_count=0), StepCountRule(max_shot=3, step_count=3))
    by_shot = replace(
        manifest,
        inner_loop=replace(manifest.inner_loop, step_count_by_shot=rules),
        head=HeadPolicy(Head.PROTOTYPE, (Head.PROTOTYPE, Head.TRAINED)),
    )

    assert resolved({}, by_shot, support_count).step_count == wanted
    assert resolved({"step_count": 0}, by_shot, support_count).step_count == 0
    with pytest.raises(InvalidRequest, match="with head trained, got 0"):
        resolved({"step_count": 0, "head": Head.TRAINED}, by_shot, support_count)


def test_all_options_can_be_asked_for(manifest: Manifest) -> None:
    assert resolved(dict(OPTIONS.document()), manifest) == OPTIONS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("step_count", 101, "expected 0 to 100, got 101"),
        ("step_count", 0, "expected 1 to 100 with head trained, got 0"),
        ("learning_rate", float("nan"), "expected above 0 and at most 0.1, got nan"),
        ("learning_rate", 0.2, "expected above 0 and at most 0.1, got 0.2"),
        ("batch_size", 3, "expected one of 5, 10, got 3"),
        ("preconditioner", Preconditioner.SGD, "expected one of fresh, got sgd"),
        ("head", Head.ZERO, "expected one of trained, got zero"),
        ("scope", Scope.HEAD, "expected one of all, got head"),
        ("batch_norm_mode", BatchNormMode.SUPPORT, "expected one of transductive, got support"),
        ("seed", -1, "expected 0 to 9223372036854775807, got -1"),
        ("ttl", 0.0, "expected above 0 and at most 60, got 0"),
        ("ttl", 61.0, "expected above 0 and at most 60, got 61"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(
    manifest: Manifest, name: str, value: object, message: str
) -> None:
    strict = replace(
        manifest,
        inner_loop=replace(manifest.inner_loop, preconditioners=(Preconditioner.FRESH,)),
        head=replace(manifest.head, allowed=(Head.TRAINED,)),
        scope=replace(manifest.scope, allowed=(Scope.ALL,)),
        batch_norm=replace(manifest.batch_norm, allowed=(BatchNormMode.TRANSDUCTIVE,)),
    )

    with pytest.raises(InvalidRequest) as caught:
        resolved({name: value}, strict)

    assert str(caught.value) == f"options.{name}: {message}"


def test_adapting_again_needs_the_support_set(manifest: Manifest) -> None:
    assert resolved({"readapt": True}, manifest).readapt
    with pytest.raises(InvalidRequest, match="expected false without retain_support"):
        resolved({"readapt": True, "retain_support": False}, manifest)


def test_stored_options_come_back() -> None:
    assert json.dumps(OPTIONS.document()) == (
        f'{STORED[:-1]}, "estimate": true, "balance_classes": false, "fold_count": 0, '
        '"time_budget": 2.0, "retain_support": true, "readapt": false, "durability": "disk"}'
    )
    assert AdaptOptions.from_document(json.loads(STORED)) == OPTIONS
    assert AdaptOptions.from_document(OTHERS.document()) == OTHERS


@pytest.mark.parametrize("name", ON_THE_WIRE)
def test_only_what_decides_the_bytes_is_digested(name: str) -> None:
    """`step_count` counts as the steps that were done, however many were asked for."""
    other = replace(OPTIONS, **{name: getattr(OTHERS, name)})

    same = other.digested(3) == OPTIONS.digested(3)

    undecided = {"step_count", "ttl", "allow_partial", "estimate", "fold_count", "time_budget"}
    assert same is (name in undecided | {"retain_support", "readapt", "durability"})
    assert other.digested(2) != other.digested(3)


def test_the_digest_of_an_adaptation_stays() -> None:
    """Models that older releases stored are compared with new ones by it."""
    support = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)

    digest = begin_adaptation_digest("b" * 64, support)([0, 1], ["a", "b"], OPTIONS.digested(2))

    assert digest == "fba3a6cc2029bf9f6a0aa19710a3db04f29d49b84c699c04074e8b934b668d2f"


def test_the_engine_is_told_all_that_decides_its_loop() -> None:
    needed = engine_pb2.AdaptRequest.DESCRIPTOR.fields_by_name.keys()

    others = [name for name in OPTION_TYPES if name not in needed]
    front_only = ["batch_norm_mode", "ttl", "estimate", "fold_count", "time_budget"]
    assert others == [*front_only, "retain_support", "readapt", "durability"]
