"""Commands and Python in README and docs: options exist, blocks run or say why they do not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kshot.__main__ import command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What runs the Python blocks of a page, or why nothing does.
PYTHON = {
    "README.md": "tests/client/test_readme.py runs them",
    "docs/quick-start.md": "tests/client/test_readme.py runs it",
    "docs/python.md": "tests/client/test_readme.py runs them",
    "docs/tutorial.md": "below",
    "docs/operations.md": "the test with tritonclient, in tests/server/oip",
    "docs/choosing.md": "one call with names that the reader has",
}


def blocks(path: Path, language: str) -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words after `kshot` of each command in a page's shell blocks."""
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["kshot"] or "--no-python" in words:  # not a container of that name
                after = words[words.index("kshot") + 1 :]
                ends = [after.index(sign) for sign in ("|", "&", "&&", ";", ">") if sign in after]
                yield after[: min(ends, default=len(after))]


COMMANDS = [(path.name, words) for path in PAGES for words in commands(path)]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page} {' '.join(words)[:60]}" for page, words in COMMANDS]
)
def test_documented_commands_have_their_options(page: str, words: list[str]) -> None:  # noqa: ARG001 -- names the case
    found: click.Command | None = command
    context = click.Context(command, info_name="kshot")
    rest = list(words)
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        found = found.get_command(context, rest.pop(0))
    assert found is not None, words

    known = {
        name
        for parameter in found.get_params(context)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    typed = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert typed <= known


def test_every_python_block_is_accounted_for() -> None:
    found = {str(path.relative_to(ROOT)) for path in PAGES if blocks(path, "python")}

    assert found == set(PYTHON)


def test_the_tutorial_makes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "docs" / "tutorial.md", "python")

    exec(block, {})  # noqa: S102 -- the page's

    assert len(list(tmp_path.glob("digits/digit-*/*.png"))) == 1797
