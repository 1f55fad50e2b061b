from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.server.errors import InvalidRequest
from kshot.server.store.page_token import START, page_token, parse_page_token

ID = "am-" + "a" * 26


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex("[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True),
    st.none() | st.text(),
)
def test_a_token_says_where_a_page_ended(
    create_time: float, model_id: str, model: str | None
) -> None:
    token = page_token((create_time, model_id), model)

    assert parse_page_token(token, model) == (create_time, model_id)


def test_no_token_is_the_beginning() -> None:
    assert parse_page_token("", "tiny") == START


@pytest.mark.parametrize("model_id", ["\ud800", "a\0", "", "../a", "a" * 65, "\N{SNOWMAN}"])
def test_an_id_that_no_store_gives_is_refused(model_id: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_page_token(page_token((1.0, model_id), None), None)


@pytest.mark.parametrize("create_time", [math.inf, -math.inf, math.nan])
def test_a_time_that_is_not_finite_is_refused(create_time: float) -> None:
    with pytest.raises(InvalidRequest):
        parse_page_token(page_token((create_time, ID), None), None)
