"""The page for operators has every option of `kshot serve` and every event of the log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from kshot.server.command import command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def shown_default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    if option.is_flag:
        return "off"
    default = option.get_default(click.Context(command), call=False)
    if not isinstance(default, str | int | float):  # unset, in click's own way
        return "none"
    return f"`{default:.16g}`" if isinstance(default, float) else f"`{default}`"


def test_the_page_lists_every_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section("Settings"), re.MULTILINE)
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden  # between programs
    ]

    wanted = {str(option.envvar): shown_default(option) for option in options}
    assert dict(rows) == wanted
    assert len(rows) == len(options)
    for option in options:  # so that the page need not name both
        assert option.opts == [
            "--" + str(option.envvar).removeprefix("KSHOT_").lower().replace("_", "-")
        ]


def test_a_variable_with_several_values_is_split_as_the_page_says() -> None:
    several = {
        option.envvar: option.type.envvar_list_splitter or " "
        for option in command.params
        if isinstance(option, click.Option) and option.multiple
    }

    told = re.search(r"(`KSHOT_.+`) take several, separated by `(.)`", section("Settings"))
    assert told is not None
    assert dict.fromkeys(re.findall(r"`(KSHOT_\w+)`", told[1]), told[2]) == several


def logged() -> Iterator[tuple[str, str]]:
    """Yield the events in the server's source with their level, empty where it depends."""
    for path in (ROOT / "server" / "kshot").rglob("*.py"):
        text = path.read_text()
        if not re.search(r"\b(log_event|LOGGER|_log)\b", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called, arguments, level = ast.unparse(node.func), node.args, "info"
            if re.fullmatch(r"(LOGGER|_log)\.\w+", called):
                level = called.rpartition(".")[2].replace("exception", "error")
                if level == "log":
                    arguments = [arguments[1], arguments[0]]
            elif called != "log_event":
                continue
            if len(arguments) > 1:
                found = re.fullmatch(r"logging\.(\w+)", ast.unparse(arguments[1]))
                level = found[1].lower() if found else ""
            if isinstance(arguments[0], ast.Constant):
                yield str(arguments[0].value), level


def test_the_page_lists_every_event() -> None:
    rows = re.findall(r"^\| (info|warning|error) \| (.+) \|$", section("Watching"), re.MULTILINE)
    listed = {(event, level) for level, text in rows for event in re.findall(r"`([a-z_]+)`", text)}
    names = {event for event, _ in listed}

    missing = {
        (event, level)
        for event, level in logged()
        if ((event, level) not in listed if level else event not in names)
    }
    assert missing == set()
