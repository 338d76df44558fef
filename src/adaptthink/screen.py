"""What a job shows in the terminal: progress bars, training steps, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from adaptthink.evaluate import Evaluation
from adaptthink.modes import Check

console = Console(highlight=False)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left; yields a function that advances it."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


class StepPrinter:
    """Prints training steps: a heading now and then, the figures that matter, and the time left."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: list[float] = []

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Print the line of one step on which the held-out problems were looked at."""
        self.seconds.append(metrics["rollout_seconds"] + metrics["update_seconds"])
        if "probe_no_think_logprob" not in metrics:
            return
        if (len(self.seconds) - 1) % 50 == 0:
            console.print(
                "  step       reward        tokens     cut   held-out problems: P(no_think) by level      \n"
                "          think no_think think no_think think  log P   mass                            s/step  left",
                style="bold",
            )
        mean = sum(self.seconds) / len(self.seconds)
        left = int(mean * (self.steps - metrics["step"]))
        by_level = " ".join(f"{share:.2f}" for share in metrics["probe_no_think_by_level"].values())
        console.print(
            f"{metrics['step']:>5}/{self.steps:<5}"
            f"{_cell(metrics['reward_think'], '5.2f')} {_cell(metrics['reward_no_think'], '6.2f')}  "
            f"{_cell(metrics['mean_tokens_think'], '5.0f')} {_cell(metrics['mean_tokens_no_think'], '6.0f')}  "
            f"{_cell(metrics['truncated_share_think'], '5.2f')} "
            f"{metrics['probe_no_think_logprob']:7.2f} {metrics['probe_mode_mass']:5.3f}  {by_level:<26}"
            f"{mean:6.2f} {left // 60:>3}:{left % 60:02}"
        )


def _cell(value: float | None, form: str) -> str:
    width, _, _ = form.partition(".")
    return "-".rjust(int(width)) if value is None else format(value, form)


def show_table(evaluations: dict[str, Evaluation]) -> None:
    """Print accuracy / tokens / no_think share by level, one row per evaluation."""
    levels = list(next(iter(evaluations.values())).levels)
    table = Table(title="accuracy %  /  mean tokens  /  no_think %  (truncated % where not 0)")
    table.add_column("")
    for level in [*levels, "overall"]:
        table.add_column(f"level {level}" if level.isdigit() else level, justify="right")
    for name, evaluation in evaluations.items():
        cells = [evaluation.levels[level] for level in levels] + [evaluation.overall]
        table.add_row(
            name,
            *(
                f"{100 * s.accuracy:.1f} / {s.mean_tokens:.0f} / {100 * s.no_think_share:.0f}"
                + (f" ({100 * s.truncated_share:.0f})" if s.truncated_share else "")
                for s in cells
            ),
        )
    console.print(table)


def show_checks(title: str, checks: list[Check]) -> None:
    """Print what `adaptthink doctor` found."""
    table = Table(title=title)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row("ok" if check.ok else "NO", check.name, check.value)
    console.print(table)
