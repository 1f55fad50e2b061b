"""The pip command that adds parts of kshot to the one that is installed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any


def pip_install(extras: str) -> str:
    """Return the command that installs extras, such as `train,cpu`, from where kshot came from.

    That is the folder, file or repository that pip noted, or the sources that run. A name alone
    would be looked up in an index, which need not have kshot.
    """
    return f"pip install {_quoted(_requirement(f'[{extras}]'))}"


def _requirement(extras: str) -> str:
    # These take as long to import as all else of the client; only errors ask for them.
    from importlib import metadata
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin = metadata.distribution("kshot").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        folder = Path(__file__).parents[3]
        return f"{folder}{extras}" if (folder / "pyproject.toml").exists() else f"kshot{extras}"
    if origin is None:
        return f"kshot{extras}"
    document: dict[str, Any] = json.loads(origin)
    url, vcs = document["url"], document.get("vcs_info")
    if vcs:
        return f"kshot{extras} @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    parts = urlsplit(url)
    return (
        f"{url2pathname(parts.path)}{extras}"
        if parts.scheme == "file"
        else f"kshot{extras} @ {url}"
    )


def _quoted(text: str) -> str:
    """Quote for a shell, always: a bracket is a pattern in some."""
    return shlex.quote(text) if "'" in text else f"'{text}'"
