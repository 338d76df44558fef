"""How often does an online dial break its guarantee, and how fast does it learn?

benchmarks/simulations.py stores the tables of docs/explanation/dial_online.md; test_dial_online.py runs smaller ones. A
world is a list of kinds of requests: their share, P(no_think), and the accuracy of thinking and of a direct answer.
"""

import math
import random
from dataclasses import dataclass

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
    certified, due, lost = {}, {}, [0.0]  # lost: true losses of the requests with feedback, summed up
    worst, bad_use, used, covered = 0.0, False, 0, True
    for number in range(1, count + 1):
        cells = world(dial, number)
        step = dial.step
        bad_use |= bool(find_losses(policies, dial, cells)[step] > dial.tolerance + 1e-12)
        cell = draw_cell(rng, cells)
        decision = dial.decide(cell.probability)
        correct = rng.random() < (cell.direct if decision.mode is Mode.NO_THINK else cell.think)
        used += step > 0
        heard = rng.random() < rate(decision.mode, correct)
        if heard:
            position = sum(cell.probability < threshold for threshold in dial.thresholds)
            lost.append(lost[-1] + policies[step, position] * (cell.think - cell.direct))
            worst = max(worst, lost[-1] - dial.tolerance * (len(lost) - 1))
        due.setdefault(number + delay(rng), []).append((decision.number, float(correct) if heard else None))
        for known, verdict in due.pop(number, []):
            dial.give_feedback(known, correct=verdict)
        for index in range(len(dial.steps)):
            if dial.steps[index].certified:
                certified.setdefault(index + 1, dial.use.number)
        if look and number % look == 0 and dial.use.number and number == dial.number:
            low, high = dial.report().loss_limits
            covered &= low - 1e-9 <= lost[dial.use.number] / dial.use.number <= high + 1e-9
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


def share(values):
    return float(np.mean(list(values)))


def fresh(seed, **more):
    return OnlineDial(
        **{"tolerance": 0.1, "thresholds": GRID, "explore_think": 0.2, "explore_direct": 0.05, "seed": seed} | more
    )


def warm(seed):
    dial = fresh(seed, allowance=60)
    dial.learn(measured_problems(random.Random(10**6 + seed), make_good(), 200))
    return dial


def break_guarantees(repetitions=200, count=2000):
    """Yield a world, how often a bad policy was used, the worst excess (95% of runs below, most), limits held."""
    rates = {
        "borderline, loss 1.02 x tolerance": {},
        "half of the feedback, late": {"rate": lambda mode, correct: 0.5, "delay": lambda rng: rng.randrange(100)},
        "feedback on 90% of thoughts, 45% of direct answers": {
            "rate": lambda mode, correct: 0.9 if mode is Mode.THINK else 0.45
        },
        "no feedback on wrong direct answers": {"rate": lambda mode, correct: float(correct or mode is Mode.THINK)},
    }
    drifts = {
        "good, then every direct answer wrong": (warm, turn(make_good(), [Cell(1, 0.97, 0.9, 0.0)], count // 2)),
        "slides to 60 points": (warm, slide(count)),
        "an adversary that watches": (fresh, watch),
        "an adversary that watches, from a calibration": (warm, watch),
    }
    tests = [(name, fresh, None, more) for name, more in rates.items()]
    tests += [(name, make, world, {}) for name, (make, world) in drifts.items()]
    for name, make, world, more in tests:
        runs = []
        for seed in range(repetitions):
            dial = make(seed)
            borderline = stay(make_borderline(dial, 1.02))
            runs.append(serve(dial, world or borderline, count, random.Random(seed), look=100, **more))
        excess = sorted(run.excess for run in runs)
        bad, held = share(run.bad_use for run in runs), share(run.covered for run in runs)
        yield name, bad, (excess[int(0.95 * len(excess))], excess[-1]), held


def time_certificates(repetitions=10, count=20_000):
    """Yield tolerance, explore_direct, and the answers until each threshold is certified: median, most."""
    for tolerance, explore in ((0.1, 0.05), (0.1, 0.1), (0.05, 0.025), (0.05, 0.05)):
        runs = [
            serve(
                fresh(seed, tolerance=tolerance, explore_direct=explore), stay(make_good()), count, random.Random(seed)
            )
            for seed in range(repetitions)
        ]
        cells = []
        for step in (1, 2):
            times = sorted(run.certified.get(step, math.inf) for run in runs)
            cells.append([None if time == math.inf else time for time in (times[len(times) // 2], times[-1])])
        yield tolerance, explore, cells


def compare_starts(repetitions=60):
    """Yield problems, and how often they certify each threshold: by the fixed certificate, then by `learn`."""
    for count in (100, 200, 300, 500, 1000):
        fixed, learned = [], []
        for seed in range(repetitions):
            problems = measured_problems(random.Random(seed), make_good(), count)
            choice = choose_loss(problems, 0.05).no_think_probability
            fixed.append(sum((choice if choice is not None else 2) <= p for p in (0.97, 0.7)))
            dial = OnlineDial(tolerance=0.05, thresholds=GRID)
            dial.learn(problems)
            learned.append(sum(step.certified for step in dial.steps))
        yield count, [share(one >= step for one in way) for way in (fixed, learned) for step in (1, 2)]


def simulate():
    """Return the rows of the tables by name."""
    return {one.__name__: list(one()) for one in (compare_starts, time_certificates, break_guarantees)}
