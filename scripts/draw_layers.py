#!/usr/bin/env python3
"""Draw the package's layers and what imports what: docs/assets/layers.svg.

Usage: .venv/bin/python scripts/draw_layers.py

The layers are those of tests/test_architecture.py, the lines are read from the imports of the modules.
tests/test_generated_pages.py fails where the picture is not what this draws.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "assets" / "layers.svg"
WIDTH, LEFT, ROW, TOP, BOX_HEIGHT = 860, 40, 62, 16, 26
CHARACTER, PADDING = 8.2, 22  # of a letter in a box, and of the box beside its text
SWEEPS = 8  # over the rows, to put boxes near those that they are joined to
TRUNK = "to "  # of the name of a point that lines pass through
STYLE = """\
text { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: 13px; text-anchor: middle; fill: #1f2933 }
.number { fill: #7b8794; text-anchor: end }
rect { fill: #eef2f7; stroke: #9aa5b1 }
path { fill: none; stroke: #3e7cb1; stroke-opacity: .55; stroke-width: 1.3 }
@media (prefers-color-scheme: dark) {
text { fill: #e4e7eb } .number { fill: #9aa5b1 } rect { fill: #27303b; stroke: #616e7c } path { stroke: #7fb3dd }
}"""

Edges = Mapping[str, frozenset[str]]


def read_layers() -> tuple[Sequence[Iterable[str]], dict[str, set[str]]]:
    """Return the layers from the bottom to the top, and what each part of the package imports of the others."""
    spec = importlib.util.spec_from_file_location("test_architecture", ROOT / "tests" / "test_architecture.py")
    assert spec
    assert spec.loader
    held = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(held)
    imports: dict[str, set[str]] = {part: set() for parts in held.LAYERS for part in parts if part}
    for module, source, is_package in held.sources():
        if own := held.subpackage_of(module):
            names = held.imported_modules(module, is_package, source)
            imports[own] |= {held.subpackage_of(name) for name in names} - {own, ""}
    return [sorted(filter(None, parts)) for parts in held.LAYERS], imports


def leave_out_implied(imports: Mapping[str, set[str]]) -> Edges:
    """Return the imports without those that follow from others: a part's own imports of what it imports imports."""

    def reach(part: str) -> set[str]:
        return imports[part].union(*(reach(other) for other in imports[part]))

    return {part: frozenset(others.difference(*(reach(other) for other in others))) for part, others in imports.items()}


def add_trunks(layers: Sequence[Iterable[str]], edges: Edges) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Return the rows from the top, and the lines from each row to the next.

    A line that passes a row goes through a point there, one for all lines to the same part, named after it.
    """
    rows = [list(parts) for parts in reversed(layers)]
    row_of = {part: number for number, row in enumerate(rows) for part in row}
    lines = []
    for other in sorted(edges):
        above = sorted(part for part, others in edges.items() if other in others)
        passed = range(min((row_of[part] for part in above), default=row_of[other]) + 1, row_of[other])
        points = {number: f"{TRUNK}{other} {number}" for number in passed} | {row_of[other]: other}
        for number in passed:
            rows[number].append(points[number])
            lines.append((points[number], points[number + 1]))
        lines += [(part, points.get(row_of[part] + 1, other)) for part in above]
    return rows, lines


def find_width(node: str) -> float:
    """Return the width of a part's box, or of a point that lines pass through."""
    return 0 if node.startswith(TRUNK) else len(node) * CHARACTER + PADDING


def find_centres(rows: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return where the middle of each box and point is; a row fills the width of the picture."""
    centres = {}
    for row in rows:
        widths = [find_width(node) for node in row]
        gap = (WIDTH - LEFT - sum(widths)) / (len(row) + 1)
        x = LEFT + gap
        for node, width in zip(row, widths, strict=True):
            centres[node] = x + width / 2
            x += width + gap
    return centres


def order_rows(rows: Sequence[Sequence[str]], lines: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the rows with each box and point near those that it is joined to."""
    joined: dict[str, set[str]] = {node: set() for row in rows for node in row}
    for upper, lower in lines:
        joined[upper].add(lower)
        joined[lower].add(upper)
    ordered = [sorted(row) for row in rows]
    for _ in range(SWEEPS):
        for number, row in enumerate(ordered):
            centres = find_centres(ordered)
            wanted = {node: fmean([centres[other] for other in joined[node]] or [centres[node]]) for node in row}
            ordered[number] = sorted(row, key=lambda node: (round(wanted[node], 3), node))
    return ordered


def draw(layers: Sequence[Iterable[str]], edges: Edges) -> str:
    """Return the picture."""
    rows, lines = add_trunks(layers, edges)
    rows = order_rows(rows, lines)
    centres = find_centres(rows)
    tops = {node: ROW * number + TOP for number, row in enumerate(rows) for node in row}
    height = ROW * len(rows)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img">',
        "<title>The layers of the package, and which part imports which</title>",
        f"<style>\n{STYLE}\n</style>",
    ]
    for upper, lower in lines:
        start, end, left, right = tops[upper] + BOX_HEIGHT, tops[lower], centres[upper], centres[lower]
        bend = (end - start) / 2
        through = f"M{left:.1f} {tops[upper]}V{start}" if upper.startswith(TRUNK) else f"M{left:.1f} {start}"
        drawn.append(
            f'<path d="{through}C{left:.1f} {start + bend:g} {right:.1f} {end - bend:g} {right:.1f} {end}"/>'
            if end > start
            else f'<path d="M{left:.1f} {end + BOX_HEIGHT / 2:g}H{right:.1f}"/>'
        )
    for number, row in enumerate(rows):
        middle = ROW * number + TOP + BOX_HEIGHT / 2 + 5
        drawn.append(f'<text class="number" x="{LEFT - 12}" y="{middle:g}">{len(rows) - number}</text>')
        for part in (node for node in row if not node.startswith(TRUNK)):
            width = find_width(part)
            drawn.append(
                f'<rect x="{centres[part] - width / 2:.1f}" y="{tops[part]}" width="{width:.1f}" '
                f'height="{BOX_HEIGHT}" rx="5"/><text x="{centres[part]:.1f}" y="{middle:g}">{part}</text>'
            )
    return "\n".join([*drawn, "</svg>", ""])


def make_picture() -> str:
    """Return the picture of the package as it is."""
    layers, imports = read_layers()
    return draw(layers, leave_out_implied(imports))


if __name__ == "__main__":
    PICTURE.write_text(make_picture(), encoding="utf-8")
