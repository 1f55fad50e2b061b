"""Diagrams of the pages as pictures: Git hosts draw Mermaid's text, the site shows SVG files.

`python docs/site/diagrams.py` draws them again with Mermaid's command line (Node.js and Chromium),
into files that are named by their sources: a diagram that changed has none until then.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "images" / "diagrams"
BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r"accTitle: (.+)")
SETTINGS = {"htmlLabels": False, "theme": "neutral", "fontFamily": "sans-serif"}


def file_of(diagram: str) -> Path:
    """Return the picture of a diagram's source."""
    return FOLDER / f"{hashlib.sha256(diagram.encode()).hexdigest()[:12]}.svg"


def with_pictures(text: str) -> str:
    """Replace the diagrams in a page of `docs` by pictures; their `accTitle` describes them."""

    def picture(found: re.Match[str]) -> str:
        path = file_of(found[1]).relative_to(ROOT / "docs")
        return f"![{TITLE.findall(found[1])[0]}]({path})"

    return BLOCK.sub(picture, text)


def draw(diagram: str, path: Path) -> None:
    """Draw a diagram; raises `CalledProcessError` where Mermaid cannot."""
    command = ["npx", "--yes", "@mermaid-js/mermaid-cli@11", "-q", "-b", "white"]
    with TemporaryDirectory() as folder:
        files = {name: Path(folder, name) for name in ("source.mmd", "settings", "browser")}
        files["source.mmd"].write_text(diagram)
        files["settings"].write_text(json.dumps(SETTINGS))
        browser = {"executablePath": shutil.which("chromium"), "args": ["--no-sandbox"]}
        files["browser"].write_text(json.dumps(browser))
        command += ["-i", str(files["source.mmd"]), "-o", str(path)]
        command += ["-c", str(files["settings"]), "-p", str(files["browser"])]
        subprocess.run(command, check=True)  # noqa: S603 -- ours


def main() -> None:
    """Draw what has no picture, and remove pictures without a diagram."""
    FOLDER.mkdir(exist_ok=True)
    pages = (ROOT / "docs").glob("*.md")
    wanted = {file_of(each): each for page in pages for each in BLOCK.findall(page.read_text())}
    for path in set(FOLDER.glob("*.svg")) - set(wanted):
        path.unlink()
    for path, diagram in wanted.items():
        if not path.exists():
            draw(diagram, path)


if __name__ == "__main__":
    main()
