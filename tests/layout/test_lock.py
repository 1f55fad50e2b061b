"""The lock pins what the project asks for, in a form that any machine can install."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# One entry a package: the pin, then its hashes.
LOCK = [
    entry.split()
    for entry in (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    if not entry.startswith("#")
]
PINNED = {
    canonicalize_name(requirement.name): requirement
    for requirement in (Requirement(pin) for pin, *_ in LOCK)
}


def test_every_entry_pins_one_public_version() -> None:
    """A local suffix such as +cpu would shut out the machines that need another build."""
    for requirement in PINNED.values():
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert Version(specifier.version).local is None
        assert requirement.marker is None
        assert requirement.url is None


def test_all_but_torch_have_hashes() -> None:
    """Builds of torch differ, with CUDA and without it; pip refuses other files of the rest."""
    for pin, *hashes in LOCK:
        assert bool(hashes) == (not pin.startswith("torch==")), pin
        for one in hashes:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one)


def test_an_image_is_built_at_the_same_versions() -> None:
    """Its constraints are the lock without hashes, with the runtime that was asked for."""
    script = (ROOT / "deploy" / "install.sh").read_text()
    (command,) = re.findall(r'^    (sed -n .*?)>"\$tools/constraints.txt"', script, re.M | re.S)
    shell = f'runtime=onnxruntime-gpu; source="{ROOT}"; {command}'

    lines = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout

    pins = {pin for pin, *_ in LOCK}
    found = {line.replace("onnxruntime-gpu", "onnxruntime") for line in lines.split()}
    assert found == pins
    assert "onnxruntime-gpu==" in lines


def test_the_pins_meet_the_floors() -> None:
    """All extras but `gpu`, which takes the place of `cpu` at the same version, and `timm`.

    Nothing that is installed for CI needs timm, and its torchvision has to fit the build of torch.
    """
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"]]
    wanted += [
        line for name, lines in extras.items() if name not in ("gpu", "timm") for line in lines
    ]

    for requirement in map(Requirement, wanted):
        (pin,) = PINNED[canonicalize_name(requirement.name)].specifier
        assert pin.version in requirement.specifier, requirement


# The last version of a package that a published advisory names.
AFFECTED = {
    "protobuf": "6.33.4",  # CVE-2026-0994
    "pillow": "12.3.0",  # CVE-2026-96639, GHSA-5x8w-8jj5-q52h
    "onnx": "1.21.0",  # CVE-2026-44512
    "torch": "2.10.0",  # CVE-2026-4538
}


def test_no_floor_admits_a_known_advisory() -> None:
    listed = (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    wanted = [Requirement(line) for lines in listed for line in lines]

    assert {one.name for one in wanted} >= set(AFFECTED)
    for one in wanted:
        if version := AFFECTED.get(one.name):
            assert version not in one.specifier, one


def test_one_runtime_only() -> None:
    runtimes = [name for name in PINNED if name.startswith("onnxruntime")]

    assert runtimes == ["onnxruntime"]
    assert "kshot" not in PINNED
