"""`studies/reproduction.py` on small patterns in the place of all data sets."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bundle import Manifest, load_bundle
from kshot.trainer.recipe.files import load_image_recipe
from studies import reproduction
from studies.common import results
from studies.reproduction import Target, adaptation_for, command, targets

PackSmall = Callable[..., Path]
Reproduce = Callable[..., Result]
MODES = ["transductive", "support_and_query", "support"]


@pytest.fixture
def reproduce(tmp_path: Path) -> Reproduce:
    """Run the command on 3 tasks, into a folder of its own."""

    def run(*arguments: str) -> Result:
        common = ["--data", str(tmp_path), "--device", "cpu", "--no-compile"]
        common += ["--out", str(tmp_path / "out")]
        common += [] if "--tasks" in arguments else ["--tasks", "3"]
        return CliRunner().invoke(command, [*common, *arguments])

    return run


@pytest.fixture
def measured(tmp_path: Path) -> Callable[[str], results.Result]:
    """Return a function from a name to the kept result."""
    return lambda name: results.read_result(tmp_path / "out" / "reproduction" / f"{name}.json")


Measured = Callable[[str], results.Result]


def test_bundle_answers_its_recipes_rows_in_every_mode(
    pack_small: PackSmall, reproduce: Reproduce, measured: Measured
) -> None:
    bundle = pack_small()
    done = reproduce("--only", "o15", "--bundle", str(bundle))
    result = measured("o15")

    assert done.exit_code == 0, done.output
    assert "o15: adapting: 3/3 tasks" in done.stderr
    assert [row["batch_norm"] for row in result.rows] == MODES
    settings = result.settings
    assert (settings["tasks"], settings["step_count"], settings["batch_size"]) == (3, 50, 5)
    assert (settings["preconditioner"], settings["head"]) == ("carried", "trained")
    assert result.provenance.bundle_digest == load_bundle(bundle).digest
    assert len(result.more["episodes_digest"]) == 64


def test_command_measures_a_row_again(
    pack_small: PackSmall,
    reproduce: Reproduce,
    measured: Measured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = pack_small("omniglot-5way", "outer.meta_iterations=7")
    reproduce("--only", "o55", "--bundle", str(bundle))
    result = measured("o55")
    for row in result.rows:
        words = shlex.split(result.provenance.command.replace("MODE", row["batch_norm"]))
        assert words[:3] == ["kshot", "evaluate", "BUNDLE"]
        arguments = ["evaluate", str(bundle), "--data", str(tmp_path), *words[3:]]
        assert main([*arguments, "--device", "cpu", "--no-compile", "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert {key: again[key] for key in ("accuracy", "ci95", "ci_method")} == {
            key: row[key] for key in ("accuracy", "ci95", "ci_method")
        }
        assert again["episodes_digest"] == result.more["episodes_digest"]
        for key in ("tasks", "step_count"):
            assert again[key] == result.settings[key]
    assert result.settings["meta_iterations"] == 7


def test_maml_takes_its_own_few_steps_on_the_whole_support_set(
    pack_small: PackSmall, reproduce: Reproduce, measured: Measured
) -> None:
    recipe = "omniglot-5way-5shot-fomaml"
    done = reproduce("--only", "o55-fomaml", "--bundle", str(pack_small(recipe)))
    result = measured("o55-fomaml")

    assert done.exit_code == 0, done.output
    assert [row["batch_norm"] for row in result.rows] == ["transductive"]
    settings = result.settings
    assert (settings["algorithm"], settings["step_count"]) == ("fomaml", 3)
    assert (settings["batch_size"], settings["preconditioner"]) == (25, "sgd")


def test_any_training_on_cifar_fs_answers_its_rows(
    pack_small: PackSmall, reproduce: Reproduce, measured: Measured
) -> None:
    """The bundle that ships as `cifar-fs` may come from another recipe than Reptile's."""
    settings = ("data.dataset=cifar-fs", "data.split=bertinetto", "data.rotations=false")
    bundle = pack_small("omniglot-5way-fomaml", *settings)
    done = reproduce("--only", "cifar15-fomaml", "--bundle", str(bundle))
    result = measured("cifar15-fomaml")

    assert done.exit_code == 0, done.output
    assert [row["batch_norm"] for row in result.rows] == MODES
    assert (result.settings["recipe"], result.settings["queries"]) == ("omniglot-5way-fomaml", 15)


def test_kept_rows_are_not_measured_again_unless_asked(
    pack_small: PackSmall, reproduce: Reproduce, measured: Measured
) -> None:
    """First-order MAML's rows, which take few steps."""
    asked = ("--only", "o15-fomaml", "--bundle", str(pack_small("omniglot-5way-fomaml")))
    reproduce(*asked)
    first = measured("o15-fomaml")

    again = reproduce(*asked)
    assert "measured before" in again.stderr
    assert "adapting" not in again.stderr
    assert measured("o15-fomaml") == first
    assert "adapting: 3/3" in reproduce(*asked, "--again").stderr
    assert "adapting: 2/2" in reproduce(*asked, "--tasks", "2").stderr
    assert measured("o15-fomaml").settings["tasks"] == 2
    other = pack_small("omniglot-5way-fomaml", "network.arguments.filters=6")
    assert "adapting" in reproduce("--only", "o15-fomaml", "--bundle", str(other)).stderr
    assert measured("o15-fomaml").settings["weights_digest"] != first.settings["weights_digest"]


def test_bundle_that_is_calibrated_or_ships_later_keeps_its_accuracies(
    pack_small: PackSmall,
    reproduce: Reproduce,
    measured: Measured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change of the manifest alone changes no answer, and no measurement takes hours twice."""
    before = pack_small()
    after = load_bundle(pack_small("omniglot-5way", "serving.step_count=9", version=2))
    reproduce("--only", "o15", "--bundle", str(before))
    first = measured("o15")
    monkeypatch.setattr(reproduction, "BUILTIN", ("omniglot",))
    monkeypatch.setattr(reproduction, "builtin_bundle", lambda _name: after.path)
    done = reproduce("--only", "o15")
    renewed = measured("o15")

    assert "measured before" in done.stderr
    assert renewed.provenance.bundle_digest == after.digest != first.provenance.bundle_digest
    assert renewed.provenance.command == first.provenance.command.replace("BUNDLE", "omniglot@1")
    assert (renewed.rows, renewed.more) == (first.rows, first.more)


def test_bundle_answers_rows_of_its_own_training_only(
    pack_small: PackSmall, reproduce: Reproduce, tmp_path: Path
) -> None:
    """Another recipe, split or algorithm answers none of Reptile's rows."""
    for settings in (
        ("omniglot-5way-fomaml",),
        ("omniglot-5way", "data.split=vinyals"),
        ("omniglot-5way", "outer.algorithm=fomaml"),
    ):
        refused = reproduce("--only", "o15", "--bundle", str(pack_small(*settings)))

        assert refused.exit_code == 2
        assert "Error: --bundle: expected rows of omniglot" in refused.stderr
    refused = reproduce("--only", "cifar15-fomaml", "--bundle", str(pack_small()))
    assert refused.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_refused(reproduce: Reproduce) -> None:
    for arguments, message in (
        (["--only", "o16"], "--only: expected some of o15, o15-fomaml"),
        (["--only", "o15-maml"], "--only: expected rows of omniglot, omniglot-"),
    ):
        refused = reproduce(*arguments)

        assert refused.exit_code == 2
        assert f"Error: {message}" in refused.stderr


def test_trial_needs_a_folder_of_its_own() -> None:
    refused = CliRunner().invoke(command, ["--only", "o15", "--tasks", "3"])

    assert refused.exit_code == 2
    assert "Error: --tasks: a trial must not replace the results; add --out DIR" in refused.stderr


def test_page_is_written_from_the_results(
    pack_small: PackSmall, reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "reproduction.md"
    names = ("omniglot", "best", "mini-imagenet", "cifar-fs", "not-measured")
    page.write_text("".join(f"<!-- {name}: x -->\nold\n<!-- end of {name} -->\n" for name in names))
    monkeypatch.setattr(reproduction, "DOCS", tmp_path)
    reproduce("--only", "o15", "--bundle", str(pack_small()))
    done = reproduce("--page")

    assert done.exit_code == 0, done.output
    assert "adapting" not in done.stderr
    assert done.stderr == "reproduction.md: tables are written\n"
    assert "| o15 | Reptile | 3 | 100,000 | **" in page.read_text()
    assert "old" not in page.read_text()


@pytest.mark.parametrize(
    "target",
    [target for target in targets().values() if not target.row.startswith(("best", "cifar"))],
    ids=lambda target: target.name,
)
def test_target_asks_for_what_its_recipe_reproduces(target: Target, manifest: Manifest) -> None:
    recipe = load_image_recipe(target.recipe)
    table, serving = recipe.evaluation.table, recipe.serving
    inner = replace(
        manifest.inner_loop,
        step_count=serving.step_count,
        batch_size_by_way=serving.batch_size_by_way,
        preconditioner=serving.preconditioner,
        preconditioners=serving.preconditioners,
    )
    provenance = replace(manifest.provenance, algorithm=recipe.outer.algorithm)
    adaptation = adaptation_for(target, replace(manifest, inner_loop=inner, provenance=provenance))
    way, shot = target.tasks.way, target.tasks.shot

    assert (way, target.algorithm) == (recipe.evaluation.way, recipe.outer.algorithm)
    assert shot in table.shots
    assert adaptation["step_count"] == table.step_count
    for published in target.published.values():
        assert f"{100 * published:.4g}".rstrip("0") in recipe.reproduces.replace("0 %", " %")
    if shot == recipe.evaluation.shot:
        assert adaptation["batch_size"] == recipe.evaluation.batch_size
    if target.algorithm != "reptile":
        assert adaptation["batch_size"] == way * shot
