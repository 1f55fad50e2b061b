"""Tables between the markers of a page."""

import click
import pytest

from studies.common.page import replace_blocks, table


def test_block_is_replaced_between_its_markers() -> None:
    page = (
        "a\n<!-- one: by hand -->\n\n<!-- end of one -->\nb\n<!-- two: x -->\n<!-- end of two -->"
    )

    once = replace_blocks(page, {"one": "| 1 |\\2", "two": "2"})
    assert once.startswith("a\n<!-- one: by hand -->\n\n| 1 |\\2\n\n<!-- end of one -->\nb\n")
    assert replace_blocks(once, {"two": "2"}) == once


def test_markers_are_expected_once() -> None:
    page = "<!-- one: x -->\n<!-- end of one -->\n"

    with pytest.raises(click.ClickException, match=r"markers of three: expected once.*got 0"):
        replace_blocks(page, {"three": ""})
    with pytest.raises(click.ClickException, match=r"markers of one: expected once.*got 2"):
        replace_blocks(page + page, {"one": ""})


def test_table_is_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
