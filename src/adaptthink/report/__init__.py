"""Folders in, one self-contained HTML page and its Markdown twin out. It reads files and knows nothing else.

A training run's folder gives the report of the training; evaluation folders, one or several, a page that shows their
models in the same pictures; the folder of `adaptthink reproduce` the paper's claims. Left out on purpose: anything that
a page would have to load, so that it can be mailed, printed and opened years later. What can be downloaded from it lies
inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from adaptthink.errors import UserError
from adaptthink.report import drawing, figures, tables
from adaptthink.report.drawing import Key, Picture, picture
from adaptthink.report.evaluation import EvaluationFolder, differences, is_evaluation, read_evaluations, thin
from adaptthink.report.folder import Transcript, all_levels
from adaptthink.report.formats import FILTERS
from adaptthink.report.reproduction import (
    delta_plots,
    is_reproduction,
    ratio_plot,
    read_reproduction,
    sampling_plots,
)
from adaptthink.report.run import read_run

MEASURES = (figures.ACCURACY, figures.TOKENS, figures.NO_THINK)
DIAL_ROWS = 20  # of a dial's table
TRANSCRIPT_CHARACTERS = 300_000  # of all transcripts together: they leave the pictures their share of the page

CARD_HEADING = "## Evaluation"  # of what a report writes into a model card; all that follows it is replaced


@dataclass(frozen=True, slots=True)
class Page:
    """What a report consists of, before it is written."""

    template: str  # of the page; the twin's has the same name
    values: dict[str, Any]  # for the templates: both twins show the same
    pictures: tuple[Picture, ...]


def write_report(*folders: Path, output: Path | None = None, figure_folder: Path | None = None) -> tuple[Path, Path]:
    """Write `report.html` and `report.md`, and return their paths.

    They go into the folder itself, or into `output`, which several folders need. `figure_folder` gets each figure as
    SVG, PNG and CSV. The card of a training run's `model` gets the result too. Raises UserError for folders that cannot
    be shown, and for files that are missing or malformed.
    """
    if output is None and len(folders) > 1:
        raise UserError("one report of several folders belongs to none of them: give its place with --output")
    page = make_page(folders)
    place = output or folders[0]
    place.mkdir(parents=True, exist_ok=True)
    html, markdown = place / "report.html", place / "report.md"
    targets = {html: f"{page.template}.html.j2", markdown: f"{page.template}.md.j2"}
    templates = open_templates()
    card = folders[0] / "model" / "README.md"
    if page.template == "run" and card.is_file() and page.values["trained"].evaluated:
        result = templates.get_template("card.md.j2").render(page.values | {"heading": CARD_HEADING})
        text = card.read_text(encoding="utf-8").partition(f"\n{CARD_HEADING}\n")[0].rstrip()
        card.write_text(f"{text}\n\n{result}", encoding="utf-8")
    for path, template in targets.items():
        text = templates.get_template(template).render(page.values)
        path.write_text(text, encoding="utf-8", errors="replace")  # half a character is what a cut text may end in
    if figure_folder is not None:
        write_figures(page.pictures, figure_folder)
    return html, markdown


def make_page(folders: Sequence[Path]) -> Page:
    """The page that fits what the folders hold."""
    if len(folders) > 1 or is_evaluation(folders[0]):
        return evaluation_page(folders)
    return reproduction_page(folders[0]) if is_reproduction(folders[0]) else run_page(folders[0])


def write_figures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write each picture as SVG, PNG and CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in pictures:
        for ending, _, content in one.files:
            (folder / f"{one.plot.name}.{ending}").write_bytes(content)


def open_templates() -> Environment:
    """The templates with what they may call."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {"light": drawing.LIGHT, "dark": drawing.DARK, "level_name": figures.level_name}
    return environment


def run_page(path: Path) -> Page:
    """The report of a training run."""
    folder = read_run(path)
    rows = tables.run_rows(folder)
    panels = figures.training_panels(folder.steps)
    bars = [picture(figures.bars(folder.levels, rows[:3], measure)) for measure in MEASURES]
    scatter = picture(figures.scatter(rows, [(rows[0], rows[1])], [], []))
    curves = [picture(figures.training_plot(panel)) for panel in panels]
    headline = rows[2].change
    if headline.points is None and headline.percent is None:  # no levels: then what the summary states
        headline = tables.Change(folder.stated_points, percent=folder.stated_percent)
    values = {
        "folder": folder,
        "rows": rows,
        "trained": rows[2],
        "headline": headline,
        "panels": panels,
        "bars": bars,
        "scatter": scatter,
        "curves": curves,
        "levels": folder.levels,
        **sizes(rows, folder.transcripts),
    }
    return Page("run", values, (*bars, scatter, *curves))


def reproduction_page(path: Path) -> Page:
    """The report of the paper's experiments."""
    found = read_reproduction(path)
    pilot = [found.chain[name] for name in ("original_think", "original_no_think")]
    trained = [found.chain[name] for name in ("original_think", "original_no_think", "main")]
    story = [found.story[name] for name in ("original_think", "original_no_think", "main")]
    pictures = {
        "pilot": [picture(figures.bars(found.levels, pilot, one, "pilot-")) for one in MEASURES[:2]],
        "main": [picture(figures.bars(found.levels, trained, one)) for one in MEASURES],
        "deltas": [picture(plot) for plot in delta_plots(found.deltas)],
        "sampling": [picture(plot) for plot in sampling_plots(found.curves)],
        "ratios": [picture(ratio_plot(found.curves))],
        "story": [picture(figures.bars(found.levels, story, one, "story-")) for one in MEASURES],
    }
    rows = {"chain": list(found.chain.values()), "story": list(found.story.values())}
    values = {"found": found, "pictures": pictures, "rows": rows, "levels": found.levels, **sizes(rows["chain"], [])}
    return Page("reproduction", values, tuple(one for group in pictures.values() for one in group))


def evaluation_page(paths: Sequence[Path]) -> Page:
    """The report of evaluations: models in the same pictures."""
    if len(paths) > drawing.NUM_MODELS:
        most = drawing.NUM_MODELS
        raise UserError(f"{len(paths)} models are too many to tell apart in a picture; give {most} or fewer")
    folders = read_evaluations(paths)
    several = len(folders) > 1
    levels = all_levels(by_level for folder in folders for by_level in folder.scores.values())
    colours = [f"model-{index}" if several else None for index in range(len(folders))]
    by_model = [tables.evaluation_rows(folder, levels, colour) for folder, colour in zip(folders, colours, strict=True)]
    rows = [row for model in by_model for row in model]
    keys = [Key(folder.name, colour or "adapt") for folder, colour in zip(folders, colours, strict=True)]
    # several models stand beside each other as they choose; of a model that was only forced, what there is
    shown = [model[0] for model in by_model if model] if several else rows
    bars = [picture(figures.bars(levels, shown, measure)) for measure in MEASURES]
    modes = [Key(mode, "ink", mark, hollow=mode != "auto") for mode, mark in tables.MODE_MARKS.items()]
    lots = [
        (forced["think"], forced["no_think"])
        for model in by_model
        if len(forced := {row.mode: row for row in model if row.forced}) == 2
    ]
    dials = [
        figures.DialCurve(folder.name, key.colour, thin(folder.dial, figures.MAX_POINTS))
        for folder, key in zip(folders, keys, strict=True)
        if folder.dial
    ]
    scatter = picture(figures.scatter(rows, lots, dials, [*keys, *modes] if several else []))
    bins = [
        figures.Bins(key, folder.reliability) for folder, key in zip(folders, keys, strict=True) if folder.reliability
    ]
    reliability = picture(figures.reliability(bins)) if bins else None
    values = {
        "folders": folders,
        "rows": rows,
        "headline": shown[0] if shown else None,
        "differences": differences(folders),
        "settings": all_settings(folders),
        "bars": bars,
        "scatter": scatter,
        "reliability": reliability,
        "levels": levels,
        "several": several,
        "dial_table": partial(thin, count=DIAL_ROWS),
        **sizes(rows, [item for folder in folders for item in folder.transcripts]),
    }
    return Page("evaluation", values, (scatter, *bars, *([reliability] if reliability else [])))


def all_settings(folders: Sequence[EvaluationFolder]) -> list[tuple[str, list[Any]]]:
    """Each setting that any folder has, with its value in every folder."""
    names = dict.fromkeys(name for folder in folders for name in (*folder.setting, *folder.config))
    found = [(name, [folder.setting.get(name, folder.config.get(name)) for folder in folders]) for name in names]
    return [(name, values) for name, values in found if any(value is not None for value in values)]


def sizes(rows: Sequence[tables.Row], transcripts: Sequence[Transcript]) -> dict[str, Any]:
    """How much there is of everything, which says how it is written."""
    scores = [score for row in rows for score in row.scores]
    counts = sorted({round(score.n) for score in scores if score.n})
    return {
        "sizes": "–".join(str(size) for size in counts[:: max(len(counts) - 1, 1)]),
        # short answers need a decimal and long ones none, but a column must align
        "token_digits": int(max((score.mean_tokens or 0 for score in scores), default=0) < 1000),
        "text_limit": min(8000, TRANSCRIPT_CHARACTERS // max(3 * len(transcripts), 1)),
    }
