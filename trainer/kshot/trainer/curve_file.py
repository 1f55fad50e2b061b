"""The learning curves of a training beside its checkpoint: numbers as JSON, drawn as PNG."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kshot.bundle import write_synced
from kshot.trainer.errors import TrainingError

CURVES_FILE = "curves.json"
PLOT_FILE = "curves.png"


@dataclass
class CurveFile:
    """The points of a training so far; every new one is written, and drawn, at once."""

    folder: Path
    points: list[dict[str, float]] = field(default_factory=list)

    @staticmethod
    def open(folder: Path, meta_iteration: int) -> "CurveFile":
        """Take up the points up to ``meta_iteration``; later ones, or damaged ones, are void."""
        points: list[dict[str, float]] = []
        try:
            recorded = json.loads((folder / CURVES_FILE).read_bytes())
            points = [
                point for point in recorded["points"] if point["meta_iteration"] <= meta_iteration
            ]
        except (OSError, ValueError, KeyError, TypeError):
            points = []
        return CurveFile(folder, points)

    def add(self, meta_iteration: int, scalars: Mapping[str, float]) -> None:
        """Add a point; raises ``TrainingError`` when the disk does not take it."""
        self.points.append({"meta_iteration": meta_iteration, **scalars})
        path = self.folder / CURVES_FILE
        temporary = path.with_suffix(".partial")
        text = json.dumps({"points": self.points}, indent=1) + "\n"
        try:
            temporary.unlink(missing_ok=True)  # a killed training may have left one
            write_synced(temporary, text.encode())
            temporary.replace(path)
        except OSError as error:
            raise TrainingError(f"{path} could not be written: {error.strerror}") from error
