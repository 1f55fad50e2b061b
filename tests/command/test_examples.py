"""Every command explains itself: examples that parse, and `--json` where it prints a result."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from kshot import __main__ as program
from kshot.command.examples import EXAMPLES
from kshot.command.table import COMMANDS, ProgramGroup

WITHOUT_JSON = {"serve"}  # prints a JSON line by itself, and logs JSON
REDIRECTIONS = (">", "|")


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Yield the words and the command of each command and group below one."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            below = click.Context(inner, parent=context, info_name=name)
            yield below.command_path.removeprefix("kshot "), inner
            yield from walk(inner, below)


@pytest.fixture(scope="module")
def tree() -> dict[str, click.Command]:
    """All of our commands by their words."""
    root = ProgramGroup(name="kshot", entries=COMMANDS)
    context = click.Context(root, info_name="kshot")
    found = dict(walk(root, context))
    return {path: each for path, each in found.items() if path.split()[0] in COMMANDS}


def test_every_command_has_examples(tree: dict[str, click.Command]) -> None:
    assert set(EXAMPLES) == set(tree)


def test_every_example_parses(tree: dict[str, click.Command]) -> None:
    lines = [(path, line) for path, some in EXAMPLES.items() for line in some]

    for path, line in lines:
        program_name, *words = shlex.split(line)
        ends = [words.index(each) for each in REDIRECTIONS if each in words]
        words = words[: min(ends, default=len(words))]
        named = max((each for each in tree if line[6:].startswith(each)), key=len)
        rest = words[len(named.split()) :]
        command = tree[named]

        assert program_name == "kshot"
        assert named.startswith(path), line
        assert not isinstance(command, click.Group), line
        command.make_context(named, rest)  # raises where the line does not parse


def test_every_result_comes_as_json(tree: dict[str, click.Command]) -> None:
    without = {
        path
        for path, command in tree.items()
        if not isinstance(command, click.Group)
        if not any("--json" in parameter.opts for parameter in command.params)
    }

    assert without == WITHOUT_JSON


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["models", "renew", "--help"]) == 0

    said = capsys.readouterr().out
    assert said.endswith("  kshot models renew $ID --expire-at 2030-01-31T12:00:00Z\n")
    assert "Examples:" in said
