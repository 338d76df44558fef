"""What a job shows in the terminal: progress bars, training steps, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from adaptthink.callbacks import Callback
from adaptthink.timing import WITHIN, Phase

if TYPE_CHECKING:
    from adaptthink.dial.curve import Choice, Dial, HeldOut, ModeDecision
    from adaptthink.engines.fleet import Server
    from adaptthink.evaluation.run import Evaluation
    from adaptthink.evaluation.store import Sample
    from adaptthink.grading.lines import Tally
    from adaptthink.modes import Check
    from adaptthink.planning.roofline import Machine
    from adaptthink.problems import Problem
    from adaptthink.problems.checks import Check as DataCheck
    from adaptthink.reproduction.claims import Claim

Price = Callable[["Sample"], float | None]  # of one sample, in the user's currency; None: unknown

console = Console(highlight=False)

HEADING = (
    "             reward       tokens   cut  held-out: P(no_think)\n"
    "     step think   no_ think    no_ think    log  mass  by level, %          left"
)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time left and tokens per second; yields a function that takes what is done and its tokens."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    num_tokens, started = 0, time.monotonic()
    shown = (*columns, TextColumn("{task.fields[rate]}"))
    with Progress(*shown, console=console, transient=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(count: int, tokens: int) -> None:
            nonlocal num_tokens
            num_tokens += tokens
            rate = f"{num_tokens / max(time.monotonic() - started, 1e-3):,.0f} tokens/s" if num_tokens else ""
            progress.update(task, advance=count, rate=rate)

        yield advance


@contextmanager
def sample_bar(label: str, total: int, price: Price = lambda sample: None) -> Iterator[Callable[[Sample | None], None]]:
    """Show a bar with the time left, tokens per second and what was spent; takes each sample, None for one found."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    num_tokens, spent, started = 0, 0.0, time.monotonic()
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=console) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(sample: Sample | None) -> None:
            nonlocal num_tokens, spent
            if sample is None:
                progress.update(task, advance=1)
                return
            num_tokens += sample.tokens
            spent += price(sample) or 0.0
            rate = f"{num_tokens / max(time.monotonic() - started, 1e-3):,.0f} tokens/s"
            progress.update(task, advance=1, rate=f"{rate}, {spent:.2f} spent" if spent else rate)

        yield advance


@contextmanager
def counter(label: str) -> Iterator[Callable[[int], None]]:
    """Show how many are done where the total is not known; yields a function that adds to it."""
    columns = (TextColumn("{task.completed:.0f}"), TextColumn(label), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda count: progress.advance(task, count)


def show_servers(servers: Sequence[Server]) -> None:
    """Print what each server did, if there are any."""
    if not servers:
        return
    table = Table(box=SIMPLE_HEAD)
    table.add_column("server", overflow="fold")
    for name in ("responses", "tokens", "failed calls", "set aside, s"):
        table.add_column(name, justify="right")
    for server in servers:
        figures = (
            f"{server.responses:,}",
            f"{server.tokens:,}",
            f"{server.faults:,}",
            f"{server.unhealthy_seconds:,.0f}",
        )
        table.add_row(escape(server.url), *figures)
    console.print(table)


class StepPrinter(Callback):
    """Prints messages and training steps: a heading now and then, the figures that matter, and the time left."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: list[float] = []
        self.lines = 0

    def on_message(self, message: str) -> None:
        """Print a message."""
        console.print(message, markup=False, soft_wrap=True)

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        """Print the line of one step on which the held-out problems were looked at."""
        self.seconds.append(metrics["rollout_seconds"] + metrics["update_seconds"])
        if "probe_no_think_logprob" not in metrics:
            return
        if self.lines % 20 == 0:
            console.print(HEADING, style="bold", soft_wrap=True)
        self.lines += 1
        left = int(sum(self.seconds) / len(self.seconds) * (self.steps - metrics["step"]))
        by_level = " ".join(f"{100 * share:3.0f}" for share in metrics["probe_no_think_by_level"].values())
        console.print(
            f"{metrics['step']:>4}/{self.steps:<4}"
            f"{_cell(metrics['reward_think'], '5.2f')}{_cell(metrics['reward_no_think'], '6.2f')} "
            f"{_cell(metrics['mean_tokens_think'], '6.0f')}{_cell(metrics['mean_tokens_no_think'], '6.0f')}"
            f"{_cell(metrics['truncated_share_think'], '6.2f')} "
            f"{metrics['probe_no_think_logprob']:7.2f}{metrics['probe_mode_mass']:6.2f} {by_level} "
            f"{left // 60:>4}:{left % 60:02}",
            soft_wrap=True,
        )


def _cell(value: float | None, form: str) -> str:
    width, _, _ = form.partition(".")
    return "-".rjust(int(width)) if value is None else format(value, form)


def show_table(evaluations: Mapping[str, Evaluation]) -> None:
    """Print the scores by level, one block of lines per evaluation, with 95% intervals; narrow for any terminal."""
    levels = list(next(iter(evaluations.values())).levels)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=13)
    for heading in (*levels, "overall"):
        table.add_column(f"level {heading}" if heading.isdigit() else heading, justify="right", no_wrap=True)
    for name, evaluation in evaluations.items():
        scores = [*(evaluation.levels[level] for level in levels), evaluation.overall]
        table.add_row(f"[bold]{name}")
        table.add_row("  accuracy %", *(f"{100 * score.accuracy:.1f}" for score in scores))
        table.add_row("", *(_ends(score.accuracy_interval, 100) for score in scores), style="dim")
        table.add_row("  mean tokens", *(f"{score.mean_tokens:.1f}" for score in scores))
        table.add_row("", *(_ends(score.tokens_interval, 1) for score in scores), style="dim")
        table.add_row("  no_think %", *(f"{100 * score.no_think_share:.1f}" for score in scores))
        table.add_row("", *(_ends(score.no_think_interval, 100) for score in scores), style="dim")
        table.add_row("  truncated %", *(f"{100 * score.truncated_share:.1f}" for score in scores))
    console.print(table)


def _ends(interval: tuple[float, float] | None, scale: float) -> str:
    return "" if interval is None else f"{scale * interval[0]:.0f}-{scale * interval[1]:.0f}"


def show_dial(dial: Dial) -> None:
    """Print a calibrated dial: about a dozen points of its curve, then what was chosen and how it was checked."""
    chosen = {choice.no_think_probability for choice in dial.choices}
    last = len(dial.curve) - 1
    indices = {round(last * step / 10) for step in range(11)}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("threshold", "no_think %", "accuracy %", "tokens", "Δ points", "Δ tokens %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, point in enumerate(dial.curve):
        if index not in indices and point.threshold not in chosen:
            continue
        table.add_row(
            "think" if index == 0 else f"{point.threshold:g}",
            f"{100 * point.no_think_share:.1f}",
            f"{100 * point.accuracy:.1f}",
            f"{point.mean_tokens:.1f}",
            f"{100 * point.accuracy_difference:+.1f}",
            f"{100 * point.token_change:+.1f}",
            style="bold" if point.threshold in chosen else None,
        )
        table.add_row(
            "",
            _ends(point.no_think_interval, 100),
            _ends(point.accuracy_interval, 100),
            _ends(point.tokens_interval, 1),
            _range(point.accuracy_difference_interval, 1),
            _range(point.token_change_interval, 0),
            style="dim",
        )
    console.print(table)
    console.print("Δ: against always thinking; 95% intervals; bold: chosen", style="dim", soft_wrap=True)
    for choice in dial.choices:
        console.print(_chosen(choice) + (" [in use]" if choice == dial.threshold else ""), markup=False, soft_wrap=True)
        if choice.held_out:
            console.print(f"  {_checked(choice.held_out)}", markup=False, soft_wrap=True)


def _range(ends: tuple[float, float | None], digits: int) -> str:
    return f"{100 * ends[0]:+.{digits}f} to " + ("?" if ends[1] is None else f"{100 * ends[1]:+.{digits}f}")


def _limit(choice: Choice) -> str:
    if choice.tolerance is not None:
        points = f"{100 * choice.tolerance:g}"
        return f"at most {points} point{'' if points == '1' else 's'} below always thinking"
    return f"at most {choice.token_budget:g} tokens a response"


def _chosen(choice: Choice) -> str:
    if choice.certified:
        rule = f"no_think where P(no_think) >= {choice.no_think_probability:g}"
        if choice.no_think_probability > 1:
            rule = "always thinking"
        return (
            f"{_limit(choice)}: {rule}, certified with {choice.confidence:.0%} confidence "
            f"on {choice.num_problems} problems"
        )
    if choice.problems_needed is None:
        reason = "no number of problems like these would do"
    else:
        reason = f"it takes at least {choice.problems_needed:,} problems like these in all"
    return f"{_limit(choice)}: nothing certified on {choice.num_problems} problems ({reason}); always thinking"


def _checked(held_out: HeldOut) -> str:
    point = held_out.point
    accuracy = f"{100 * point.accuracy_difference:+.1f} points ({_range(point.accuracy_difference_interval, 1)})"
    tokens = f"{point.mean_tokens:.1f} tokens ({_ends(point.tokens_interval, 1)})"
    change = f"{100 * point.token_change:+.1f}% ({_range(point.token_change_interval, 0)})"
    against = held_out.against_thinking
    if against != "not distinguishable":
        against += " in accuracy"
    return (
        f"held-out {held_out.num_problems}: limit {held_out.verdict}; {accuracy}, {against}; "
        f"{tokens}, {change}; {100 * point.no_think_share:.1f}% no_think"
    )


def show_decision(prompt: str, decision: ModeDecision, threshold: float) -> None:
    """Print what the dial decides for one prompt."""
    line = f"{decision.no_think_probability:<12.6g}{decision.mode:<10}threshold {threshold:g}  {excerpt(prompt)}"
    console.print(line, markup=False, soft_wrap=True, emoji=False)


def show_profile(phases: Sequence[Phase], machine: Machine) -> None:
    """Print where the time of a training went."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    for heading in ("seconds", "share", "tokens", "tokens/s", "of the bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    for phase in phases:
        table.add_row(
            f"  {phase.name}" if phase.name in WITHIN else phase.name,
            f"{phase.seconds:,.1f}",
            f"{phase.share:.1%}",
            "" if phase.tokens is None else f"{phase.tokens:,}",
            "" if phase.tokens_per_second is None else f"{phase.tokens_per_second:,.0f}",
            "" if phase.roofline_share is None else f"{phase.roofline_share:.0%}",
        )
    console.print(table)
    console.print(
        f"bound: products at {machine.flops_per_second / 1e9:,.0f} GFLOP/s and memory at "
        f"{machine.bytes_per_second / 1e9:,.0f} GB/s, as measured here before the training",
        soft_wrap=True,
    )


def show_claims(claims: Sequence[Claim]) -> None:
    """Print each claim of the paper with its verdict and the numbers behind it."""
    for claim in claims:
        side = "above" if claim.above else "below"
        seeds = ", ".join(f"{value:+.1f}" for value in claim.by_seed)
        console.print(f"[bold]{claim.verdict:>15}[/]  {escape(claim.statement)}", soft_wrap=True)
        console.print(
            f"{'':17}here {claim.estimate:+.1f} {claim.unit} (95% {claim.low:+.1f} to {claim.high:+.1f}"
            f"{'; seeds ' + seeds if seeds else ''}), to be {side} {claim.bound:+g}: {escape(claim.measured)}",
            soft_wrap=True,
        )
        console.print(f"{'':17}paper: {escape(claim.paper)}", style="dim", soft_wrap=True)


def show_checks(title: str, checks: list[Check]) -> None:
    """Print what `adaptthink doctor` found."""
    table = Table(title=title)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row("ok" if check.ok else "NO", check.name, check.value)
    console.print(table)


def show_tally(tally: Tally) -> None:
    """Print how many answers got each verdict, and by which rules; lines that could not be used come last."""
    total = tally.verdicts.total()
    for heading, counts in (("verdict", tally.verdicts), ("decided by", tally.rules)):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(heading)
        table.add_column("answers", justify="right")
        table.add_column("%", justify="right")
        for name, count in counts.most_common():
            table.add_row(name, str(count), f"{100 * count / total:.1f}")
        console.print(table)


def show_data_check(check: DataCheck) -> None:
    """Print what `adaptthink data check` found."""
    console.print(escape(check.name), style="bold", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    rows = {
        "rows read": check.num_rows,
        "problems kept": check.num_kept,
        "repeats of an earlier prompt": check.num_repeats,
        "of these with another answer": check.num_contradictions,
        "golds that cannot be read": check.num_unparsable,
        "rows that cannot be used": check.num_bad,
    }
    rows |= {f"level {level}": count for level, count in check.levels.items()}
    rows |= {f"kind {kind}": count for kind, count in check.kinds.items()}
    for name, count in rows.items():
        table.add_row(escape(name), f"{count:,}")
    console.print(table)
    for heading, lines, total in (
        ("rows that cannot be used", check.bad_rows, check.num_bad),
        ("golds that cannot be read", check.unparsable, check.num_unparsable),
    ):
        if lines:
            console.print(f"{heading} ({len(lines)} of {total:,})", style="bold")
            console.print("\n".join(f"  {line}" for line in lines), markup=False, soft_wrap=True)
    if check.leaks:
        show_leaks(check)


def show_leaks(check: DataCheck) -> None:
    """Print which problems of a set stand in other sets, with the nearest pairs."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("leaks into", overflow="fold")
    for column in ("its prompts", "exact", "near", "given away"):
        table.add_column(column, justify="right")
    for leak in check.leaks:
        table.add_row(
            escape(leak.against),
            *(f"{n:,}" for n in (leak.num_against, leak.num_exact, leak.num_near)),
            f"{leak.num_given_away:,} ({leak.num_given_away / max(leak.num_against, 1):.1%})",
        )
    console.print(table)
    for leak in check.leaks:
        for example in leak.examples:
            console.print(escape(f"{leak.against}, {example.share:.0%} in common"), style="bold", soft_wrap=True)
            console.print(f"  {excerpt(example.prompt)}\n  {excerpt(example.other)}", markup=False, soft_wrap=True)


def excerpt(text: str, length: int = 160) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def show_problem(problem: Problem, rendered: str) -> None:
    """Print a problem as the model sees it, whole."""
    level = "none" if problem.level is None else problem.level
    heading = f"{problem.id}  {problem.source}  level {level}  kind {problem.kind}"
    console.print(escape(heading), style="bold", soft_wrap=True)
    console.print(rendered, markup=False, soft_wrap=True, emoji=False)
    console.print("gold: ", style="bold", end="")
    console.print(problem.answer, markup=False, soft_wrap=True, emoji=False)
