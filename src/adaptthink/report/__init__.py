"""A run folder in, one self-contained HTML page and its Markdown twin out. It reads files and knows nothing else.

Left out on purpose: anything that the page would have to load, so that it can be mailed, printed and opened years
later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adaptthink.report import figures, tables
from adaptthink.report.folder import RunFolder, read_folder
from adaptthink.report.formats import FILTERS

BARS = {"accuracy": "Accuracy, %", "mean_tokens": "Mean tokens", "no_think_share": "Answered without thinking, %"}
TRANSCRIPT_CHARACTERS = 300_000  # of all transcripts together: the page stays below a megabyte


def write_report(run: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into a run folder and return their paths; and the card of its `model`.

    Raises UserError if `summary.json` is missing, or if a file of the folder is malformed.
    """
    folder = read_folder(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    values = contents(folder)
    html, markdown = run / "report.html", run / "report.md"
    targets = {html: "report.html.j2", markdown: "report.md.j2"}
    if (run / "model").is_dir():
        targets[run / "model" / "README.md"] = "card.md.j2"
    for path, template in targets.items():
        text = environment.get_template(template).render(values)
        path.write_text(text, encoding="utf-8", errors="replace")  # half a character is what a cut text may end in
    return html, markdown


def contents(folder: RunFolder) -> dict[str, Any]:
    """Return what the templates show; both twins get the same values."""
    rows = tables.headline_rows(folder)
    panels = figures.training_panels(folder.steps)
    trained = rows[2]
    headline = trained.change
    if headline.points is None and headline.percent is None:  # no levels: then what the summary states
        headline = tables.Change(folder.stated_points, None, folder.stated_percent)
    scores = [score for row in rows for score in row.scores]
    sizes = sorted({round(score.n) for score in scores if score.n})
    return {
        "folder": folder,
        "rows": rows,
        "trained": trained,
        "headline": headline,
        "panels": panels,
        "curves": [Markup(figures.draw_panel(panel)) for panel in panels],
        "bars": [(title, Markup(figures.draw_bars(folder.levels, rows[:3], key))) for key, title in BARS.items()],
        "scatter": Markup(figures.draw_scatter(rows)),
        "num_level_colours": figures.NUM_LEVEL_COLOURS,
        "sizes": "–".join(str(size) for size in sizes[:: max(len(sizes) - 1, 1)]),
        # short answers need a decimal and long ones none, but a column must align
        "token_digits": int(max((score.mean_tokens or 0 for score in scores), default=0) < 1000),
        "text_limit": min(8000, TRANSCRIPT_CHARACTERS // max(3 * len(folder.transcripts), 1)),
        "level_name": figures.level_name,
        "wilson": tables.wilson,
    }
