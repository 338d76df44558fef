"""How often do the 95% intervals of `evaluation.statistics` cover the truth? `python tests/coverage_simulation.py`.

Prints the tables of docs/explanation/statistics.md; test_statistics.py runs smaller ones. A world is many repetitions
of one evaluation: arrays of problem means, (repetitions, problems).
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


def main(repetitions=10_000, seed=0):
    """Print the tables."""
    rng = np.random.default_rng(seed)
    shares = (0.05, 0.5, 0.95, 0.99)
    clusterings = (0.0, 0.1, 0.3, 0.7)
    print("share_interval: problems, k |", *shares, "| over clusterings", clusterings)
    for num, k in itertools.product((10, 30, 100, 500), (1, 4, 16)):
        cells = []
        for share in shares:
            runs = [
                covered(statistics.share_limits(share_world(rng, num, k, share, c, repetitions), 1 / k), share)
                for c in (clusterings if k > 1 else (0.0,))
            ]
            cells.append(f"{min(runs):.1f}-{max(runs):.1f}" if k > 1 else f"{runs[0]:.1f}")
        print(f"| {num} | {k} |", " | ".join(cells), "|", flush=True)
    pairs = ((0.5, 0.5), (0.8, 0.5), (0.95, 0.8), (0.95, 0.95), (0.99, 0.95))
    print("share_difference: problems, k new, k old |", *pairs)
    for num, ks in itertools.product((10, 30, 100, 500), ((1, 1), (4, 4), (16, 4))):
        cells = []
        for new, old in pairs:
            runs = []
            for clustering, kinship in itertools.product((0.1, 0.7), (0.0, 0.8)):
                a, b = pair_world(rng, num, ks, (new, old), clustering, kinship, repetitions // 2)
                limits = statistics.share_difference_limits(a, b, (1 / ks[0] + 1 / ks[1]) / 2)
                runs.append(covered(limits, new - old))
            cells.append(f"{min(runs):.1f}-{max(runs):.1f}")
        print(f"| {num} | {ks[0]}, {ks[1]} |", " | ".join(cells), "|", flush=True)
    print("log-deviation, problems | mean | t | relative change")
    for deviation, num in itertools.product((0.3, 0.6, 1.0), (10, 30, 100, 500)):
        means, truth = token_world(rng, num, deviation, repetitions)
        half = stats.t.ppf(0.975, num - 1) * means.std(-1, ddof=1) / num**0.5
        plain = covered((means.mean(-1) - half, means.mean(-1) + half), truth)
        new, old, change = change_world(rng, num, deviation, repetitions)
        _, *limits = statistics.ratio_limits(new, old)
        hall = covered(statistics.mean_limits(means), truth)
        print(f"| {deviation} | {num} | {hall:.1f} | {plain:.1f} | {covered(limits, change):.1f} |", flush=True)


if __name__ == "__main__":
    main()
