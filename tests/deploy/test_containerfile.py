"""What holds of the container without building it; `deploy/try-rootfs.sh` builds and tries it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for line in (ROOT / "deploy/Containerfile").read_text().splitlines()
    if line and not line.startswith("#")
]
PAIRS = [tuple(line.split(" ", 1)) for line in LINES]
INSTALL = (ROOT / "deploy/install.sh").read_text()


def _of(instruction: str) -> list[str]:
    return [rest for name, rest in PAIRS if name == instruction]


def _last_stage() -> list[tuple[str, ...]]:
    starts = [index for index, (name, _rest) in enumerate(PAIRS) if name == "FROM"]
    return PAIRS[starts[-1] :]


def _copied() -> list[str]:
    """Return what is copied from the project, not from another stage."""
    words = [shlex.split(rest) for rest in _of("COPY")]
    return [source for line in words if not line[0].startswith("--") for source in line[:-1]]


def test_every_line_is_one_known_instruction() -> None:
    """The script that makes the root file system reads lines, and refuses others than these."""
    known = re.search(r"^ +(ENV \|.*)\) ;;$", (ROOT / "deploy/build-rootfs.sh").read_text(), re.M)

    assert known is not None
    assert {name for name, _rest in PAIRS} <= {
        "ARG",
        "FROM",
        "COPY",
        "RUN",
        *known[1].split(" | "),
    }
    assert not any(line.endswith("\\") for line in LINES)


def test_every_step_is_one_of_the_install_script() -> None:
    steps = [shlex.split(rest)[:2] for rest in _of("RUN")]

    assert [step for _script, step in steps] == ["system", "packages", "kshot", "photos"]
    for script, step in steps:
        assert script == "/usr/local/lib/kshot/install.sh"
        assert re.search(rf"^    {step}:\d\) install_{step}", INSTALL, re.M)


@pytest.mark.parametrize("source", _copied())
def test_what_is_copied_is_there_and_not_ignored(source: str) -> None:
    """The last matching line of .dockerignore decides."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = False
    for pattern in patterns:
        if pattern and not pattern.startswith("#") and fnmatch.fnmatch(source, pattern.lstrip("!")):
            ignored = not pattern.startswith("!")

    assert (ROOT / source).exists()
    assert not ignored


def test_every_source_root_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    metadata = {project["project"]["readme"], *project["project"]["license-files"]}

    assert {PurePosixPath(package).parts[0] for package in packages} <= set(_copied())
    assert metadata <= set(_copied())


def test_the_bundle_photos_comes_with_the_image() -> None:
    """Only the bundle is in the environment that is copied, not what the step installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    step = INSTALL.split("install_photos() {")[1].split("\n}")[0]
    wanted = re.search(r"photos \| grep -E '(.+)'", step)

    assert wanted is not None
    assert all(re.match(wanted[1], name) for name in extras["photos"])
    assert not any(re.match(wanted[1], name) for name in project["dependencies"])
    assert any(name.startswith("onnxscript") for name in extras["train"])
    assert '--no-deps --requirement "$tools/photos.txt"' in step
    assert '--target "$tools/photos"' in step
    assert '--out "$environment/share/kshot/bundles"' in step
    assert ("COPY", "--from=build /opt/kshot /opt/kshot/") in _last_stage()
    assert not any("/opt/build-tools" in line for line in LINES)


def test_the_notice_names_the_weights() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    notice = " ".join((ROOT / "NOTICE").read_text().split())

    assert "NOTICE" in project["license-files"]
    for requirement in project["optional-dependencies"]["photos"]:
        assert requirement.replace("==", " ") in notice
    assert "Apache License 2.0" in notice
    assert "MIT licence, in the words of LICENSE" in notice


def test_the_user_is_a_number_and_not_root() -> None:
    """Kubernetes' runAsNonRoot can check only numbers."""
    (user,) = _of("USER")

    number = re.fullmatch(r"(\d+):\1", user)
    assert number is not None
    assert int(number[1]) > 0
    assert f"user_id={number[1]}" in INSTALL


def test_what_is_written_goes_to_the_one_volume() -> None:
    (volume,) = _of("VOLUME")
    places = dict(rest.split("=", 1) for rest in _of("ENV"))

    assert places["HOME"] == volume
    for name in ("KSHOT_STORE", "XDG_CACHE_HOME"):
        assert PurePosixPath(places[name]).is_relative_to(volume)


def test_the_server_gets_the_signals() -> None:
    """The shell form would put a shell in between, which passes none on."""
    last = dict(_last_stage())
    probe = last["HEALTHCHECK"]

    assert json.loads(last["ENTRYPOINT"]) == ["/opt/kshot/bin/kshot"]
    assert json.loads(last["CMD"]) == ["serve"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(probe[probe.index("[") :])[-1] == "/usr/local/lib/kshot/healthcheck.py"


def test_nothing_is_reached_unless_asked_for() -> None:
    """Without keys, the image must not listen on all addresses by itself."""
    assert not any("KSHOT_INSECURE" in line or "KSHOT_LISTEN" in line for line in LINES)
