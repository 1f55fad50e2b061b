"""The command that an error names works where kshot came from."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from kshot.local import pip_install


class Installed:
    def __init__(self, origin: object) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'kshot[train]'"),
        ({"url": "file:///my%20src", "dir_info": {"editable": True}}, "'/my src[train]'"),
        ({"url": "file:///it's", "dir_info": {}}, """pip install '/it'"'"'s[train]'"""),
        ({"url": "file:///k.whl", "archive_info": {}}, "pip install '/k.whl[train]'"),
        ({"url": "https://a/k.whl", "archive_info": {}}, "'kshot[train] @ https://a/k.whl'"),
        (
            {"url": "https://a/k.git", "vcs_info": {"vcs": "git", "commit_id": "1a"}},
            "'kshot[train] @ git+https://a/k.git@1a'",
        ),
    ],
)
def test_extras_come_from_where_kshot_came_from(
    monkeypatch: pytest.MonkeyPatch, origin: object, command: str
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed(origin))

    assert pip_install("train").endswith(command)


def test_sources_that_are_not_installed_name_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)

    assert pip_install("train") == f"pip install '{Path(__file__).parents[2]}[train]'"
