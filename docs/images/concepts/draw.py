"""Draw the pictures of docs/concepts.md: `python docs/images/concepts/draw.py`.

Each has a white ground of its own, so it reads on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

BLUE, ORANGE, GREEN, INK = "#0072B2", "#D55E00", "#007A57", "#222222"
STEP, WIDTH, HEIGHT, TOP = 190, 150, 64, 46


@dataclass(frozen=True)
class Box:
    """A box in a grid of columns and rows, with lines of text."""

    column: float
    row: float
    lines: Sequence[str]
    colour: str = INK

    @property
    def corner(self) -> tuple[float, float]:
        """Return the left and upper edges."""
        return 20 + self.column * STEP, TOP + self.row * 90


def drawing(title: str, boxes: Sequence[Box], arrows: Sequence[tuple[int, int]]) -> str:
    """Return an SVG of boxes and of arrows between them, from right edge to left edge."""
    width = max(box.corner[0] for box in boxes) + WIDTH + 20
    height = max(box.corner[1] for box in boxes) + HEIGHT + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="white"/>',
        f'<text x="20" y="28" font-size="15" font-weight="bold" fill="{INK}">',
        f"{escape(title)}</text>",
    ]
    for start, end in arrows:
        (left, upper), (right, lower) = boxes[start].corner, boxes[end].corner
        parts.append(
            f'<line x1="{left + WIDTH:g}" y1="{upper + HEIGHT / 2:g}" x2="{right:g}" '
            f'y2="{lower + HEIGHT / 2:g}" stroke="{INK}" stroke-width="1.5" '
            'marker-end="url(#head)"/>'
        )
    for box in boxes:
        x, y = box.corner
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="white" '
            f'stroke="{box.colour}" stroke-width="2"/>'
        )
        first = y + HEIGHT / 2 + 4 - 8 * (len(box.lines) - 1)
        parts += [
            f'<text x="{x + WIDTH / 2:g}" y="{first + 16 * number:g}" font-size="12" '
            f'text-anchor="middle" fill="{box.colour}">{escape(line)}</text>'
            for number, line in enumerate(box.lines)
        ]
    return "\n".join([*parts, "</svg>", ""])


PICTURES = {
    "task": drawing(
        "A few-shot task: 3 ways, 2 shots",
        [
            Box(0, 0, ["class “cup”", "2 examples"], BLUE),
            Box(0, 1, ["class “key”", "2 examples"], ORANGE),
            Box(0, 2, ["class “pen”", "2 examples"], GREEN),
            Box(1, 1, ["support set", "6 labelled images"]),
            Box(2, 1, ["adapted model"]),
            Box(3, 1, ["a query:", "“key”, 0.94"], ORANGE),
            Box(2, 0, ["queries", "images without label"]),
        ],
        [(0, 3), (1, 3), (2, 3), (3, 4), (4, 5), (6, 5)],
    ),
    "inner-loop": drawing(
        "The inner loop: a few gradient steps on the support set",
        [
            Box(0, 0, ["initialization θ", "meta-trained"], BLUE),
            Box(1, 0, ["step 1", "loss of a batch", "falls"]),
            Box(2, 1, ["step 2, …"]),
            Box(3, 1, ["adapted model φ", "yours alone"], GREEN),
            Box(0, 1, ["support set"], ORANGE),
        ],
        [(0, 1), (1, 2), (2, 3), (4, 1), (4, 2)],
    ),
    "batch-norm": drawing(
        "Batch-norm modes: whose statistics a query is normalized by",
        [
            Box(0, 0, ["support set"], BLUE),
            Box(0, 1, ["support set", "and this query"], ORANGE),
            Box(0, 2, ["all queries", "of the request"], GREEN),
            Box(1, 0, ["support", "(default)"], BLUE),
            Box(1, 1, ["support_and_query"], ORANGE),
            Box(1, 2, ["transductive"], GREEN),
            Box(2, 0.5, ["independent of", "other queries"]),
            Box(2, 2, ["depends on", "other queries"]),
        ],
        [(0, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 7)],
    ),
    "bundle": drawing(
        "From bundle to adapted model",
        [
            Box(0, 0, ["bundle", "initialization", "and manifest"], BLUE),
            Box(0, 1, ["support set"], ORANGE),
            Box(1, 0.5, ["engine", "inner loop"]),
            Box(2, 0.5, ["adapted model", "kept in the store"], GREEN),
            Box(3, 0, ["predictions"]),
            Box(3, 1, ["export", "one ONNX file"]),
        ],
        [(0, 2), (1, 2), (2, 3), (3, 4), (3, 5)],
    ),
    "encoder": drawing(
        "Encoder, tail and head in photos",
        [
            Box(0, 0, ["image"]),
            Box(1, 0, ["encoder", "frozen"], BLUE),
            Box(2, 0, ["features"]),
            Box(3, 0, ["head", "fitted to the support"], GREEN),
            Box(2, 1, ["tail: last layers", "adapt if that helps"], ORANGE),
            Box(4, 0.5, ["weighted answer"]),
        ],
        [(0, 1), (1, 2), (2, 3), (1, 4), (3, 5), (4, 5)],
    ),
}


def main() -> None:
    """Write each picture beside this file."""
    for name, text in PICTURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(text)


if __name__ == "__main__":
    main()
