"""How often do the 95% intervals of `evaluation.statistics` cover the truth?

benchmarks/simulations.py stores the tables of docs/explanation/statistics.md; test_statistics.py runs smaller ones. A
world is many repetitions of one evaluation: arrays of problem means, (repetitions, problems).
"""

import itertools
from functools import cache

import numpy as np
from scipy import stats

from adaptthink.evaluation import statistics

GRID = np.linspace(0, 1, 20_001)


@cache
def quantiles(share, clustering):
    """Quantiles on GRID of the beta distribution of problems' solvability."""
    total = 1 / clustering - 1
    return stats.beta.ppf(GRID, share * total, (1 - share) * total)


def solvabilities(uniform, share, clustering):
    """Beta-distributed probabilities to solve a problem, by their quantiles; clustering is the correlation."""
    if clustering == 0:
        return np.full_like(uniform, share)
    if clustering == 1:
        return (uniform < share).astype(float)
    return np.interp(uniform, GRID, quantiles(share, clustering))


def share_world(rng, num_problems, k, share, clustering, repetitions):
    """Problem means of k samples each, exact samples from the beta-binomial."""
    shape = (repetitions, num_problems)
    if 0 < clustering < 1:
        total = 1 / clustering - 1
        chances = rng.beta(share * total, (1 - share) * total, shape)
    else:
        chances = solvabilities(rng.random(shape), share, clustering)
    return rng.binomial(k, chances) / k


def pair_world(rng, num_problems, ks, shares, clustering, kinship, repetitions):
    """Two models on the same problems; `kinship` is the share of problems on which difficulty is common to both."""
    shape = (repetitions, num_problems)
    common = rng.random(shape)
    other = np.where(rng.random(shape) < kinship, common, rng.random(shape))
    return tuple(
        rng.binomial(k, solvabilities(uniform, share, clustering)) / k
        for k, share, uniform in zip(ks, shares, (common, other), strict=True)
    )


def token_world(rng, num_problems, deviation, repetitions, k=4):
    """Problem means of log-normal tokens, and the true mean."""
    problems = np.exp(rng.normal(0, deviation, (repetitions, num_problems)))
    samples = np.exp(rng.normal(0, 0.4, (repetitions, num_problems, k))).mean(-1)
    return problems * samples, np.exp(deviation**2 / 2 + 0.4**2 / 2)


def change_world(rng, num_problems, deviation, repetitions):
    """Tokens of a new and an old model (half of the problems get answers ten times shorter), and the true change."""
    shape = (repetitions, num_problems)
    difficulty = rng.normal(0, deviation, shape)
    old = np.exp(difficulty + rng.normal(0, 0.3, shape))
    new = np.exp(0.8 * difficulty - 0.7 + rng.normal(0, 0.3, shape)) * np.where(rng.random(shape) < 0.5, 0.1, 1.0)
    return new, old, np.exp(0.32 * deviation**2 - 0.7) * 0.55 / np.exp(deviation**2 / 2) - 1


def covered(limits, truth):
    """Percentage of the intervals that hold the truth, ends included."""
    low, high = limits
    return 100 * float(np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)))


def naive_limits(means, k):
    """What counts every response as a trial of its own (Wald), for contrast."""
    share = means.mean(-1)
    half = 1.959964 * np.sqrt(share * (1 - share) / (means.shape[-1] * k))
    return share - half, share + half


SHARES = (0.05, 0.5, 0.95, 0.99)
PAIRS = ((0.5, 0.5), (0.8, 0.5), (0.95, 0.8), (0.95, 0.95), (0.99, 0.95))  # true shares, new and old
NUMBERS = (10, 30, 100, 500)  # of problems


def cover_shares(rng, repetitions):
    """Yield problems, k, and for each of SHARES the least and the most coverage over clusterings."""
    for num, k in itertools.product(NUMBERS, (1, 4, 16)):
        cells = []
        for share in SHARES:
            runs = [
                covered(statistics.share_limits(share_world(rng, num, k, share, c, repetitions), 1 / k), share)
                for c in ((0.0, 0.1, 0.3, 0.7) if k > 1 else (0.0,))
            ]
            cells.append((min(runs), max(runs)))
        yield num, k, cells


def cover_differences(rng, repetitions):
    """Yield problems, k of the new and the old model, and for each of PAIRS the least and the most coverage."""
    for num, ks in itertools.product(NUMBERS, ((1, 1), (4, 4), (16, 4))):
        cells = []
        for new, old in PAIRS:
            runs = []
            for clustering, kinship in itertools.product((0.1, 0.7), (0.0, 0.8)):
                a, b = pair_world(rng, num, ks, (new, old), clustering, kinship, repetitions // 2)
                limits = statistics.share_difference_limits(a, b, (1 / ks[0] + 1 / ks[1]) / 2)
                runs.append(covered(limits, new - old))
            cells.append((min(runs), max(runs)))
        yield num, ks, cells


def cover_tokens(rng, repetitions):
    """Yield log-deviation, problems, and the coverage of a mean, of a plain t for it, and of a relative change."""
    for deviation, num in itertools.product((0.3, 0.6, 1.0), NUMBERS):
        means, truth = token_world(rng, num, deviation, repetitions)
        half = stats.t.ppf(0.975, num - 1) * means.std(-1, ddof=1) / num**0.5
        plain = covered((means.mean(-1) - half, means.mean(-1) + half), truth)
        new, old, change = change_world(rng, num, deviation, repetitions)
        _, *limits = statistics.ratio_limits(new, old)
        yield deviation, num, covered(statistics.mean_limits(means), truth), plain, covered(limits, change)


FEW = (3, 4, 5, 7, 10)  # problems


def cover_few(rng, repetitions):
    """Yield how lengths are spread, problems, the coverage of a mean, and the interval's median width over it.

    Log-normal tokens around 200 of at most 4,096; "mixed": 7 tokens, or with a probability of 0.3 40 to 127 of at most
    128, as of a model that chooses.
    """
    for spread, num in itertools.product((0.3, 0.6, 1.0, "mixed"), FEW):
        shape = (repetitions, num)
        if spread == "mixed":
            most, mean = 128, 0.7 * 7 + 0.3 * 83.5
            tokens = np.where(rng.random(shape) < 0.3, rng.integers(40, 128, shape), 7.0)
        else:
            most, whole = 4096, stats.lognorm(spread, scale=200)
            mean = whole.expect(ub=most) + most * whole.sf(most)
            tokens = np.minimum(whole.rvs(shape, rng), most)
        low, high = statistics.mean_limits(tokens, within=(1.0, float(most)))
        yield spread, num, covered((low, high), mean), float(np.median(high - low) / mean)


def simulate(repetitions=10_000, seed=0):
    """Return the rows of the tables by name."""
    rng = np.random.default_rng(seed)
    tables = (cover_shares, cover_differences, cover_tokens, cover_few)
    return {one.__name__: list(one(rng, repetitions)) for one in tables}
