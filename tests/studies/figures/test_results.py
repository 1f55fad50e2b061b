"""What is kept of the figures, against their scripts."""

from __future__ import annotations

import shlex
from importlib import import_module

import pytest
from click.testing import CliRunner

from kshot.trainer.recipe.recipe import recipe_digest
from studies.common.results import read_result, result_path
from studies.figures import command
from studies.figures.figure import Figure, RunSettings, plan

NAMES = ("best", "figure3", "figure4", "preconditioners", "sine")


@pytest.mark.parametrize("name", NAMES)
def test_kept_command_trains_the_kept_recipes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = read_result(result_path("figures", name))
    figure: Figure = import_module(f"studies.figures.{name}").FIGURE
    asked: list[RunSettings] = []
    monkeypatch.setattr(command, "_run", lambda _figure, settings, _resume: asked.append(settings))

    python, script, *words = shlex.split(result.provenance.command)
    done = CliRunner().invoke(command.figure_command(figure), [*words, "--device", "cpu"])

    assert (python, script, done.exit_code) == ("python", f"studies/figures/{name}.py", 0)
    planned = plan(figure, asked[0])
    digests = {arm.name: recipe_digest(jobs[0].recipe) for arm, jobs in planned}
    assert digests == {row["name"]: row["recipe_digest"] for row in result.rows}
    for key in ("scale", "step_scale"):
        assert getattr(asked[0], key) == result.settings[key]
    assert list(asked[0].overrides) == result.settings["overrides"]
    assert asked[0].seed_count == len(result.provenance.seeds)
    task_count = asked[0].task_count or (
        figure.task_count if figure.part else 600
    )  # waves: the recipe's
    assert {row["task_count"] for row in result.rows} == {task_count}
    texts = {claim.text for claim in figure.claims}
    assert {ordering["text"] for ordering in result.more["orderings"]} <= texts
