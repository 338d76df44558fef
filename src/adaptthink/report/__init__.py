"""Folders in, one self-contained HTML page and its Markdown version out. It reads files and knows nothing else.

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

from adaptthink.dial.curve import Point, thin_curve
from adaptthink.dial.stored import Dial
from adaptthink.errors import UserError
from adaptthink.evaluation.formats import NO_THINK, choose_token_digits
from adaptthink.report import drawing, figures, tables
from adaptthink.report.drawing import Key, Picture, draw_picture
from adaptthink.report.evaluation import EvaluationFolder, describe_differences, is_evaluation, read_evaluations
from adaptthink.report.figures import LEVEL_CHARTS
from adaptthink.report.folder import Transcript, list_levels
from adaptthink.report.formats import FILTERS
from adaptthink.report.reproduction import (
    is_reproduction,
    make_rows,
    plot_deltas,
    plot_ratios,
    plot_sampling,
    read_reproduction,
)
from adaptthink.report.run import read_run

DIAL_ROWS = 20  # of a dial's table
TRANSCRIPT_CHARACTERS = 300_000  # of all transcripts together: they leave the pictures their share of the page

CARD_HEADING = "## Evaluation"  # of what a report writes into a model card; all that follows it is replaced


@dataclass(frozen=True, slots=True)
class Page:
    """What a report consists of, before it is written."""

    template: str  # its name, without the endings of the HTML and the Markdown version
    values: dict[str, Any]  # for the templates: both versions show the same
    pictures: tuple[Picture, ...]


def write_report(*folders: Path, output: Path | None = None, figure_folder: Path | None = None) -> tuple[Path, Path]:
    """Write `report.html` and `report.md`, and return their paths.

    They go into the folder itself, or into `output`, which several folders need. `figure_folder` gets each figure as
    SVG, PNG and CSV. The card of a training run's `model` gets the result too. Raises UserError for folders that cannot
    be shown, and for files that are missing or malformed.
    """
    if output is None and len(folders) > 1:
        raise UserError("one report of several folders belongs to none of them: give a folder for it with --output")
    page = make_page(folders)
    target = output or folders[0]
    target.mkdir(parents=True, exist_ok=True)
    html, markdown = target / "report.html", target / "report.md"
    versions = {html: f"{page.template}.html.j2", markdown: f"{page.template}.md.j2"}
    templates = open_templates()
    card = folders[0] / "model" / "README.md"
    if page.template == "run" and card.is_file() and page.values["trained"].evaluated:
        result = templates.get_template("card.md.j2").render(page.values | {"heading": CARD_HEADING})
        text = card.read_text(encoding="utf-8").partition(f"\n{CARD_HEADING}\n")[0].rstrip()
        card.write_text(f"{text}\n\n{result}", encoding="utf-8")
    for path, template in versions.items():
        text = templates.get_template(template).render(page.values)
        path.write_text(text, encoding="utf-8", errors="replace")  # half a character is what a cut text may end in
    if figure_folder is not None:
        write_figures(page.pictures, figure_folder)
    return html, markdown


def make_page(folders: Sequence[Path]) -> Page:
    """The page that fits what the folders hold."""
    if len(folders) > 1 or is_evaluation(folders[0]):
        return make_evaluation_page(folders)
    return make_reproduction_page(folders[0]) if is_reproduction(folders[0]) else make_run_page(folders[0])


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
    environment.globals |= {"light": drawing.LIGHT, "dark": drawing.DARK, "NO_THINK": NO_THINK}
    return environment


def make_run_page(path: Path) -> Page:
    """The report of a training run."""
    folder = read_run(path)
    rows = tables.make_run_rows(folder)
    panels = figures.make_training_panels(folder.steps)
    charts = LEVEL_CHARTS if folder.finished else ()
    bars = [draw_picture(figures.plot_levels(folder.levels, rows[:3], chart)) for chart in charts]
    dials = [figures.DialCurve("adaptthink", rows[2].key.colour, folder.dial, folder.threshold)] if folder.dial else []
    scatters = [draw_picture(figures.plot_accuracy_and_tokens(rows, [(rows[0], rows[1])], dials, []))] if charts else []
    curves = [draw_picture(figures.plot_training(panel)) for panel in panels] if folder.steps else []
    values = {
        "folder": folder,
        "rows": rows,
        "trained": rows[2],
        "headline": tables.make_headline(folder),
        "panels": panels,
        "bars": bars,
        "scatters": scatters,
        "curves": curves,
        "levels": folder.levels,
        **measure_content(rows, folder.transcripts),
    }
    return Page("run", values, (*scatters, *bars, *curves))


def make_reproduction_page(path: Path) -> Page:
    """The report of the paper's experiments."""
    found = read_reproduction(path)
    levels = list_levels(found.tables.chain.values())
    chain, story = make_rows(found.tables.chain, levels), make_rows(found.tables.story, levels)
    pilot = [chain[name] for name in ("original_think", "original_no_think")]

    def draw_levels(
        rows: Sequence[tables.Row], charts: Sequence[figures.LevelChart], prefix: str = ""
    ) -> list[Picture]:
        return [draw_picture(figures.plot_levels(levels, rows, chart, prefix)) for chart in charts]

    pictures = {
        "pilot": draw_levels(pilot, LEVEL_CHARTS[:2], "pilot-"),
        "main": draw_levels([*pilot, chain["main"]], LEVEL_CHARTS),
        "deltas": [draw_picture(plot) for plot in plot_deltas(found.tables.deltas)],
        "sampling": [draw_picture(plot) for plot in plot_sampling(found.tables.curves)],
        "ratios": [draw_picture(plot_ratios(found.tables.curves))],
        "story": draw_levels([story[row.mode] for row in (*pilot, chain["main"])], LEVEL_CHARTS, "story-"),
    }
    rows = {"chain": list(chain.values()), "story": list(story.values())}
    values = {"found": found, "pictures": pictures, "rows": rows, "levels": levels}
    values |= measure_content(rows["chain"], [])
    return Page("reproduction", values, tuple(one for group in pictures.values() for one in group))


def make_evaluation_page(paths: Sequence[Path]) -> Page:
    """The report of evaluations: models in the same pictures."""
    if len(paths) > drawing.NUM_MODELS:
        limit = drawing.NUM_MODELS
        raise UserError(f"{len(paths)} models are too many for one figure; give {limit} or fewer")
    folders = read_evaluations(paths)
    several = len(folders) > 1
    levels = list_levels(evaluation for folder in folders for evaluation in folder.evaluations.values())
    colours = [f"model-{index}" if several else None for index in range(len(folders))]
    by_model = [
        tables.make_evaluation_rows(folder, levels, colour) for folder, colour in zip(folders, colours, strict=True)
    ]
    rows = [row for model in by_model for row in model]
    keys = [Key(folder.name, colour or "adapt") for folder, colour in zip(folders, colours, strict=True)]
    # several models stand beside each other as they choose; of a model that was only forced, what there is
    shown = [model[0] for model in by_model if model] if several else rows
    bars = [draw_picture(figures.plot_levels(levels, shown, chart)) for chart in LEVEL_CHARTS]
    modes = [Key(mode, "ink", mark, hollow=mode != "auto") for mode, mark in tables.MODE_MARKS.items()]
    mixtures = [
        (forced["think"], forced["no_think"])
        for model in by_model
        if len(forced := {row.mode: row for row in model if row.forced}) == 2
    ]
    dials = [
        figures.DialCurve(
            folder.name,
            key.colour,
            thin_dial(folder.dial, count=figures.MAX_POINTS),
            folder.dial.threshold.no_think_probability if folder.dial.threshold.certified else None,
        )
        for folder, key in zip(folders, keys, strict=True)
        if folder.dial
    ]
    scatter = draw_picture(figures.plot_accuracy_and_tokens(rows, mixtures, dials, [*keys, *modes] if several else []))
    bins = [
        figures.Bins(key, folder.calibration.bins)
        for folder, key in zip(folders, keys, strict=True)
        if folder.calibration
    ]
    reliability = draw_picture(figures.plot_reliability(bins)) if bins else None
    values = {
        "folders": folders,
        "rows": rows,
        "headline": shown[0] if shown else None,
        "differences": describe_differences(folders),
        "settings": list_settings(folders),
        "bars": bars,
        "scatter": scatter,
        "reliability": reliability,
        "levels": levels,
        "several": several,
        "list_dial_rows": partial(thin_dial, count=DIAL_ROWS),
        **measure_content(rows, [item for folder in folders for item in folder.transcripts]),
    }
    return Page("evaluation", values, (scatter, *bars, *([reliability] if reliability else [])))


def thin_dial(dial: Dial, *, count: int) -> tuple[Point, ...]:
    """About `count` points of a dial's curve, a certified threshold among them."""
    threshold = dial.threshold.no_think_probability if dial.threshold.certified else None
    return thin_curve(dial.curve, [] if threshold is None else [threshold], count)


def list_settings(folders: Sequence[EvaluationFolder]) -> list[tuple[str, list[Any]]]:
    """Each setting that any folder has, with its value in every folder."""
    names = dict.fromkeys(name for folder in folders for name in (*folder.setting, *folder.config))
    found = [(name, [folder.setting.get(name, folder.config.get(name)) for folder in folders]) for name in names]
    return [(name, values) for name, values in found if any(value is not None for value in values)]


def measure_content(rows: Sequence[tables.Row], transcripts: Sequence[Transcript]) -> dict[str, Any]:
    """How much there is of everything, which decides how it is written."""
    scores = [score for row in rows for score in row.scores if score is not None]
    counts = sorted({score.n for score in scores})
    token_digits = choose_token_digits(scores)
    return {
        "sizes": "–".join(str(size) for size in counts[:: max(len(counts) - 1, 1)]),
        "token_digits": token_digits,
        "columns": tables.make_columns(token_digits),
        "text_limit": min(8000, TRANSCRIPT_CHARACTERS // max(3 * len(transcripts), 1)),
    }
