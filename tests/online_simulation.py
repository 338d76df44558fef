"""How often does an online dial break its guarantee, and how fast does it learn? `python tests/online_simulation.py`.

Prints the tables of docs/dial_online.md; test_dial_online.py runs smaller ones. A world is a list of kinds of requests:
their share, P(no_think), and the accuracy of thinking and of a direct answer.
"""

import math
import random
from dataclasses import dataclass
from functools import partial

import numpy as np

from adaptthink.dial.curve import Measured
from adaptthink.dial.guarantee import choose_loss
from adaptthink.dial.online import OnlineDial, make_policies
from adaptthink.modes import Mode


@dataclass(frozen=True)
class Cell:
    share: float
    probability: float
    think: float
    direct: float


@dataclass
class Run:
    """One stream: the least time of each step's certificate, whether a bad policy was used, and the worst excess."""

    certified: dict[int, int]
    bad_use: bool  # a policy that loses more than the tolerance, on average over the world of that moment
    excess: float  # the most that was lost beyond the tolerance, over all moments, in answers with feedback
    used: int  # requests decided by a threshold
    covered: bool  # whether the shown limits held the mean loss so far at all times that were looked at


def draw_cell(rng, cells):
    return rng.choices(cells, [cell.share for cell in cells])[0]


def find_losses(policies, dial, cells):
    """True loss of every policy, always think first."""
    bins = [sum(cell.probability < threshold for threshold in dial.thresholds) for cell in cells]
    return sum(
        cell.share * policies[:, position] * (cell.think - cell.direct)
        for cell, position in zip(cells, bins, strict=True)
    )


def always(mode, correct):
    return 1.0


def serve(dial, world, count, rng, *, rate=always, delay=lambda rng: 0, look=0):
    """Let a dial decide `count` requests of `world(dial, number)`; feedback comes at a rate and with a delay."""
    policies = make_policies(dial)
    certified, due = {}, {}
    excess, worst, bad_use, used, loss, answered, covered = 0.0, 0.0, False, 0, 0.0, 0, True
    for number in range(1, count + 1):
        cells = world(dial, number)
        bad_use |= bool(find_losses(policies, dial, cells)[dial.step] > dial.tolerance + 1e-12)
        cell = draw_cell(rng, cells)
        step = dial.step
        decision = dial.decide(cell.probability)
        is_direct = decision.mode is Mode.NO_THINK
        correct = rng.random() < (cell.direct if is_direct else cell.think)
        used += step > 0
        heard = rng.random() < rate(decision.mode, correct)
        if heard:
            position = sum(cell.probability < threshold for threshold in dial.thresholds)
            lost = policies[step, position] * (cell.think - cell.direct)
            excess, loss, answered = excess + lost - dial.tolerance, loss + lost, answered + 1
            worst = max(worst, excess)
        due.setdefault(number + delay(rng), []).append((decision.number, float(correct) if heard else None))
        for known, verdict in due.pop(number, []):
            dial.give_feedback(known, correct=verdict)
        for index in range(len(dial.steps)):
            if dial.steps[index].certified:
                certified.setdefault(index + 1, dial.use.number)
        if look and number % look == 0 and dial.use.number == answered:
            low, high = dial.report().loss_limits
            covered &= answered == 0 or low - 1e-9 <= loss / answered <= high + 1e-9
    return Run(certified, bad_use, worst, used, covered)


def stay(cells):
    return lambda dial, number: cells


# ---- worlds ---------------------------------------------------------------------------------------------------------


def make_good(accuracy=0.95):
    """The surest half loses nothing, the next quarter a tenth, the rest is hopeless without a thought."""
    return [
        Cell(0.5, 0.97, accuracy, accuracy),
        Cell(0.25, 0.7, accuracy, accuracy - 0.1),
        Cell(0.25, 0.05, accuracy, 0.2),
    ]


def make_borderline(dial, over=1.0, think=0.9):
    """The first threshold loses `over` times the tolerance, exploration included; the others as much."""
    gap = over * dial.tolerance / (0.5 * (1 - dial.explore_think))
    return [Cell(0.5, 0.97, think, think - gap), Cell(0.5, 0.01, think, 0.1)]


def turn(before, after, when):
    return lambda dial, number: before if number <= when else after


def slide(count, think=0.9, most=0.6):
    """A loss that grows from nothing to `most` of the direct answers."""
    return lambda dial, number: [Cell(1.0, 0.97, think, think - most * number / count)]


def watch(dial, number, think=0.95):
    """An adversary: direct answers are as good as thought until a threshold is in use, then always wrong."""
    return [Cell(1.0, 0.97, think, 0.0 if dial.step else think)]


def measured_problems(rng, cells, count):
    """Problems of a calibration, answered once in both modes."""
    found = []
    for number in range(count):
        cell = draw_cell(rng, cells)
        think, direct = float(rng.random() < cell.think), float(rng.random() < cell.direct)
        found.append(Measured(str(number), "all", cell.probability, (think,), (direct,), (1.0,), (1.0,)))
    return found


# ---- tables ---------------------------------------------------------------------------------------------------------

GRID = (0.9, 0.5)


def repeat(number, make_dial, make_world, count, **kwargs):
    runs = []
    for seed in range(number):
        dial, rng = make_dial(seed), random.Random(seed)
        runs.append(serve(dial, make_world(dial, rng), count, rng, **kwargs))
    return runs


def share(values):
    return f"{100 * np.mean(list(values)):.1f}%"


def main(repetitions=200):
    """Print the tables."""

    def fresh(seed, **more):
        return OnlineDial(
            **{"tolerance": 0.1, "thresholds": GRID, "explore_think": 0.2, "explore_direct": 0.05, "seed": seed} | more
        )

    def warm(seed, **more):
        dial = fresh(seed, **more)
        dial.learn(measured_problems(random.Random(10**6 + seed), make_good(), 200))
        return dial

    some = {"rate": lambda mode, correct: 0.5, "delay": lambda rng: rng.randrange(100)}
    print("world | a bad policy was used | worst excess: 95% of runs below, most | shown limits held", flush=True)
    tests = {
        "borderline, loss 1.02 x tolerance": (fresh, lambda d, r: stay(make_borderline(d, 1.02)), {}),
        "the same, half of the feedback, late": (fresh, lambda d, r: stay(make_borderline(d, 1.02)), some),
        "the same, more feedback on thoughts (90% against 45%)": (
            fresh,
            lambda d, r: stay(make_borderline(d, 1.02)),
            {"rate": lambda mode, correct: 0.9 if mode is Mode.THINK else 0.45},
        ),
        "the same, wrong answers reported half as often": (
            fresh,
            lambda d, r: stay(make_borderline(d, 1.02)),
            {"rate": lambda mode, correct: 0.9 if correct else 0.45},
        ),
        "good, then every direct answer wrong": (
            lambda seed: warm(seed, allowance=60),
            lambda d, r: turn(make_good(), make_borderline(d, 7.0), 1000),
            {},
        ),
        "slides to 60 points": (lambda seed: warm(seed, allowance=60), lambda d, r: slide(2000), {}),
        "an adversary that watches": (fresh, lambda d, r: watch, {}),
        "an adversary that watches, from a calibration": (
            lambda seed: warm(seed, allowance=60),
            lambda d, r: watch,
            {},
        ),
    }
    for name, (make_dial, make_world, more) in tests.items():
        runs = repeat(repetitions, make_dial, make_world, 2000, look=100, **more)
        excess = sorted(run.excess for run in runs)
        worst = f"{excess[int(0.95 * len(excess))]:.1f}, {excess[-1]:.1f}"
        bad, held = share(run.bad_use for run in runs), share(run.covered for run in runs)
        print(f"| {name} | {bad} | {worst} | {held} |", flush=True)

    print(
        "answers with feedback to the first and second threshold (median, most of 10); tolerance, explore_direct",
        flush=True,
    )
    for tolerance, explore in ((0.1, 0.05), (0.1, 0.1), (0.05, 0.025), (0.05, 0.05)):
        runs = repeat(
            10,
            partial(fresh, tolerance=tolerance, explore_direct=explore),
            lambda d, r: stay(make_good()),
            20_000,
        )
        cells = []
        for step in (1, 2):
            times = sorted(run.certified.get(step, math.inf) for run in runs)
            cells.append(f"{times[5]:,} ({times[9]:,})")
        print(f"| {tolerance} | {explore} | {' | '.join(cells)} |", flush=True)

    print("problems of a calibration, tolerance 0.05: share certified, first and second threshold: fixed, learn")
    for count in (100, 150, 200, 300, 500, 1000):
        fixed, learned = [], []
        for seed in range(100):
            problems = measured_problems(random.Random(seed), make_good(), count)
            choice = choose_loss(problems, 0.05).no_think_probability
            fixed.append(sum((choice if choice is not None else 2) <= p for p in (0.97, 0.7)))
            dial = OnlineDial(tolerance=0.05, thresholds=GRID)
            dial.learn(problems)
            learned.append(sum(step.certified for step in dial.steps))
        print(
            f"| {count} |", " | ".join(share(one >= k for one in way) for way in (fixed, learned) for k in (1, 2)), "|"
        )


if __name__ == "__main__":
    main()
