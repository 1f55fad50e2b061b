"""The picture in README: one task of digits and its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.demo.pictures import QUERY_COUNT, SHOTS, WAY, digits, draw_task
from kshot.client import Client

PICTURED_SEED = 4


def draw_picture(client: Client, path: Path) -> int:
    """Draw one task's examples and answers; return how many answers are right."""
    shot = max(SHOTS)
    task = draw_task(digits(), shot, PICTURED_SEED)
    adapted = client.adapt(task.support, task.labels, model="drawings", seed=PICTURED_SEED)
    answers = list(adapted.predict(task.queries).labels)
    adapted.delete()
    right = int(np.sum(np.array(answers) == np.array(task.truth)))

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    columns = figure.add_gridspec(1, 2, width_ratios=[shot, QUERY_COUNT + 1])
    left, beside = figure.add_subfigure(columns[0]), figure.add_subfigure(columns[1])
    left.suptitle(f"{shot} examples of each class")
    beside.suptitle(f"other images and their answers: {right} of {len(answers)} right")
    for axes, picture in zip(left.subplots(WAY, shot).flat, task.support, strict=True):
        axes.imshow(np.asarray(picture), cmap="gray_r", vmin=0, vmax=255)
        axes.set_axis_off()
    drawn = zip(task.queries, answers, task.truth, strict=True)
    for axes, (picture, answer, label) in zip(
        beside.subplots(WAY, QUERY_COUNT).flat, drawn, strict=True
    ):
        axes.imshow(np.asarray(picture), cmap="gray_r", vmin=0, vmax=255)
        color = "green" if answer == label else "red"
        axes.set_title(str(answer), color=color, fontsize=9, pad=2)
        axes.set_axis_off()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return right
