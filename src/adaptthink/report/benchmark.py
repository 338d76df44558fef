"""The page of `adaptthink bench`: a section of a Markdown file for each model, and its figure as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from adaptthink.benchmark.answers import LENGTH_PRICE
from adaptthink.benchmark.entries import Family
from adaptthink.benchmark.measure import ModeScores, Result, Row, SetScores
from adaptthink.benchmark.runs import OWN, SETS
from adaptthink.evaluation.formats import DASH, escape_markdown, write_estimate, write_number
from adaptthink.report.drawing import Key, Paint, Plot, draw_for_paper, reduce_colours

HEADING = "## Results on "  # and the model; what a page holds up to the next one is replaced
SIZE = (640, 420)
COLOURS = {  # of points, by family
    Family.MODE_CHOICE: "adapt", Family.LENGTH: "think", Family.OFFLINE: "no-think", Family.UNTRAINED: "muted",
    Family.ABLATION: "rule",
}  # fmt: skip
MARGIN_POINTS = 4.0  # below the least accurate entry
LABEL = 0.16, 0.028  # width and height of a label, as shares of the figure's
Cells = Iterable[Sequence[str]]


def write_page(result: Result, path: Path) -> Path:
    """Write a result into a page, in place of an older one of the same model, and its figure beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plot = plot_result(result, f"{path.stem}-{Path(result.about.model).name}")
    path.with_name(f"{plot.name}.svg").write_bytes(draw_for_paper(plot, "svg"))
    path.with_name(f"{plot.name}.png").write_bytes(reduce_colours(draw_for_paper(plot, "png")))
    before, _, rest = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(
        f"{HEADING}{result.about.model}\n"
    )
    _, found, after = rest.partition(f"\n{HEADING}")
    section = f"{HEADING}{result.about.model}\n\n{make_section(result, plot.name)}\n"
    path.write_text(f"{before.rstrip()}\n\n{section}{found}{after}".lstrip(), encoding="utf-8")
    return path


def make_section(result: Result, figure: str) -> str:
    """Return the section of one model."""
    about = result.about
    parts = [
        f"{about.date}, {about.machine}; recipes: {', '.join(about.recipes)}. The original's thoughts have "
        f"{result.scale:.1f} tokens; utility = accuracy − {LENGTH_PRICE:g} · tokens / {result.scale:.1f}, in points. "
        "All numbers are of the reporting half. Ranges in brackets are 95% intervals by problem.",
        *([f"Knob values were chosen in an earlier benchmark ({about.tuned})."] if about.tuned else []),
        "### Claims",
        *(write_claim(result, index) for index in range(len(result.claims))),
        "### Accuracy and tokens",
        f"![Accuracy against mean tokens: every dial with its 95% band, every entry as it chooses]({figure}.png)",
    ]
    for name in SETS:
        rows = [(row, row.sets[name]) for row in result.rows if name in row.sets]
        if rows:
            parts += [
                f"### As the models choose, {name} ({rows[0][1].num_problems} problems)",
                make_table(result, name),
            ]
    own = [(row, row.sets[OWN]) for row in result.rows if OWN in row.sets]
    parts += [
        "### no_think by level, %", make_levels(own),
        "### Forced modes, accuracy % / tokens", make_forced(own),
        "### Leakage and regret", make_leakage(own),
        "### Tokens sampled to train one model",
        "Every entry is charged the reference store, which all share. Only AdaptThink and the gap objective read its "
        "accuracies, and only the offline methods its responses; those sample nothing else.",
        make_spent(result.rows),
        f"### Sensitivity to the method's own knob (one seed{f', {about.tuned}' if about.tuned else ''})",
        make_knobs(result),
    ]  # fmt: skip
    return "\n\n".join(parts)


def write_table(headings: Sequence[str], rows: Cells) -> str:
    """Return a Markdown table; all but the first column are aligned to the right."""
    rule = ["---", *(["---:"] * (len(headings) - 1))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *rows))


def write_claim(result: Result, index: int) -> str:
    """Return one claim with its verdict and the numbers behind it."""
    claim = result.claims[index]
    parts = [f"* {part.verdict}: {escape_markdown(part.measured)}: {part.numbers}" for part in claim.parts]
    note = [f"* {escape_markdown(claim.note)}"] if claim.note else []
    return "\n".join([f"**{claim.statement}: {claim.verdict}.**", "", *(parts or ["* not run"]), *note])


# ---- the tables -----------------------------------------------------------------------------------------------------


def make_table(result: Result, name: str) -> str:
    """Return the main table of a set: every entry as it chooses."""
    headings = (
        "entry", "family", "knob", "seeds", "accuracy, %", "by seed", "tokens", "tokens per correct answer",
        "no_think, %", "utility", "utility less AdaptThink's", "p (Holm)", "source",
    )  # fmt: skip
    rows = []
    for row in result.rows:
        if name not in row.sets:
            continue
        auto = row.sets[name].modes["auto"]
        against = result.against.get(name, {}).get(row.name)
        seeds = [100 * one.accuracy for one in auto.by_seed.values()]
        rows.append((
            escape_markdown(row.title), row.family, write_knob(row), f"{len(seeds)}",
            write_estimate(auto.accuracy, 100), f"{min(seeds):.1f}–{max(seeds):.1f}", write_estimate(auto.tokens),
            write_estimate(auto.cost), write_number(100 * auto.no_think.estimate), write_estimate(auto.utility, 100),
            write_estimate(against.utility.interval, 100, signed=True) if against else DASH,
            f"{against.utility.p_value:.2g}" if against else DASH,
            row.source,
        ))  # fmt: skip
    return write_table(headings, rows)


def write_knob(row: Row) -> str:
    """Return the value in use, and from how many it was chosen."""
    if row.knob is None or row.value is None:
        return DASH
    return f"{row.knob} = {row.value:g} ({f'best of {row.num_tried}' if row.num_tried else 'default'})"


def make_levels(rows: Sequence[tuple[Row, SetScores]]) -> str:
    """Return the share of no_think by level."""
    levels = list(rows[0][1].modes["auto"].by_level)
    cells = [
        (
            escape_markdown(row.title),
            *(write_number(100 * scores.modes["auto"].by_level[one].no_think) for one in levels),
        )
        for row, scores in rows
    ]
    return write_table(("entry", *levels), cells)


def make_forced(rows: Sequence[tuple[Row, SetScores]]) -> str:
    """Return accuracy and tokens of every requested mode."""

    def write(mode: ModeScores | None) -> str:
        return f"{write_number(100 * mode.accuracy.estimate)} / {write_number(mode.tokens.estimate)}" if mode else DASH

    modes = ("auto", "think", "no_think")
    cells = [(escape_markdown(row.title), *(write(scores.modes.get(mode)) for mode in modes)) for row, scores in rows]
    return write_table(("entry", *modes), cells)


def make_leakage(rows: Sequence[tuple[Row, SetScores]]) -> str:
    """Return implicit thinking, the lengths of no_think answers, and the regret of the choice."""
    headings = ("entry", "no_think answers that think, %", "their tokens: 5%, median, 95%, most", "regret, points")
    cells = []
    for row, scores in rows:
        regret = list(scores.regret.values())
        leakage = scores.leakage
        if leakage or regret:
            cells.append((
                escape_markdown(row.title),
                write_estimate(leakage.share, 100) if leakage else DASH,
                ", ".join(f"{value:.0f}" for value in leakage.tokens.values()) if leakage else DASH,
                f"{100 * sum(regret) / len(regret):.1f}" if regret else DASH,
            ))  # fmt: skip
    return write_table(headings, cells)


def make_spent(rows: Sequence[Row]) -> str:
    """Return the tokens of trainings."""
    headings = ("entry", "reference", "rollouts", "model that it starts from", "in all", "tuning, once")
    cells = []
    for row in rows:
        if spent := row.spent:
            numbers = (spent.reference, spent.rollouts, spent.base, spent.reference + spent.rollouts + spent.base)
            cells.append((escape_markdown(row.title), *(f"{value:,.0f}" for value in (*numbers, spent.tuning))))
    return write_table(headings, cells)


def make_knobs(result: Result) -> str:
    """Return what each value of a knob comes to."""
    titles = {row.name: row for row in result.rows}
    cells = [
        (
            escape_markdown(titles[one.name].title),
            f"{titles[one.name].knob} = {one.value:g}",
            f"{100 * one.accuracy:.1f}",
            f"{one.tokens:.1f}",
            f"{100 * one.utility:.1f}",
            "chosen" if one.value == titles[one.name].value else "",
        )
        for one in result.knobs
    ]
    return write_table(("entry", "value", "accuracy, %", "tokens", "utility", ""), cells)


# ---- the figure -----------------------------------------------------------------------------------------------------


def plot_result(result: Result, name: str) -> Plot:
    """Accuracy against mean tokens: dials with their bands, and every entry as it chooses."""
    rows = [row for row in result.rows if OWN in row.sets]
    shown = [row for row in rows if row.family != Family.ABLATION and row.name in result.curves][:8]
    curves = [(Key(f"{row.title}: dial", f"model-{index}"), row.name) for index, row in enumerate(shown)]
    families = [Key(family, colour, "o") for family, colour in COLOURS.items()]
    numbers = [
        *((row.name, "as it chooses", row.sets[OWN].modes["auto"].tokens.estimate,
           100 * row.sets[OWN].modes["auto"].accuracy.estimate, None, None) for row in rows),
        *((entry, "dial", one.tokens, 100 * one.accuracy, 100 * one.low, 100 * one.high)
          for entry, points in result.curves.items() for one in points),
    ]  # fmt: skip
    return Plot(
        name,
        f"Accuracy and tokens, {result.about.model}",
        "%",
        (*(key for key, _ in curves), *families),
        ("entry", "kind", "tokens", "accuracy", "low", "high"),
        tuple(numbers),
        partial(draw_result, result, curves, rows),
        SIZE,
    )


def draw_result(
    result: Result, curves: Sequence[tuple[Key, str]], rows: Sequence[Row], axes: Axes, paint: Paint
) -> None:
    """Draw `plot_result`."""
    for key, name in curves:
        points = result.curves[name]
        tokens = [one.tokens for one in points]
        axes.plot(tokens, [100 * one.accuracy for one in points], color=paint[key.colour])
        ends = [100 * one.low for one in points], [100 * one.high for one in points]
        axes.fill_between(tokens, *ends, color=paint[key.colour], alpha=0.15, linewidth=0)
    labelled = []
    for row in rows:
        auto = row.sets[OWN].modes["auto"]
        place = auto.tokens.estimate, 100 * auto.accuracy.estimate
        axes.plot(*place, "o", color=paint[COLOURS[Family(row.family)]], ms=6)
        if row.family != Family.ABLATION:
            labelled.append((row.name, *place))
    # Most differences lie within a few points at the top: what a dial gives far below every entry is not shown.
    low, high = min(y for _, _, y in labelled) - MARGIN_POINTS, 100 + MARGIN_POINTS / 4
    axes.set(xlabel="mean tokens", ylabel="accuracy, %", xlim=(0, None), ylim=(low, high))
    right = axes.get_xlim()[1]
    for name, x, y, height in spread_labels(labelled, width=LABEL[0] * right, height=LABEL[1] * (high - low)):
        line = {"arrowstyle": "-", "color": paint["rule"], "linewidth": 0.8}
        place = x + 0.012 * right, height
        axes.annotate(name, (x, y), place, fontsize=7, color=paint["muted"], va="center", arrowprops=line, zorder=1)


def spread_labels(
    places: Iterable[tuple[str, float, float]], *, width: float, height: float
) -> list[tuple[str, float, float, float]]:
    """Return names and places with the height of each one's label, so that no two labels lie on each other.

    From the highest place down, a label moves below those already there that it would touch.
    """
    found: list[tuple[str, float, float, float]] = []
    for name, x, y in sorted(places, key=lambda one: (-one[2], one[1])):
        level = y
        for _, other, _, taken in sorted(found, key=lambda one: -one[3]):
            if abs(other - x) < width and abs(taken - level) < height:
                level = taken - height
        found.append((name, x, y, level))
    return found
