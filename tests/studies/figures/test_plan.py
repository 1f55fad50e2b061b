from __future__ import annotations

from collections.abc import Callable

from studies.figures.figure3 import FIGURE as FIGURE3
from studies.figures.figure4 import FIGURE as FIGURE4
from studies.figures.plan import RunSettings, plan

Settings = Callable[..., RunSettings]


def test_scales_seeds_and_settings_reach_every_arm(settings: Settings) -> None:
    planned = plan(FIGURE3, settings(seed_count=2, step_scale=2.0, scale=0.01))

    assert [(arm.name, [job.recipe.outer.seed for job in jobs]) for arm, jobs in planned] == [
        (name, [0, 1]) for name in ("start", "g1", "g2")
    ]
    for recipe in (job.recipe for _, jobs in planned for job in jobs):
        assert recipe.outer.meta_iterations == 400
        assert recipe.outer.meta_step_size == 0.5
        assert recipe.evaluation.interval == 400
        assert recipe.network.arguments["filters"] == 4


def test_equal_arms_share_a_training(settings: Settings) -> None:
    planned = plan(FIGURE4, settings(arms=("steps-reptile-4", "batch-reptile", "outer-reptile")))

    folders = {arm.name: jobs[0].folder for arm, jobs in planned}
    assert folders["batch-reptile-25"] == folders["steps-reptile-4"]
    assert folders["outer-reptile-0-25"] == folders["batch-reptile-100"]
    assert len(set(folders.values())) == len(folders) - 2
    alone = plan(FIGURE4, settings(arms=("batch-reptile-25",)))
    assert alone == [item for item in planned if item[0].name in ("start", "batch-reptile-25")]
