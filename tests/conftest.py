"""What tests of several components start from."""

import os
import signal
from collections.abc import Iterator

import pytest

from kshot.bundle import (
    BatchNorm,
    BatchNormMode,
    BatchSizeRule,
    Grayscale,
    Head,
    HeadPolicy,
    InnerLoop,
    InputSpec,
    Limits,
    Manifest,
    NetworkSpec,
    Preconditioner,
    Provenance,
    Rescale,
    Resize,
    Scope,
    ScopePolicy,
    Training,
)


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Let SIGINT interrupt the processes that tests start, however this run was started.

    A background job of a shell ignores SIGINT, and its children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def step_cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep compiled steps from one run of the tests to the next; their engines share them."""
    with pytest.MonkeyPatch.context() as patch:
        if "KSHOT_CACHE" not in os.environ:
            folder = pytestconfig.rootpath / ".pytest_cache" / "kshot"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            patch.setenv("KSHOT_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A manifest without files; tests replace what they care for."""
    return Manifest(
        name="tiny",
        version=1,
        network=NetworkSpec("conv4", {"filters": 64, "max_pool": False}),
        input=InputSpec(
            shape=(1, 28, 28),
            preprocessing=(Grayscale(), Resize(28, 28, "nearest"), Rescale(1 / 255)),
        ),
        inner_loop=InnerLoop(
            learning_rate=0.001,
            step_count=10,
            batch_size_by_way=(BatchSizeRule(5, 5), BatchSizeRule(20, 10)),
            batch_sizes=(5, 10),
            way_buckets=(5, 20),
            preconditioner=Preconditioner.CARRIED,
            preconditioners=tuple(Preconditioner),
        ),
        batch_norm=BatchNorm(BatchNormMode.SUPPORT, tuple(BatchNormMode)),
        training=Training(way=5, shot=1),
        head=HeadPolicy(Head.TRAINED, tuple(Head)),
        scope=ScopePolicy(Scope.ALL, tuple(Scope)),
        limits=Limits(20, 400, 1000, 100, 0.1),
        provenance=Provenance(
            "omniglot-5way", "a1", "reptile", 0, 20000, "b2", "c3", {"torch": "2.13", "numpy": "2"}
        ),
    )
