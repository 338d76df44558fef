"""What `adaptthink compare` does, and the tables at the end of `adaptthink evaluate`: scores and mode choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptthink.cli.console import console, show_text_table
from adaptthink.cli.layout import TextTable
from adaptthink.cli.tables import make_scores_table, make_speed_table, make_verdicts_table, write_markdown
from adaptthink.errors import UserError
from adaptthink.evaluation.compare import Compared, Comparison, check_alike, compare, read_rows
from adaptthink.evaluation.formats import DASH, write_deltas, write_estimate, write_number
from adaptthink.evaluation.levels import write_level
from adaptthink.evaluation.mode_choice import ModeChoice
from adaptthink.evaluation.scores import Change, Evaluation, Scores
from adaptthink.evaluation.statistics import Difference
from adaptthink.reproduction.paper import RESULTS, Cell
from adaptthink.reproduction.paper import SETS as PAPER_SETS
from adaptthink.storage.records import to_json


def compare_job(
    names: Sequence[str], *, forced: bool, markdown: Path | None, paper: str | None = None
) -> dict[str, Any]:
    """Compare rows with the first of them, print the tables, and return everything."""
    rows = read_rows(names)
    if not forced:
        check_alike(rows)
    comparison = compare(rows)
    for difference in comparison.differences:
        console.print(f"forced, although {difference}", markup=False)
    tables = make_comparison_tables(comparison)
    if paper:
        tables.insert(1, make_paper_table(comparison, paper))
    for table in tables:
        show_text_table(table)
    if markdown:
        write_markdown(markdown, tables)
        console.print(f"tables in {markdown}", markup=False, soft_wrap=True)
    result: dict[str, Any] = to_json(comparison)
    return result


def make_comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The paper's table, the same with intervals, pass@k, and which of the differences are distinguishable."""
    base, *others = comparison.rows
    counts = ", ".join(f"{write_level(name)}: {count}" for name, count in comparison.sets.items())
    avg = ", ".join(f"avg@{write_samples(row)} of {row.name}" for row in comparison.rows)
    forced = f"; forced, although {'; '.join(comparison.differences)}" if comparison.differences else ""
    unknown = "".join(
        f"; {count} responses of {name} could not be graded and count nowhere"
        for name, count in comparison.unknown.items()
    )
    paper = TextTable(
        "accuracy, % / mean tokens / no_think, %",
        ("", *map(write_level, comparison.sets), "ΔAcc", "ΔLength"),
        tuple(
            (row.name, *(write_paper_cell(row, name) for name in comparison.sets), *write_deltas(row.mean_change))
            for row in comparison.rows
        ),
        note=f"ΔAcc and ΔLength: means over the sets, against {base.name}{forced}{unknown}",
    )
    scores = make_scores_table(
        "with 95% intervals",
        {row.name: row.sets for row in comparison.rows},
        note=f"problems in {counts}; accuracy is {avg}",
    )
    verdicts = {
        row.name: sum((Counter(one.verdicts) for one in row.sets.values()), Counter()) for row in comparison.rows
    }
    tables = [paper, scores, make_verdicts_table(verdicts)]
    if speed := make_speed_table({row.name: row.speed for row in comparison.rows}):
        tables.append(speed)
    ks = [2**power for power in range(1, min(row.samples[0] for row in comparison.rows).bit_length())]
    if ks:
        passes = tuple(
            (row.name, write_level(name), *(write_estimate(pass_at[k], 100) for k in ks))
            for row in comparison.rows
            for name, pass_at in row.pass_at.items()
        )
        tables.append(TextTable("pass@k, %", ("", "", *(f"pass@{k}" for k in ks)), passes, grouped=True))
    tables.append(make_difference_table(f"accuracy against {base.name}, points", others, lambda one: one.accuracy))
    tables.append(make_difference_table(f"mean length against {base.name}, %", others, lambda one: one.tokens))
    return tables


def make_paper_table(comparison: Comparison, size: str) -> TextTable:
    """The paper's rows for a size of model, below ours on the same sets; changes are against each first row.

    Raises UserError if no set is one of the paper's.
    """
    shared = [name for name in PAPER_SETS if name in comparison.sets]
    if not shared:
        raise UserError(
            f"--paper: the paper has {', '.join(PAPER_SETS)}, these evaluations {', '.join(comparison.sets)}; evaluate "
            "several of its sets together, such as --problems gsm8k,math500"
        )
    places = [PAPER_SETS.index(name) for name in shared]
    ours = {row.name: [read_numbers(row.sets[name]) for name in shared] for row in comparison.rows}
    theirs = {f"paper: {name}": [by_set[place] for place in places] for name, by_set in RESULTS[size].items()}
    lines = [
        (name, *map(write_numbers, cells), *write_mean_changes(cells, next(iter(group.values()))))
        for group in (ours, theirs)
        for name, cells in group.items()
    ]
    title = f"beside the paper's {size.upper()} (arXiv 2505.13417, tables 1 and 2)"
    return TextTable(
        title, ("", *shared, "ΔAcc", "ΔLength"), tuple(lines), note="accuracy, % / mean tokens / no_think, %"
    )


def read_numbers(one: Scores) -> Cell:
    """Return a row's scores on one set as the paper has them."""
    return 100 * one.accuracy, one.mean_tokens, 100 * one.no_think_share


def write_numbers(cell: Cell) -> str:
    """Write accuracy, tokens and the share of no_think; the last is a dash where it is not known."""
    accuracy, tokens, no_think = cell
    share = DASH if no_think is None else write_number(no_think, 0)
    return f"{write_number(accuracy)} / {write_number(tokens, 0)} / {share}"


def write_mean_changes(cells: Sequence[Cell], base: Sequence[Cell]) -> tuple[str, str]:
    """Return ΔAcc in points and ΔLength, means over the sets; dashes for the base itself."""
    if cells is base:
        return DASH, DASH
    pairs = list(zip(cells, base, strict=True))
    accuracy = fmean(one[0] - other[0] for one, other in pairs)
    length = fmean(one[1] / other[1] - 1 for one, other in pairs)
    return write_number(accuracy, signed=True), write_number(100 * length, 1, "%", signed=True)


def write_samples(row: Compared) -> str:
    """The samples of a problem: 4, or 3-4 where they differ."""
    fewest, most = row.samples
    return str(most) if fewest == most else f"{fewest}-{most}"


def write_paper_cell(row: Compared, name: str) -> str:
    """A row on one set, as the paper's tables have it."""
    return write_numbers(read_numbers(row.sets[name]))


def make_difference_table(
    title: str, rows: Sequence[Compared], select: Callable[[Change], Difference | None]
) -> TextTable:
    """One kind of difference to the base: by set, and as mean over the sets where there are several."""
    lines = []
    for row in rows:
        changes = {write_level(name): one for name, one in row.changes.items()}
        if row.mean_change and len(changes) > 1:
            changes["mean"] = row.mean_change
        lines += [(row.name, name, *write_difference(select(one))) for name, one in changes.items()]
    note = (
        "p: adjusted for the number of lines (Holm), means counted apart from the others; detectable: the difference "
        "that such data would show four times out of five"
    )
    headings = ("", "", "difference", "p", "detectable", "verdict")
    return TextTable(title, headings, tuple(lines), grouped=True, note=note)


def write_difference(difference: Difference | None) -> tuple[str, ...]:
    """A difference of shares or a relative change, in points or percent, with what is claimed of it."""
    if difference is None:
        return (DASH,) * 4
    p = difference.p_value
    return (
        write_estimate(difference.interval, 100, signed=True),
        "<0.001" if p < 0.001 else f"{p:.3f}",
        write_number(100 * difference.smallest_detectable),
        difference.verdict,
    )


# ---- the end of an evaluation ---------------------------------------------------------------------------------------


def show_scores(evaluations: Mapping[str, Evaluation]) -> None:
    """Print the scores by level and over all, one group of lines per evaluation."""
    rows = {name: evaluation.levels | {"overall": evaluation.overall} for name, evaluation in evaluations.items()}
    show_text_table(make_scores_table("scores, with 95% intervals", rows))
    show_text_table(make_verdicts_table({name: one.overall.verdicts for name, one in evaluations.items()}))
    if speed := make_speed_table({name: one.speed for name, one in evaluations.items()}):
        show_text_table(speed)


def show_mode_choice(choice: ModeChoice) -> None:
    """Print how well a model chooses its mode."""
    show_text_table(make_mode_choice_table(choice))
    for note in choice.notes:
        console.print(f"not known: {note}", markup=False)


def make_mode_choice_table(choice: ModeChoice) -> TextTable:
    """Return the table of how well a model chooses."""
    rows: list[tuple[str, str]] = []
    if choice.against_think:
        accuracy, tokens = choice.against_think.accuracy, choice.against_think.tokens
        rows.append(("auto against forced think, points", write_claim(accuracy)))
        if tokens:
            rows.append(("  its length, %", write_claim(tokens)))
    if choice.better_mode:
        better = choice.better_mode
        rows.append(("chose the better mode, %", write_estimate(better.hybrid_accuracy, 100)))
        if better.regret:
            lost = write_estimate(better.regret.interval, 100, signed=True)
            rows.append(("lost against the better mode, points", lost))
            rows.append(("  naively, which is too high", write_number(100 * better.naive_regret, signed=True)))
    if choice.no_think_by_pass_rate:
        rates = choice.no_think_by_pass_rate
        rows.append(("no_think, %, by pass rate of", rates.reference))
        rows += [
            (f"  pass rate {name}", f"{write_estimate(share, 100)}, {share.num_problems} problems")
            for name, share in rates.bins.items()
        ]
        if rates.unknown:
            rows.append(("  without a pass rate", f"{rates.unknown} problems"))
    if choice.calibration:
        table = choice.calibration
        rows.append(
            ("calibration error of P(no_think)", f"{table.error:.3f}, at random {table.error_if_calibrated:.3f}")
        )
    rows += list_first_tokens(choice)
    if choice.chosen_accuracy:
        chosen = choice.chosen_accuracy
        for name, share in (("think", chosen.think), ("no_think", chosen.no_think)):
            if share:
                rows.append((f"accuracy, %, {name}", f"{write_estimate(share, 100)}, {chosen.label}"))
    for requested, one in choice.implicit_thinking.items():
        rows.append((f"implicit thinking, {requested}, %", write_estimate(one.share, 100)))
        rows.append(("  by keywords alone", write_estimate(one.by_keywords, 100)))
    return TextTable(f"mode choice, delta {choice.delta:g}", ("", ""), tuple(rows))


def list_first_tokens(choice: ModeChoice) -> Iterator[tuple[str, str]]:
    """Yield what is known of responses that begin with neither mode's token."""
    if choice.mass:
        mass = choice.mass
        yield ("P(either mode's token), mean and least", f"{mass.mean:.3f}, {mass.least:.3f}")
        rest = "think too" if mass.others_think else f"leak: {write_estimate(mass.leaking, 100)} % of the problems"
        yield ("  other first tokens", rest)
    if choice.beside_starts:
        beside = choice.beside_starts
        yield ("auto began beside both starts, %", write_estimate(beside.share, 100))
        if beside.accuracy:
            yield ("  accuracy, %, of these", write_estimate(beside.accuracy, 100))
            yield ("  their mean tokens", write_number(beside.mean_tokens))


def write_claim(difference: Difference) -> str:
    """A difference of shares or a relative change, in points or percent, with its verdict."""
    return f"{write_estimate(difference.interval, 100, signed=True)}, {difference.verdict}"
