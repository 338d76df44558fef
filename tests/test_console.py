"""Progress in a log, where there is no terminal: lines at least every minute, by a clock that the tests hold."""

import io
import re
from collections import Counter
from types import SimpleNamespace

import pytest
from rich.console import Console

from adaptthink.api import Profile
from adaptthink.callbacks import Progress, make_counter
from adaptthink.cli import console as module
from adaptthink.cli.console import LINE_SECONDS, Lines, Terminal, show_profile, show_servers, show_tally
from adaptthink.grading.lines import Tally
from adaptthink.planning.roofline import Machine
from adaptthink.timing import Phase


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    lines = Lines(clock)
    yield lines
    lines.close()


def printed(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_phase_is_named_at_once_and_then_has_a_line_a_minute(log, clock, capsys):
    advance = make_counter(log.update, "reference: 2 samples of each of 300 problems", 600)
    assert printed(capsys) == ["reference: 2 samples of each of 300 problems"]
    for _ in range(4):  # ten responses of 120 tokens every 20 seconds
        clock.now += 20
        advance(10, 1200)
    assert printed(capsys) == ["  30 of 600 (5%), 60 tokens/s, 0:01:00 so far, 0:19:00 left"]
    clock.now += 39.9
    log.print_due()
    assert printed(capsys) == []


def test_a_line_is_due_also_while_no_response_ends(log, clock, capsys):
    make_counter(log.update, "evaluate", 8)
    printed(capsys)
    for minutes in (1, 2):
        clock.now += LINE_SECONDS
        log.print_due()
        log.print_due()
        assert printed(capsys) == [f"  0 of 8 (0%), 0:0{minutes}:00 so far"]


def test_the_end_of_a_phase_is_its_last_line(log, clock, capsys):
    advance = make_counter(log.update, "evaluate", 2)
    clock.now += 5
    advance(2, 50)
    assert printed(capsys) == ["evaluate", "  2 of 2 (100%), 10 tokens/s, 0:00:05 so far"]
    clock.now += 1000
    log.print_due()
    assert printed(capsys) == []


def test_what_was_found_says_nothing_about_the_time_left(log, clock, capsys):
    advance = make_counter(log.update, "evaluate", 100)
    advance(50)
    clock.now += 60
    advance(10, 600)
    assert printed(capsys)[-1] == "  60 of 100 (60%), 10 tokens/s, 0:01:00 so far, 0:04:00 left"


def test_quick_phases_of_steps_have_a_line_a_minute_together(log, clock, capsys):
    for step in range(1, 7):
        for phase in ("rollout", "update"):
            advance = make_counter(log.update, f"step {step} of 9, {phase}", 4, step)
            clock.now += 10
            advance(4, 40)
    lines = printed(capsys)
    assert [line.split(":")[0].strip() for line in lines] == ["step 3 of 9, update", "step 6 of 9, update"]
    clock.now += 60  # a checkpoint that takes long
    log.print_due()
    assert len(printed(capsys)) == 1


def test_a_phase_of_unknown_size_only_counts(log, clock, capsys):
    advance = make_counter(log.update, "answers graded", None)
    advance(4000)
    clock.now += 61
    advance(96)
    assert printed(capsys) == ["  4,096 answers graded, 0:01:01 so far"]


def test_a_message_ends_the_phase(clock, capsys):
    terminal = Terminal()
    terminal.log = Lines(clock)
    make_counter(terminal.on_progress, "step 1 of 2, update", 4, 1)
    terminal.on_message("model saved")
    clock.now += 600
    terminal.log.print_due()
    assert printed(capsys) == ["model saved"]


def test_on_a_terminal_the_phases_of_steps_share_a_bar_that_vanishes(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=screen, force_terminal=True, width=80, highlight=False))
    terminal = Terminal(2)
    for step in (1, 2):
        for phase in ("rollout", "update"):
            make_counter(terminal.on_progress, f"step {step} of 2, {phase}", 4, step)(4, 40)
            assert terminal.bar is not None
            bar = terminal.bar
            assert bar.pace.phase == f"step {step} of 2, {phase}"
    terminal.on_message("model saved")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "step 2 of 2, update" in plain
    assert max(len(line) for line in re.split(r"[\r\n]", plain)) <= 80
    assert plain.rstrip().endswith("model saved")


def test_progress_of_a_phase_without_steps_is_no_continuation(monkeypatch):
    monkeypatch.setattr(module, "console", Console(file=io.StringIO(), force_terminal=True, width=80))
    terminal = Terminal()
    terminal.on_progress(Progress("step 1 of 2, rollout", 1, 4, 9, step=1))
    within = terminal.bar
    terminal.on_progress(Progress("evaluate", 1, 4, 9))
    assert terminal.bar is not within
    terminal.close_bar()


# ---- tables ---------------------------------------------------------------------------------------------------------


PROFILE = Profile(
    Machine(1e12, 1e10),
    [
        Phase("rollout", 12345.6, 0.651, 123_456_789, None),
        Phase("generate", 12345.6, 0.632, 123_456_789, 0.13),
        Phase("load_weights", 0.1, 0.001, None, None),
    ],
)
SERVER = SimpleNamespace(url="http://node-17:8000", responses=12345, tokens=9876543, faults=12, unhealthy_seconds=3600)


@pytest.mark.parametrize("width", [60, 80])
def test_tables_fit_and_split_no_word_of_a_heading(width, monkeypatch, capsys):
    monkeypatch.setattr(module.console, "_width", width)
    show_profile(PROFILE)
    show_servers([SERVER])
    show_tally(Tally(Counter(correct=123456, reference_unparsable=1), Counter(symbolic=123457)))
    lines = [line for line in printed(capsys) if not line.startswith("roofline: ")]
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    headings = "phase seconds share tokens tokens/s of roofline responses failed calls unhealthy, verdict decided by"
    assert set(headings.split()) <= words
    assert {"123,456,789", "12,345.6", "9,876,543", "load_weights", "reference_unparsable"} <= words
