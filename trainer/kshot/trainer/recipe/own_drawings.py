"""The settings that make the recipe `drawings` one for a folder of one's own."""

import json

RECIPE = "drawings"
META_ITERATIONS = 600
# With so many pictures of a class augmentation does not help: without it 91.2 and 96.5 % on
# held-out classes of 40 glyphs (1 and 5 examples); with it 88.6 to 89.5 and 95.5 to 95.8 % in two
# trainings.
ENOUGH_PICTURES = 10
WAY, TABLE_WAY, SHOT, SHOTS = 60, 5, 4, (1, 5)
ROTATIONS = 4


def own_drawings(
    folder: str, split: str, name: str, train: tuple[int, int], test: tuple[int, int]
) -> tuple[str, ...]:
    """Return overrides of the recipe for a folder in the data folder and a bundle's name.

    `train` and `test` are the number of classes of a part and the fewest pictures of one of them,
    at least two. Every class is four, turned by right angles, as the recipe says. Pictures are
    changed at random where a class has few of them.
    """
    classes, pictures = train
    shot, way = min(SHOT, pictures), min(TABLE_WAY, test[0])
    shots = [shot for shot in SHOTS if shot < test[1]]
    values = {
        "data.dataset": "folder",
        "data.folder": folder,
        "data.split": split,
        "task.way": min(WAY, ROTATIONS * classes),
        "task.shot": shot,
        "task.tail_shot": shot - 1,
        "outer.meta_iterations": META_ITERATIONS,
        "evaluation.way": way,
        "evaluation.step_count": 1,
        "evaluation.task_count": 50,
        "evaluation.interval": 200,
        "evaluation.checkpoint_interval": 50,
        "evaluation.table.way": way,
        "evaluation.table.shots": shots,
        "evaluation.table.query_count": 1,
        "evaluation.table.task_count": 100,
        "serving.name": name,
    }
    changes = () if pictures < ENOUGH_PICTURES else ("augmentation=",)
    settings = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return (*settings, *changes)
