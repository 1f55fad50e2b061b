"""README and the pages under docs: links, names in the code, and their length."""

from __future__ import annotations

import re
import runpy
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [
    *PAGES,
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *ROOT.glob("*/README.md"),
]
MAX_WORDS = 32_000
MAX_README_LINES, MAX_RECORD_LINES = 120, 15
COLUMNS = 120  # a paragraph is one line in the file; it counts as the lines that it fills


def name_of(path: Path) -> str:
    """Return a page's path below the repository's root."""
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors that a Git host makes of a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(path), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def resolve(name: str) -> object:
    """Import the longest module of a dotted name and look up the rest in it."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        module, _, rest = name.rpartition(".")
        if not module:
            raise
        return getattr(resolve(module), rest)


@pytest.mark.parametrize("path", LINKED, ids=name_of)
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(link)

    assert dead == []


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_names_of_the_code_are_in_the_code(path: Path) -> None:
    for name in re.findall(r"`(kshot(?:\.\w+)+)`", prose(path)):
        if name not in {"kshot.commands", "kshot.networks"}:  # groups of entry points
            assert resolve(name) is not None


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_named_files_exist(path: Path) -> None:
    roots = "benchmarks|bundle|client|deploy|docs|examples|learner|proto|server|studies|tests"
    names = re.findall(rf"`((?:{roots}|trainer|training)/[\w./-]+)`", prose(path))
    patterns = [re.sub(r"[A-Z]{2,}", "*", name) for name in names]  # docs/NAME.md

    assert [name for name in patterns if not any(ROOT.glob(name.rstrip("/")))] == []


def test_every_diagram_has_its_picture() -> None:
    """The site shows these; `python docs/site/diagrams.py` draws them."""
    script = runpy.run_path(str(ROOT / "docs" / "site" / "diagrams.py"))
    sources = [each for page in PAGES for each in script["BLOCK"].findall(page.read_text())]

    assert {script["file_of"](each) for each in sources} == set(script["FOLDER"].glob("*.svg"))
    assert all(script["TITLE"].search(each) for each in sources)


def test_no_record_of_a_decision_is_long() -> None:
    records = prose(ROOT / "docs" / "decisions.md").split("\n## ")[1:]

    assert len(records) > 40
    for record in records:
        lines = ["## " + record.splitlines()[0], *record.strip().splitlines()[1:]]
        count = sum(max(1, len(textwrap.wrap(line, COLUMNS))) for line in lines)
        assert re.match(r"\d{4}-\d\d-\d\d: ", record)
        assert count <= MAX_RECORD_LINES, record.splitlines()[0]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_the_pages_are_short_together() -> None:
    counts = {name_of(path): len(path.read_text().split()) for path in PAGES}

    assert sum(counts.values()) <= MAX_WORDS, counts


def test_rooms_are_listed_with_their_modules() -> None:
    """A newcomer finds the file for a change by the page of the architecture alone."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = page.split("\n## Rooms\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", rooms))
    modules = {
        path.stem
        for root in ("bundle", "learner", "trainer", "server", "client")
        for path in (ROOT / root / "kshot").rglob("*.py")
        if not path.stem.startswith("__") and path.parent.name not in {"commands", "command"}
    }

    assert modules - named == set()
