"""The learning curves of a training: a JSON file and a PNG beside the checkpoint."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kshot.local import write_file
from kshot.trainer.errors import TrainingError, writing
from kshot.trainer.output.curve_plot import ABSCISSA, CurvePoint, draw_curves
from kshot.trainer.output.plotting import check_matplotlib, figure_of, write_png

CURVES_FILE = "curves.json"
PLOT_FILE = "curves.png"


@dataclass
class CurveFile:
    """The points of a training so far; each new point is written and drawn at once."""

    folder: Path
    title: str
    drawn: bool
    points: list[CurvePoint] = field(default_factory=list)

    @staticmethod
    def open(
        folder: Path, title: str, meta_iteration: int, say: Callable[[str], None]
    ) -> "CurveFile":
        """Read the points up to `meta_iteration`; later points and damaged files are dropped.

        Without matplotlib, `say` hears of it and only the numbers are written.
        """
        drawn = True
        try:
            check_matplotlib()
        except TrainingError as error:
            drawn = False
            say(f"{error}; the learning curves are written as {CURVES_FILE} alone")
        return CurveFile(folder, title, drawn, _read(folder / CURVES_FILE, meta_iteration))

    def add(self, meta_iteration: int, scalars: Mapping[str, float]) -> None:
        """Add a point; raises `TrainingError` when it cannot be written.

        A number that is not finite becomes null: JSON has no other word for it.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self.points.append({ABSCISSA: meta_iteration, **finite})
        path = self.folder / CURVES_FILE
        text = json.dumps({"points": self.points}, indent=1) + "\n"
        with writing(path):
            write_file(path, text.encode())
        if self.drawn:
            figure = figure_of(lambda figure: draw_curves(figure, self.title, self.points))
            write_png(self.folder / PLOT_FILE, figure)


def _read(path: Path, meta_iteration: int) -> list[CurvePoint]:
    try:
        points = json.loads(path.read_bytes())["points"]
        if not all(_valid(value) for point in points for value in point.values()):
            return []
        return [point for point in points if point[ABSCISSA] <= meta_iteration]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _valid(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
