"""Figures drawn once and written three ways: inline for the page, SVG and PNG for papers; their numbers as CSV.

The inline SVG takes its colours and font from the page, so one drawing serves light and dark. Matplotlib knows no CSS
variables: it draws in placeholder colours, one for each name, and `draw_inline` turns them into `var(--name)`. What
goes into papers is drawn by the same function in the light colours, with the title and the keys that the page writes
around its own figure.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

NUM_LEVEL_COLOURS = 11  # from easy to hard
NUM_MODELS = 8  # whose colours can be distinguished
Paint = Mapping[str, str]  # name of a colour -> what matplotlib paints with


def make_palette(page: str, named: Mapping[str, str], models: str, easy: str, hard: str) -> dict[str, str]:
    """All colours of a page, by name."""
    levels = {f"level-{i}": mix_colours(easy, hard, i / (NUM_LEVEL_COLOURS - 1)) for i in range(NUM_LEVEL_COLOURS)}
    return {"page": page, **named, **{f"model-{i}": colour for i, colour in enumerate(models.split())}, **levels}


def mix_colours(one: str, other: str, share: float) -> str:
    """A colour `share` of the way from one to the other."""
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


LIGHT = make_palette(
    "#ffffff",
    {
        "ink": "#1c1e21", "muted": "#62676d", "rule": "#dcdfe3", "soft": "#f5f6f7",
        "think": "#1b6fb3", "no-think": "#d0660b", "adapt": "#0c8a66", "correct": "#0a7657", "wrong": "#a8324a",
    },
    "#5a4fcf #0c8a66 #c2410c #0f7fa8 #b02a77 #7a6a00 #57606a #8a4b2a", "#ee9a52", "#4d2303",
)  # fmt: skip
DARK = make_palette(
    "#15171a",
    {
        "ink": "#e3e5e8", "muted": "#9aa1a9", "rule": "#363b41", "soft": "#1d2024",
        "think": "#3f8fd6", "no-think": "#d97f2c", "adapt": "#27a67d", "correct": "#35b98d", "wrong": "#f08a9d",
    },
    "#9a90ff #27a67d #f07a45 #3fb1dd #e36aae #c2ae2e #a3adb8 #c98a66", "#ffdcb8", "#a9550f",
)  # fmt: skip
PLACEHOLDERS = {name: f"#0101{index + 1:02x}" for index, name in enumerate(LIGHT)}

PANEL_SIZE = (320, 196)  # points: about the width of a phone, where one point shows as one CSS pixel
LEFT, RIGHT, BOTTOM, TOP = 46, 10, 37, 12  # margins in points, the same everywhere: neighbours line up
LINE, LETTER = 15, 6.2  # height of a line and width of a letter of the title and the keys of a paper's figure
DPI = 300
NUM_PNG_COLOURS = 128


@dataclass(frozen=True, slots=True)
class Key:
    """What a colour, or a mark, of a figure means. `mark` is matplotlib's; none for a colour alone."""

    name: str
    colour: str
    mark: str = ""
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and its numbers. `rows` holds what `draw` draws, in the same units; None where there is nothing."""

    name: str  # of its files
    title: str
    unit: str
    keys: tuple[Key, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    draw: Callable[[Axes, Paint], None]
    size: tuple[int, int] = PANEL_SIZE  # width and height in points, without title and keys


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot, drawn."""

    plot: Plot
    inline: str  # for the page
    csv: bytes
    svg: bytes  # for papers
    png: bytes

    @property
    def files(self) -> tuple[tuple[str, str, bytes], ...]:
        """Ending, media type and content of each file."""
        return ("csv", "text/csv", self.csv), ("svg", "image/svg+xml", self.svg), ("png", "image/png", self.png)

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the PNG, from its header."""
        return int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big")


def draw_picture(plot: Plot) -> Picture:
    """Draw a plot in all its forms."""
    return Picture(
        plot,
        draw_inline(plot),
        write_csv(plot),
        draw_for_paper(plot, "svg"),
        reduce_colours(draw_for_paper(plot, "png")),
    )


def write_csv(plot: Plot) -> bytes:
    """The numbers of a plot: one row for each value drawn, nothing written for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(plot.columns)
    writer.writerows(plot.rows)
    return text.getvalue().encode(errors="replace")


def draw_inline(plot: Plot) -> str:
    """Return the figure as an SVG element for the page: ids of its own, no fixed size, the page's font and colours."""
    text = io.StringIO()
    with mpl.rc_context(make_style(PLACEHOLDERS)):
        figure, axes = open_figure(plot.size)
        plot.draw(axes, PLACEHOLDERS)
        figure.savefig(text, format="svg", transparent=True)
    head, _, body = text.getvalue().partition("</metadata>")
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{plot.name}-", body)
    for colour, placeholder in PLACEHOLDERS.items():
        body = body.replace(placeholder, f"var(--{colour})")
    view_box = re.findall(r'viewBox="[^"]*"', head)[0]
    label = plot.title + (f", {plot.unit}" if plot.unit else "")
    return f'<svg role="img" aria-label="{label}" {view_box}>' + re.sub(r"\n\s*", "\n", body)


def draw_for_paper(plot: Plot, ending: str) -> bytes:
    """Return the figure in the light colours with title and keys, as "svg" with outlined letters or "png"."""
    content = io.BytesIO()
    with mpl.rc_context(make_style(LIGHT) | {"svg.fonttype": "path"}):
        per_row = count_keys_per_row(plot)
        num_rows = -(-len(plot.keys) // per_row)
        head = LINE * (1 + num_rows)
        figure, axes = open_figure(plot.size, head)
        plot.draw(axes, LIGHT)
        height = plot.size[1] + head
        title = plot.title + (f", {plot.unit}" if plot.unit else "")
        figure.text(8 / plot.size[0], 1 - 6 / height, title, va="top", weight="bold", color=LIGHT["ink"])
        for index, key in enumerate(plot.keys):
            row, column = divmod(index, per_row)
            left, middle = 8 + column * (plot.size[0] - 16) / per_row, height - 12 - LINE * (row + 1)
            mark = {"marker": key.mark or "s", "markerfacecolor": "none" if key.hollow else LIGHT[key.colour]}
            x, y = (left + 4) / plot.size[0], middle / height
            style: dict[str, Any] = {"color": LIGHT[key.colour], "markersize": 6.5, "markeredgewidth": 1.4, **mark}
            figure.add_artist(Line2D([x], [y], linestyle="", **style))
            figure.text((left + 12) / plot.size[0], y, key.name, va="center_baseline", color=LIGHT["ink"])
        options: dict[str, Any] = {"metadata": {"Date": None}} if ending == "svg" else {}
        figure.savefig(content, format=ending, dpi=DPI, facecolor=LIGHT["page"], **options)
    return content.getvalue()


def reduce_colours(png: bytes) -> bytes:
    """Return the image with a palette: a third of the size, and no channel of a pixel off by more than a few in 255."""
    content = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(NUM_PNG_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(content, "png", dpi=(DPI, DPI))
    return content.getvalue()


def count_keys_per_row(plot: Plot) -> int:
    """How many keys fit beside each other above a paper's figure."""
    widest = max((LETTER * len(key.name) + 24 for key in plot.keys), default=1)
    return int(max(1, min(len(plot.keys), (plot.size[0] - 16) // widest)))


def make_style(paint: Paint) -> dict[Any, Any]:
    """Matplotlib's settings."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "adaptthink",  # the same folder gives the same bytes
        "font.sans-serif": ["DejaVu Sans"],  # measures the labels; it is wide, so the page's own font will fit
        "font.size": 10.5,
        "text.parse_math": False,  # a level's name may hold a dollar sign
        "axes.edgecolor": paint["muted"],
        "axes.labelcolor": paint["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": paint["rule"],
        "xtick.color": paint["muted"],
        "xtick.labelcolor": paint["ink"],
        "ytick.labelcolor": paint["ink"],
        "ytick.major.size": 0,
        "lines.linewidth": 1.6,
    }


def open_figure(size: tuple[int, int], head: int = 0) -> tuple[Figure, Axes]:
    """Return an empty drawing of `size` points, and `head` points of space above it."""
    width, height = size[0], size[1] + head
    figure = Figure(figsize=(width / 72, height / 72))
    inside = ((width - LEFT - RIGHT) / width, (size[1] - BOTTOM - TOP) / height)
    axes = figure.add_axes((LEFT / width, BOTTOM / height, *inside))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def mark_empty(axes: Axes, paint: Paint) -> None:
    """Write that there are no data, and drop the scales, which would mean nothing."""
    axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=paint["muted"])
    axes.set(xticks=[], yticks=[])
