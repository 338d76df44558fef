"""What a job shows in the terminal: progress bars, training steps, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table

from adaptthink.callbacks import Callback, make_counter
from adaptthink.callbacks import Progress as Report
from adaptthink.cli.layout import TextTable, lay_out, stack
from adaptthink.cli.watchdog import note_progress
from adaptthink.errors import escape_controls, redact
from adaptthink.timing import WITHIN
from adaptthink.training.rows import is_probed

if TYPE_CHECKING:
    from adaptthink.api import Profile
    from adaptthink.engines.fleet import Server
    from adaptthink.evaluation.store import Sample
    from adaptthink.grading.lines import Tally
    from adaptthink.modes import Check
    from adaptthink.problems import Problem
    from adaptthink.problems.checks import Check as DataCheck

Price = Callable[["Sample"], float | None]  # of one sample, in the user's currency; None: unknown

STEP_COLUMNS = {  # of the line of a step, with width and decimals
    "reward_think": "6.2f", "reward_no_think": "9.2f", "mean_tokens_think": "6.0f", "mean_tokens_no_think": "9.0f",
    "truncated_share_think": "5.2f", "probe_no_think_logprob": "7.2f", "probe_mode_mass": "5.2f",
}  # fmt: skip
LINE_SECONDS = 60.0  # at most between two lines of progress in a log


class EscapingConsole(Console):
    """A console that writes control characters within texts as source code does: a model's text moves no cursor."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is written."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_controls(text), style, control)


console = EscapingConsole(highlight=False)
console.soft_wrap = not console.is_terminal  # what is piped or stored keeps its lines whole


@contextmanager
def count_progress(label: str) -> Iterator[Callable[[int], None]]:
    """Show how many are done where the total is not known; yields a function that adds to it."""
    terminal = Terminal()
    try:
        yield make_counter(terminal.on_progress, label, None)
    finally:
        terminal.close_bar()


class Bar:
    """A progress bar with the time left, tokens per second and what was spent.

    The phases within the steps of a training share one, which leaves nothing behind.
    """

    def __init__(self, progress: Report) -> None:
        self.step = progress.step
        text = TextColumn("{task.description}")
        times = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        columns: tuple[ProgressColumn, ...] = (TextColumn("{task.completed:.0f}"), text)
        if self.step is not None:
            columns = (text, BarColumn(bar_width=12), *times)
        elif progress.total is not None:
            console.print(progress.phase, markup=False)
            columns = (BarColumn(), *times)
        rate = TextColumn("{task.fields[rate]}")
        self.shown = Progress(*columns, rate, console=console, transient=self.step is not None)
        self.task = self.shown.add_task(escape(progress.phase), total=progress.total, rate="")
        self.pace = Pace(progress)
        self.shown.start()

    def continues(self, progress: Report) -> bool:
        """Return whether the bar also shows this progress: of the same phase, or of another within the steps."""
        return progress.phase == self.pace.phase or None not in (self.step, progress.step)

    def update(self, progress: Report) -> None:
        """Show how far the phase has come."""
        if progress.phase != self.pace.phase:
            self.pace = Pace(progress)
            self.shown.reset(self.task, total=progress.total, description=escape(progress.phase), rate="")
        self.shown.update(self.task, completed=progress.completed, rate=self.pace.write_rate(progress))

    def close(self) -> None:
        """Stop the display; the bar of a phase stays."""
        self.shown.stop()


class Pace:
    """How fast a phase goes; what is reported at its very beginning, without a token, was found done."""

    def __init__(self, progress: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self.phase, self.clock = progress.phase, clock
        self.started, self.found = clock(), progress.completed

    def observe(self, progress: Report) -> None:
        """Take how far the phase has come."""
        if not progress.tokens and self.clock() - self.started < 1:
            self.found = progress.completed

    def write_rate(self, progress: Report) -> str:
        """Return tokens per second and what was spent, as far as known."""
        seconds = max(self.clock() - self.started, 1e-3)
        rate = f"{progress.tokens / seconds:,.0f} tokens/s" if progress.tokens else ""
        return rate + (f", {progress.cost:.2f} spent" if progress.cost else "")

    def write_line(self, progress: Report) -> str:
        """Return one line for a log: 120 of 960 (12%), 812 tokens/s, 0:01:00 so far, 0:07:00 left."""
        seconds, done = self.clock() - self.started, progress.completed - self.found
        parts = [f"{progress.completed:,} {self.phase}"]
        if progress.total is not None:
            share = progress.completed / progress.total if progress.total else 1.0
            parts = [f"{progress.completed:,} of {progress.total:,} ({share:.0%})"]
        parts += [rate] if (rate := self.write_rate(progress)) else []
        parts.append(f"{write_clock(seconds)} so far")
        if progress.total is not None and done and progress.completed < progress.total:
            parts.append(f"{write_clock(seconds / done * (progress.total - progress.completed))} left")
        return ", ".join(parts)


def write_clock(seconds: float) -> str:
    """Write seconds as 0:07:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Lines:
    """Progress in a log: the name of each phase, then a line at least every `LINE_SECONDS`, also while nothing ends.

    `print_due`, which a thread calls now and then, prints the line that is due. Phases within the steps of a training
    have that line only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.lock = clock, Lock()
        self.progress: Report | None = None
        self.pace: Pace | None = None
        self.printed = clock()
        self.ended: Event | None = None

    def update(self, progress: Report) -> None:
        """Take how far a phase has come."""
        with self.lock:
            if self.pace is None or self.pace.phase != progress.phase:
                self.begin(progress)
            assert self.pace is not None
            self.pace.observe(progress)
            self.progress = progress
            if progress.completed == progress.total and progress.step is None:
                self.print_line()
                self.progress = None
        self.print_due()

    def begin(self, progress: Report) -> None:
        """Begin another phase; where phases follow each other quickly, the lines stay a minute apart."""
        self.pace = Pace(progress, self.clock)
        if progress.step is None:
            self.printed = self.clock()
            if progress.total is not None:
                console.print(progress.phase, markup=False)
        if self.ended is None:
            self.ended = Event()
            Thread(target=self.keep_printing, args=(self.ended,), daemon=True, name="adaptthink-progress").start()

    def keep_printing(self, ended: Event) -> None:
        """Print lines as they become due, until the end."""
        while not ended.wait(LINE_SECONDS / 12):
            self.print_due()

    def print_due(self) -> None:
        """Print a line if the last one is long enough ago."""
        with self.lock:
            if self.progress is not None and self.clock() - self.printed >= LINE_SECONDS:
                self.print_line()

    def print_line(self) -> None:
        """Print how far the phase has come."""
        assert self.progress is not None
        assert self.pace is not None
        self.printed = self.clock()
        name = "" if self.progress.step is None else f"{self.progress.phase}: "
        console.print(f"  {name}{self.pace.write_line(self.progress)}", markup=False)

    def close(self) -> None:
        """End the phase, and the thread."""
        with self.lock:
            self.progress = self.pace = None
        if self.ended:
            self.ended.set()
            self.ended = None


def show_text_table(table: TextTable) -> None:
    """Print a table, no wider than the terminal as far as its words allow; where columns do not fit, as a list."""
    print_line(table.title, bold=True)
    lines = list(lay_out(table, console.width))
    if any(table.headings) and max(cell_len(line) for line, bold in lines if not bold) > console.width:
        lines = list(lay_out(stack(table), console.width))
    for line, bold in lines:
        print_line(line, bold=bold)
    if table.note:
        console.print(table.note, markup=False)
    console.print()


def print_line(line: str, *, bold: bool) -> None:
    """Print one line as it is."""
    console.print(line, style="bold" if bold else None, markup=False, emoji=False, soft_wrap=True)


def show_servers(servers: Sequence[Server]) -> None:
    """Print what each server did, if there are any."""
    if not servers:
        return
    rows = (
        (
            redact(server.url),
            f"{server.responses:,}",
            f"{server.tokens:,}",
            f"{server.faults:,}",
            f"{server.unhealthy_seconds:,.0f}",
        )
        for server in servers
    )
    show_text_table(TextTable("servers", ("", "responses", "tokens", "failed calls", "unhealthy, s"), tuple(rows)))


class Terminal(Callback):
    """Shows a job: a bar for each phase, messages, and a line for each training step with a probe."""

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps
        self.seconds: list[float] = []
        self.lines = 0
        self.bar: Bar | None = None
        self.log = Lines()

    def on_message(self, message: str) -> None:
        """Print a message."""
        note_progress()
        self.close_bar()
        console.print(message, markup=False, soft_wrap=True)

    def on_progress(self, progress: Report) -> None:
        """Show how far a phase has come: a bar until it is complete, or lines where there is no terminal."""
        note_progress()
        if not console.is_terminal:
            self.log.update(progress)
            return
        if self.bar is None or not self.bar.continues(progress):
            self.close_bar()
            self.bar = Bar(progress)
        self.bar.update(progress)
        if progress.completed == progress.total and progress.step is None:
            self.close_bar()

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Leave the terminal as it was, also after a failure."""
        self.close_bar()

    def close_bar(self) -> None:
        """End the bar that is shown, or the lines, if there are any."""
        self.log.close()
        if self.bar:
            self.bar.close()
            self.bar = None

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        """Print the line of one step after which the held-out problems were measured."""
        note_progress()
        self.seconds.append(metrics.get("rollout_seconds", 0.0) + metrics.get("update_seconds", 0.0))
        if not is_probed(metrics):
            return
        shares = list_level_shares(metrics)
        if self.lines % 20 == 0:
            console.print(make_step_heading(self.steps, shares), style="bold", soft_wrap=True)
        self.lines += 1
        left = int(sum(self.seconds) / len(self.seconds) * (self.steps - metrics["step"]))
        console.print(
            f"{write_step(metrics['step'], self.steps)}"
            f"{''.join(_cell(metrics.get(key), form) for key, form in STEP_COLUMNS.items())}"
            f"{''.join(f'{100 * share:4.0f}' for share in shares.values())}"
            f"{left // 60:>3}:{left % 60:02}",
            soft_wrap=True,
        )


def list_level_shares(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return P(no_think) by level, as far as it fits on the line of a step; else its mean."""
    by_level: dict[str, float] = metrics["probe_no_think_by_level"]
    fits = len(by_level) <= 5 and all(len(level) <= 3 for level in by_level)
    return by_level if fits else {"all": metrics["probe_no_think_share"]}


def write_step(step: int | str, steps: int) -> str:
    """Return a step and how many there are."""
    return f"{step}/{steps}".rjust(max(4, 2 * len(str(steps)) + 1))


def make_step_heading(steps: int, levels: Iterable[str]) -> str:
    """Return the two lines above the figures of steps: 80 columns with five levels and up to 999 steps."""
    width = len(write_step("", steps))
    return (
        f"{'':{width}}{'reward':>15}{'tokens':>15}{'':5}  P(no_think) held-out, % by level\n"
        f"{'step':>{width}}{'think':>6}{'no_think':>9}{'think':>6}{'no_think':>9}{'cut':>5}{'log':>7}{'mass':>5}"
        f"{''.join(f'{level:>4}' for level in levels)}{'left':>6}"
    )


def _cell(value: float | None, form: str) -> str:
    width, _, _ = form.partition(".")
    return "-".rjust(int(width)) if value is None else format(value, form)


def show_profile(profile: Profile) -> None:
    """Print where the time of a training went."""
    phases, machine = profile.phases, profile.machine
    rows = (
        (
            f"  {phase.name}" if phase.name in WITHIN else phase.name,
            f"{phase.seconds:,.1f}",
            f"{phase.share:.1%}",
            "" if phase.tokens is None else f"{phase.tokens:,}",
            "" if phase.tokens_per_second is None else f"{phase.tokens_per_second:,.0f}",
            "" if phase.roofline_share is None else f"{phase.roofline_share:.0%}",
        )
        for phase in phases
    )
    headings = ("phase", "seconds", "share", "tokens", "tokens/s", "of roofline")
    show_text_table(TextTable("time by phase", headings, tuple(rows)))
    console.print(
        f"roofline: products at {machine.flops_per_second / 1e9:,.0f} GFLOP/s and memory at "
        f"{machine.bytes_per_second / 1e9:,.0f} GB/s, as measured here before the training",
        soft_wrap=True,
    )


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
        "reference answers that cannot be parsed": check.num_unparsable,
        "rows that cannot be used": check.num_bad,
    }
    rows |= {f"level {level}": count for level, count in check.levels.items()}
    rows |= {f"kind {kind}": count for kind, count in check.kinds.items()}
    for name, count in rows.items():
        table.add_row(escape(name), f"{count:,}")
    console.print(table)
    for heading, lines, total in (
        ("rows that cannot be used", check.bad_rows, check.num_bad),
        ("reference answers that cannot be parsed", check.unparsable, check.num_unparsable),
    ):
        if lines:
            console.print(f"{heading} ({len(lines)} of {total:,})", style="bold")
            console.print("\n".join(f"  {line}" for line in lines), markup=False, soft_wrap=True)
    if check.leaks:
        show_leaks(check)


def show_leaks(check: DataCheck) -> None:
    """Print which problems of a set are contained in other sets, with the nearest pairs."""
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
            console.print(f"  {shorten(example.prompt)}\n  {shorten(example.other)}", markup=False, soft_wrap=True)


def shorten(text: str, length: int = 160) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def show_problem(problem: Problem, rendered: str) -> None:
    """Print a problem as the model sees it, whole."""
    level = "none" if problem.level is None else problem.level
    heading = f"{problem.id}  {problem.source}  level {level}  kind {problem.kind}"
    console.print(escape(heading), style="bold", soft_wrap=True)
    console.print(rendered, markup=False, soft_wrap=True, emoji=False)
    console.print("reference answer: ", style="bold", end="")
    console.print(problem.answer, markup=False, soft_wrap=True, emoji=False)
