"""Lists, page by page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kshot.server.errors import InvalidRequest
from kshot.server.request.list_filter import parse_filter
from kshot.server.store import store as store_module
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]


def test_pages_go_through_all_in_order_once(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    times = {"c": 1.0, "a": 2.0, "b": 2.0, "e": 0.1 + 0.2, "d": 3.0}
    for model_id, create_time in times.items():
        store.put(make_model(model_id, create_time=create_time), make_arrays())
    seen, token = [], ""
    while True:
        page, token = store.list(2, token)
        seen += [model.id for model in page]
        if not token:
            break

    assert seen == ["e", "c", "a", "b", "d"]


def test_a_page_stays_in_place_when_models_come_and_go(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    for index in range(6):
        store.put(make_model(f"m{index}", create_time=float(index)), make_arrays())
    first, token = store.list(3)
    store.delete("m2")
    store.delete("m3")
    store.put(make_model("early", create_time=0.5), make_arrays())
    second, token = store.list(3, token)

    assert [model.id for model in first] == ["m0", "m1", "m2"]
    assert [model.id for model in second] == ["m4", "m5"]
    assert token == ""


def test_a_list_may_be_of_one_version(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    for number, version in enumerate((1, 2, 1)):
        model = make_model(f"m{number}", create_time=float(number))
        store.put(replace(model, model_version=version), make_arrays())
    store.put(replace(make_model("other", model="other"), model_version=1), make_arrays())
    model, wanted = make_model("m").model, parse_filter("size_bytes > 0").of_version(1)

    page, token = store.list(1, "", model, wanted=wanted)
    rest, end = store.list(9, token, model, wanted=wanted)

    assert [each.id for each in (*page, *rest)] == ["m0", "m2"]
    assert end == ""
    with pytest.raises(InvalidRequest):
        store.list(9, token, model, wanted=parse_filter("size_bytes > 0").of_version(2))


def test_lists_leave_out_expired_and_other_models(
    store: LocalStore, clock: SimpleNamespace, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    store.put(make_model("a", expire_time=1500.0), make_arrays())
    store.put(make_model("b"), make_arrays())
    store.put(make_model("c", model="other"), make_arrays())
    clock.now = 1500.0

    assert [model.id for model in store.list(10)[0]] == ["b", "c"]
    assert [model.id for model in store.list(10, model="other")[0]] == ["c"]
    assert store.list(10, model="none") == ([], "")


@pytest.mark.parametrize(
    "token",
    ["x", "é", "bm9wZQ==", "W10=", "WzEsMixudWxsXQ==", "A" * 65536, "WzFlOTk5LCAiYSIsIG51bGxd"],
)
def test_a_token_that_no_page_gave_is_refused(store: LocalStore, token: str) -> None:
    with pytest.raises(InvalidRequest):
        store.list(2, token)


def test_a_token_is_for_the_list_that_gave_it(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    for index in range(3):
        store.put(make_model(f"m{index}"), make_arrays())
    _, token = store.list(2, model="tiny")

    with pytest.raises(InvalidRequest):
        store.list(2, token)
    assert len(store.list(2, token, model="tiny")[0]) == 1


def ids(store: LocalStore, text: str, size: int = 10) -> list[str]:
    """Return the ids of all pages."""
    found, token = [], ""
    while True:
        page, token = store.list(size, token, wanted=parse_filter(text))
        found += [model.id for model in page]
        assert len(page) <= size
        if not token:
            return found


def test_a_filter_keeps_what_fits_all_terms(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    for index in range(6):
        model = make_model(f"m{index}", create_time=float(index), expire_time=2000.0 + index)
        names = ("cat", "dog") if index % 2 else ("bird", "dog")
        store.put(replace(model, class_names=names, bundle_digest=f"{index // 3}"), make_arrays())

    assert ids(store, 'class_name = "cat"') == ["m1", "m3", "m5"]
    assert ids(store, 'class_name = "cat"', size=1) == ["m1", "m3", "m5"]
    assert ids(store, 'class_name = "cat" AND class_name = "dog" AND bundle_digest = "0"') == ["m1"]
    assert ids(store, 'class_name = "cat" AND class_name = "bird"') == []
    assert ids(store, 'create_time < "1970-01-01T00:00:02Z"', size=1) == ["m0", "m1"]
    assert ids(store, 'expire_time >= "1970-01-01T00:33:24.5Z"') == ["m5"]
    size = store.get("m0").size_bytes
    assert ids(store, f"size_bytes = {size}") == [f"m{index}" for index in range(6)]
    assert ids(store, f"size_bytes > {size}") == []


def test_a_filter_that_finds_little_gives_the_others_their_turn(
    store: LocalStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page may then be empty before the end."""
    monkeypatch.setattr(store_module, "AT_ONCE", 2)
    monkeypatch.setattr(store_module, "_ROUNDS", 2)
    for index in range(7):
        model = make_model(f"m{index}", create_time=float(index))
        names = ("cat",) if index == 6 else ("dog",)
        store.put(replace(model, class_names=names), make_arrays())

    wanted = parse_filter('class_name = "cat"')
    page, token = store.list(5, wanted=wanted)
    assert page == []
    page, end = store.list(5, token, wanted=wanted)
    assert [model.id for model in page] == ["m6"]
    assert end == ""
    for other in (parse_filter('class_name = "dog"'), parse_filter("")):
        with pytest.raises(InvalidRequest, match="earlier page of this list"):
            store.list(5, token, wanted=other)
    with pytest.raises(InvalidRequest, match="earlier page of this list"):
        store.list(5, token, tenant="other", wanted=wanted)
