"""How often does a certified threshold break its limit, and how often one that is chosen without a guarantee?

benchmarks/simulations.py stores the table of docs/how-to/dial.md; test_dial.py runs a smaller one. A world makes the
problems of a calibration, and says what a threshold really loses there.
"""

import itertools
from unittest import mock

import numpy as np

from adaptthink.dial import guarantee
from adaptthink.dial.curve import ALWAYS_THINK, Measured
from adaptthink.dial.guarantee import choose_loss, split_halves


def plateau(rng, count=600):
    """Three problems in ten are sure of no_think and lose more than 0.1 in all; the others lose nothing on average.

    So every threshold loses a little more than 0.1, and there are hundreds that may lie below at random.
    """
    sure = rng.random(count) < 0.3
    probability = np.where(sure, 0.99, rng.random(count) * 0.98)
    worse = rng.random(count) < np.where(sure, 0.35, 0.15)
    better = ~worse & (rng.random(count) < np.where(sure, 0.0, 0.15 / 0.85))
    return problems_of(probability, think=~better, no_think=~worse), lambda threshold: 0.105 * (threshold <= 0.99)


def slope(rng, count=600):
    """Each problem that is answered directly loses 0.3: the threshold 2/3 loses exactly 0.1."""
    probability = rng.random(count)
    worse = rng.random(count) < 0.3
    return problems_of(probability, think=np.full(count, True), no_think=~worse), lambda t: 0.3 * (1 - min(t, 1))


def rare(rng, count=898):
    """One problem in a hundred is lost, and a little more: half of the calibrations see fewer."""
    worse = rng.random(count) < 0.0105
    probability = 0.9 + rng.random(count) / 20
    problems = problems_of(probability, think=np.full(count, True), no_think=~worse)
    return problems, lambda threshold: 0.0105 * (1 - min(max(0.0, 20 * (threshold - 0.9)), 1))


def problems_of(probability, think, no_think, think_tokens=None, no_think_tokens=None):
    tokens = itertools.repeat(1.0)
    return [
        Measured(str(n), str(n % 3), float(row[0]), (float(row[1]),), (float(row[2]),), (float(row[3]),), (row[4],))
        for n, row in enumerate(
            zip(probability, think, no_think, think_tokens or tokens, no_think_tokens or tokens, strict=False)
        )
    ]


def losses(problems):
    """Of the half to choose on: every threshold, how many problems it answers directly, and losses in that order."""
    ordered = sorted(split_halves(problems)[0], key=lambda one: -one.no_think_probability)
    probability = np.array([one.no_think_probability for one in ordered])
    counts = np.unique(np.searchsorted(-probability, -probability, side="right"))
    steps = [ALWAYS_THINK, *probability[counts - 1]]
    return steps, [0, *counts], np.array([one.think_correct[0] - one.no_think_correct[0] for one in ordered])


def naive(problems, limit):
    """The smallest threshold whose observed loss is within the limit: what one would do without a guarantee."""
    steps, counts, loss = losses(problems)
    observed = np.append(0, np.cumsum(loss))[counts] / len(loss)
    return steps[np.flatnonzero(observed <= limit)[-1]]


def certified(problems, limit):
    found = choose_loss(problems, limit).no_think_probability
    return ALWAYS_THINK if found is None else found  # nothing certified loses nothing


def violations(world, choose, limit, repetitions=400, seed=0):
    """Share of the calibrations whose chosen threshold really breaks the limit."""
    rng = np.random.default_rng(seed)
    broken = 0
    with mock.patch.object(guarantee, "check_held_out"):  # which follows the choice, and takes most of the time
        for _ in range(repetitions):
            problems, truth = world(rng)
            broken += truth(choose(problems, limit)) > limit + 1e-12
    return broken / repetitions


WORLDS = ((plateau, 0.1), (slope, 0.1), (rare, 0.01))  # and their limits


def break_limits(repetitions):
    """Yield a world, and how often the certified and the naive threshold break its limit."""
    for world, limit in WORLDS:
        yield world.__name__, *(violations(world, choose, limit, repetitions) for choose in (certified, naive))


def simulate(repetitions=1_000):
    """Return the rows of the table by its name."""
    return {"break_limits": list(break_limits(repetitions))}
