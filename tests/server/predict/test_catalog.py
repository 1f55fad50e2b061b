"""The names of served versions, and what becomes of adapted models of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kshot.bundle import Bundle
from kshot.server.errors import ModelChanged, ModelNotFound, StartError
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.predict.opener import Opener
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedModelRecord

WriteVersion = Callable[..., Bundle]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, write_version: WriteVersion) -> list[Bundle]:
    """Versions 1, 2 and 10 of a model, and another model."""
    root = tmp_path_factory.mktemp("versions")
    bundles = [write_version(root, version) for version in (1, 2, 10)]
    return [*bundles, write_version(root, 1, name="another")]


def catalog_of(*labelled: tuple[Bundle, tuple[str, ...]]) -> Catalog:
    opener = Opener(Runtime())
    return Catalog(
        [ServedModel.open(bundle, opener, labels) for bundle, labels in labelled], opener
    )


def version_of(catalog: Catalog, name: str) -> int:
    return catalog.find(name).bundle.manifest.version


def test_a_name_alone_means_the_highest_version(versions: list[Bundle]) -> None:
    catalog = catalog_of(*((bundle, ()) for bundle in versions))

    assert [version_of(catalog, name) for name in ("tiny", "tiny@2", "tiny@10")] == [10, 2, 10]
    assert [model.full_name for model in catalog] == ["tiny@10", "another@1"]
    names = [catalog.name_of(model) for model in catalog.versions]
    assert names == ["tiny", "tiny@2", "tiny@1", "another"]
    assert all(name in catalog for name in names)


def test_a_name_alone_means_the_stable_version(versions: list[Bundle]) -> None:
    first, second, tenth, _ = versions

    catalog = catalog_of((first, ()), (second, ("old", "stable")), (tenth, ("canary",)))

    names = ("tiny", "tiny@stable", "tiny@old", "tiny@canary", "tiny@1")
    assert [version_of(catalog, name) for name in names] == [2, 2, 2, 10, 1]
    names = tuple(catalog.name_of(model) for model in catalog.versions)
    assert names == ("tiny", "tiny@10", "tiny@1")


def test_other_names_are_not_served(versions: list[Bundle]) -> None:
    catalog = catalog_of((versions[0], ("stable",)), (versions[1], ()))

    for name in ("tiny@3", "tiny@canary", "another@stable", "@1", "tiny@"):
        assert name not in catalog
        with pytest.raises(ModelNotFound, match="expected one of tiny, tiny@2"):
            catalog.find(name)


def test_lists_take_names_of_versions_and_labels(versions: list[Bundle]) -> None:
    """Of versions also those that are no longer served."""
    catalog = catalog_of((versions[0], ("stable",)), (versions[1], ()))

    names = ("tiny", "tiny@2", "tiny@stable", "tiny@3", "gone", "gone@3", "tiny@no", "tiny@", "")
    assert [catalog.kept_name(name) for name in names] == [
        *(("tiny", None), ("tiny", 2), ("tiny", 1), ("tiny", 3), ("gone", None), ("gone", 3)),
        *(("tiny@no", None), ("tiny@", None), ("", None)),
    ]
    assert catalog.kept_name("tiny@stable", labels=False) == ("tiny@stable", None)


def test_a_version_is_served_once(versions: list[Bundle]) -> None:
    with pytest.raises(StartError, match="2 bundles tiny@1"):
        catalog_of((versions[0], ()), (versions[0], ()))


def test_others_take_over_at_once(
    versions: list[Bundle], make_model: Callable[..., AdaptedModelRecord]
) -> None:
    catalog = catalog_of((versions[0], ()))
    old = catalog.find("tiny")
    adapted = replace(make_model(), bundle_digest=versions[0].digest)
    assert catalog.at_hand(adapted) is old

    catalog.replace([ServedModel.open(versions[1], Opener(Runtime()))])

    assert version_of(catalog, "tiny") == 2
    assert catalog.at_hand(adapted) is None
    # Its folder still stands beside.
    assert catalog.behind(adapted).full_name == "tiny@1"
    assert catalog.at_hand(adapted) is catalog.behind(adapted) is not old


def test_a_bundle_that_is_gone_names_what_serves_instead(
    versions: list[Bundle], make_model: Callable[..., AdaptedModelRecord]
) -> None:
    catalog = catalog_of((versions[1], ()), (versions[2], ()))
    gone = replace(make_model(), bundle_digest="0" * 64)

    with pytest.raises(ModelChanged, match="adapt again, to tiny@10") as caught:
        catalog.behind(gone)
    with pytest.raises(ModelChanged, match="serve it again"):
        catalog.behind(replace(gone, model="lost"))

    assert caught.value.metadata["served"] == "tiny@10"
