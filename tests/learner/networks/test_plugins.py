from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import NetworkSpec
from kshot.learner import Conv4, StepCache, StepSpec, build_network
from kshot.learner.networks.plugins import load_plugin, plugin_digest, plugin_names

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that puts a distribution of one module on the path.

    Takes its name, its source and its entry points.
    """
    # As at the start of a process: nothing has been looked for.
    load_plugin.cache_clear()
    plugin_digest.cache_clear()

    def put(name: str, source: str, entries: str) -> None:
        root = tmp_path / name
        facts = root / f"{name}-1.0.dist-info"
        facts.mkdir(parents=True)
        (root / f"{name}.py").write_text(source)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[kshot.networks]\n{entries}\n")
        monkeypatch.syspath_prepend(root)

    return put


def build(name: str, **arguments: int) -> object:
    return build_network(NetworkSpec(name, arguments), (1, 8, 8), 1e-3)


def test_a_distributions_network_is_found_by_its_name(install: Install) -> None:
    source = "from kshot.learner import Conv4\ndef make(**given): return Conv4(**given)\n"
    install("plugin_found", source, "found = plugin_found:make")

    assert build("found", filters=3) == Conv4((1, 8, 8), filters=3, epsilon=1e-3)
    assert "found" in plugin_names()
    known = "conv4, features, found, mlp, resnet12"
    with pytest.raises(ValueError, match=f"'lost' is unknown; known networks: {known}"):
        build("lost")


def test_a_built_in_name_wins(install: Install) -> None:
    install("plugin_wins", "raise RuntimeError('imported')", "conv4 = plugin_wins:make")

    assert build("conv4", filters=3) == Conv4((1, 8, 8), filters=3, epsilon=1e-3)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        (
            "plugin_broken",
            "import a_module_that_is_nowhere",
            "'broken' cannot be loaded from plugin_broken:make: ModuleNotFoundError: No module",
        ),
        ("plugin_empty", "", "'empty' cannot be loaded from plugin_empty:make: AttributeError"),
        ("plugin_number", "make = 3", "'number': expected a function at plugin_number:make, got 3"),
        (
            "plugin_failing",
            "def make(**_): return {}['wanted']",
            "'failing' cannot be built: KeyError: 'wanted'",
        ),
        (
            "plugin_strict",
            "def make(input_shape, epsilon): return None",
            "'strict' does not accept these arguments: .*'filters'",
        ),
        (
            "plugin_refusing",
            "def make(**_): raise ValueError('filters is 3, wanted 4')",
            "^filters is 3, wanted 4$",
        ),
        (
            "plugin_partial",
            "class make:\n  def __init__(self, **_): self.input_shape = self.features = 1",
            "'partial': required members are missing: feature_count, body_shapes, statistics_sh",
        ),
    ],
)
def test_a_factory_that_fails_is_named(
    install: Install, name: str, source: str, complaint: str
) -> None:
    install(name, source, f"{name.removeprefix('plugin_')} = {name}:make")

    with pytest.raises(ValueError, match=complaint):
        build(name.removeprefix("plugin_"), filters=3)


def test_a_name_that_two_distributions_enter_is_refused(install: Install) -> None:
    install("plugin_one", "make = dict", "twin = plugin_one:make")
    install("plugin_two", "make = dict", "twin = plugin_two:make")

    with pytest.raises(ValueError, match=r"'twin' .* more than once: plugin_one:make, plugin_two"):
        build("twin")


def test_a_compiled_step_is_of_one_source_of_its_network(
    install: Install, spec: StepSpec, tmp_path: Path
) -> None:
    """What was compiled from a package's old version is not loaded for its new one."""
    install("plugin_source", "make = 1", "source = plugin_source:make")
    cache, cpu = StepCache.open(tmp_path / "cache"), torch.device("cpu")
    other = replace(spec, network=NetworkSpec("source", {}))
    before = cache.path(other, cpu)
    built_in = cache.path(spec, cpu)

    (tmp_path / "plugin_source" / "plugin_source.py").write_text("make = 2")
    plugin_digest.cache_clear()

    assert cache.path(other, cpu) != before
    assert cache.path(spec, cpu) == built_in
    assert plugin_digest("conv4") == ""
