"""`adaptthink watch`: a training as its folder shows it, while another process writes that."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from adaptthink.callbacks import Progress
from adaptthink.cli.console import Terminal
from adaptthink.storage.jsonl import read_object
from adaptthink.storage.locks import is_held
from adaptthink.storage.runs import CONFIG, read_metrics
from adaptthink.training.rows import is_probed, list_begun

POLL_SECONDS = 1.0
REMEDY = "restore the file, or train again"


def watch_job(run: Path, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Print what a training has done, and what it does until it ends; wait for one that has not begun."""
    shown = Shown(run)
    try:
        while not shown.update():
            pause(POLL_SECONDS)
    finally:
        shown.terminal.on_end(None)


class Shown:
    """What has been printed of a run."""

    def __init__(self, run: Path) -> None:
        self.run, self.terminal = run, Terminal()
        self.step, self.found = 0, 0
        self.printed: set[str] = set()

    def update(self) -> bool:
        """Print what is new; return whether nothing more will come."""
        if not (self.run / CONFIG).exists():
            self.say_once(f"there is no training in '{self.run}' yet; waiting for one to begin")
            return False
        running = is_held(self.run)  # before the files are read, as it may end meanwhile
        steps = int(read_object(self.run / CONFIG, remedy=REMEDY).get("steps") or 0)
        rows = read_metrics(self.run / "metrics.jsonl")
        done = rows[-1]["step"] if rows else 0
        finished = 0 < steps <= done and (self.run / "model").is_dir()
        if done < self.step or self.terminal.steps != steps:
            if self.step:
                self.terminal.on_message("the training has begun again")
            self.terminal, self.step = Terminal(steps), 0
        for number, row in enumerate(rows, start=1):
            # The metrics of the last step may still get those of a probe.
            if row["step"] > self.step and (number < len(rows) or is_probed(row) or not running):
                for line in list_begun(rows[:number]):
                    self.terminal.on_message(line)
                self.terminal.on_step(row)
                self.step = row["step"]
        if finished:
            self.terminal.on_message(f"the training has ended after {done} steps; its model is in {self.run / 'model'}")
        elif not running:
            self.terminal.on_message(
                f"the training is at step {done} of {steps}, and no process works on it; it goes on with --resume"
            )
        elif not rows:
            self.say_once("no step of the training is done yet; a run first samples and evaluates the untrained model")
        else:
            self.terminal.on_progress(Progress("training", done, steps, self.count_tokens(rows), step=done))
        return finished or not running

    def say_once(self, message: str) -> None:
        """Print a message unless it was printed before."""
        if message not in self.printed:
            self.printed.add(message)
            self.terminal.on_message(message)

    def count_tokens(self, rows: list[dict[str, object]]) -> int:
        """Return how many tokens were sampled since the watching began."""
        tokens = sum(int(str(row.get("response_tokens") or 0)) for row in rows)
        self.found = self.found or tokens
        return tokens - self.found
