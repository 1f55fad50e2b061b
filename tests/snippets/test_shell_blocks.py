"""Every shell block of README and the pages under docs runs, from top to bottom of its page.

A page's blocks run in one folder with what its reader has (`drawn`), a shell for each section. The
tables name what only parses, what is left out and why, and which options make a command short.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snippets.conftest import Stage

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)

# Lines that do not run here, by how they begin. The options of `kshot` in them are parsed.
LEFT_OUT = {
    "make setup": "installs; CI begins with it",
    "make demo": "tests/client/test_readme.py runs it",
    "source .venv": "the environment of the tests is one",
    "pip install": "installs into the environment under test",
    "apt install": "installs on the machine",
    "docker ": "needs a container runtime; tests/deploy has its files",
    "podman ": "needs a container runtime; tests/deploy has its files",
    "sudo ": "needs root; tests/deploy has its script",
    "npm ": "tests/examples installs the locked packages",
    "(cd examples": "tests/examples installs the locked packages",
    "node ": "tests/examples runs them, where Node.js is",
    "torchrun ": "tests/trainer/loop/test_torchrun.py runs it",
    "kshot doctor": "finds what this machine lacks; tests/operate/test_doctor.py runs it",
    "kshot train mine.toml": "the recipe that the line before it printed",
    "kshot train omniglot-5way --data DATA --out runs/short": "as two lines before, but shorter",
    "kshot train studies": "tests/studies/figures trains its arms",
    "kshot train mini": "steps on large pictures; docs/recipes.md runs the same on small ones",
    "kshot train own.toml": "needs the package; tests/trainer/bundling runs the example's network",
    "kshot calibrate": "patterns are too easy; tests/trainer/commands/test_calibrate_command.py",
    "kshot bench": "measures for minutes; tests/bench runs each",
    "kshot download": "loads from the internet; tests/trainer/datasets/test_download.py runs it",
    "kshot bundle build lite": "needs timm; tests/trainer/bundling/test_timm_backbone.py runs it",
}
# Of studies, which take hours, `shim.py` only parses the options; tests/studies runs them small.

_TRAIN = "--no-compile --no-step-curve --set outer.meta_iterations=1 --set evaluation.task_count=2"
_TABLE = "--set evaluation.table.task_count=2"
# Options that make a command short, by its form; the last of equal options counts.
SHORT = {
    "kshot train --folder": f"{_TRAIN} {_TABLE} --set evaluation.interval=1",
    "kshot train": f"{_TRAIN} {_TABLE} --set network.arguments.filters=4",
    "kshot evaluate(?!.*--protocol)": "--tasks 2",
    "kshot evaluate": "--no-compile",
    "kshot evaluate .*--sweep": "--step-counts 0,1 --batch-norm-modes support",
}
# Pages whose server adapts for real; elsewhere a fake engine stands for it.
ADAPTING = {"README.md", "quick-start.md", "http.md", "languages.md", "tutorial.md"}
# What a page's reader has done before a section, which is named by its heading.
BEFORE = {
    "choosing.md: How to choose": "ln -s trained runs",
    "evaluation.md: # Evaluation": "ln -s trained runs",
    "languages.md: Exported models": "kshot serve --http 127.0.0.1:8080; kshot adapt class-folders",
    "tutorial.md: Train": "python digits.py",
    "operations.md: Stock clients": "kshot adapt pictures",
}
VARIABLES = {"deployment.md": {"KSHOT_ACCESS": "etc/kshot/access.json"}}  # of its container
PLACEHOLDERS = [
    (r"\bID\b", '"$(last_id)"'),
    (r"am-\.\.\.", "'$(last_id)'"),
    (r"(?<![\w./~])/(etc|var|srv|backup)/", r'"$HOME"/\1/'),
]
LAST_ID = """last_id() { kshot models list --json | python -c '
import json, sys
models = json.load(sys.stdin)["adapted_models"]
print(max(models, key=lambda model: model["create_time"])["adapted_model"])'; }
"""


def commands(block: str) -> Iterator[str]:
    """Yield a block's commands: lines, joined where one goes on in the next or in a loop."""
    held: list[str] = []
    for line in block.splitlines():
        held.append(line)
        begun = "\n".join(held)
        if line.endswith("\\") or len(re.findall(r"^(?:for|done)\b", begun, re.M)) % 2:
            continue
        yield begun
        held = []


def runnable(command: str) -> str:
    """Return how a command runs here."""
    for beginning in LEFT_OUT:
        if command.startswith(beginning):
            named = re.search(r"(?:^|kshot )(kshot (?!-t |\.).*)|--no-python (kshot .*)", command)
            return f"SNIPPETS_PARSE_ONLY=1 {named[1] or named[2]}" if named else ":"
    options = " ".join(each for form, each in SHORT.items() if re.match(form, command))
    words, redirection, rest = re.fullmatch(r"(.*?)(\s+[#>]|$)(.*)", command, re.DOTALL).groups()
    return f"{words} {options}{redirection}{rest}" if options else command


def script(section: str, stage: Stage) -> str:
    """Return the script of a section's blocks."""
    lines = [runnable(line) for block in BLOCK.findall(section) for line in commands(block)]
    text = "\n".join(lines)
    for pattern, value in PLACEHOLDERS:
        text = re.sub(pattern, value, text)
    text = text.replace(":50051", f":{stage.grpc_port}").replace(":8080", f":{stage.http_port}")
    return LAST_ID + text


@pytest.fixture(scope="module")
def shared(commands: Path, drawn: Path) -> Iterator[Stage]:
    """The server of pages that adapt, and say nothing else of their server."""
    stage = Stage(commands, drawn, commands / "shared")
    yield stage
    stage.end()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_run(
    page: Path, commands: Path, drawn: Path, shared: Stage, tmp_path: Path
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(drawn, folder, symlinks=True)
    own = Stage(commands, folder, tmp_path / "serving")
    adapts = page.name in ADAPTING
    ports = shared if adapts and page.name != "tutorial.md" else own
    stage = Stage(commands, folder, ports.serving, ports.grpc_port, ports.http_port)
    environment = VARIABLES.get(page.name, {}) | ({"SNIPPETS_REAL_ENGINE": "1"} if adapts else {})
    if page.name == "tutorial.md":
        (folder / "digits.py").write_text(
            re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M)[0]
        )

    try:
        for section in page.read_text().split("\n## "):
            name = f"{page.name}: {section.splitlines()[0]}"
            before = f"```sh\n{BEFORE.get(name, '')}\n```\n"
            done = stage.shell(script(before + section, stage), **environment)
            assert done.returncode == 0, f"{name}\n{done.stderr[-5000:]}"
    finally:
        own.end()
