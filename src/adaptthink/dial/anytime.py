"""Tests and limits that hold at every moment of a stream, however often they are looked at. No model, no dial.

Bets: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting". Limits of a running mean:
the empirical-Bernstein process of Howard et al. (2021), "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Theorem 4, as a finite mixture. Change: the e-detector of Shin, Ramdas & Rinaldo (2024).
docs/explanation/dial_online.md has the proofs.
"""

from __future__ import annotations

import math

import numpy as np

from adaptthink.dial.curve import Array, Ends

NUM_BETS = 16
SHARES = 0.95 * 2.0 ** (-np.arange(NUM_BETS) / 2)  # of the largest bet that cannot lose everything, down to 1/190 of it
PENALTIES = -np.log1p(-SHARES) - SHARES  # ψ of the empirical-Bernstein process at each share


def compute_factors(value: Array, limit: float, bound: Array) -> Array:
    """Log of what each bet against "the mean is `limit` or more" is multiplied with by one value, (…, bets).

    Values must be at most `bound`, which is above `limit` and known before the value. If the mean, given the past, is
    at least `limit`, no factor is expected to exceed 1: capital that starts at 1 reaches 1/α at any time with
    probability at most α (Ville). For the opposite hypothesis give −value and −limit.
    """
    return np.asarray(np.log1p(((limit - value) / (bound - limit))[..., None] * SHARES))


def average_logs(log_capital: Array) -> Array:
    """Log of the mean over the bets, the last axis."""
    return np.asarray(np.logaddexp.reduce(log_capital, axis=-1) - math.log(log_capital.shape[-1]))


def compute_log_wealth(deviation: float, spread: float) -> float:
    """Log of the empirical-Bernstein mixture.

    `deviation` is Σ(μ − z)/c and `spread` Σ((z − ẑ)/c)²: z has the mean μ given the past, the prediction ẑ is made of
    the past, and z − ẑ ≤ c (for a deviation to the other side, ẑ − z ≤ c). Its exponential starts at 1 and is not
    expected to grow, however μ changes.
    """
    return float(average_logs(SHARES * deviation - PENALTIES * spread))


def find_deviation(spread: float, alpha: float) -> float:
    """Return what the deviation stays below at all times with probability 1 − `alpha`, at this spread."""
    from scipy.optimize import brentq  # noqa: PLC0415  (slow to import)

    wanted = -math.log(alpha)
    most = float(np.min((wanted + math.log(NUM_BETS) + PENALTIES * spread) / SHARES))
    return float(brentq(lambda x: compute_log_wealth(x, spread) - wanted, 0, most + 1e-9))


def compute_running_limits(total: float, slack: float, spread: float, scale: float, number: int, alpha: float) -> Ends:
    """Return limits of the running mean of `number` conditional means, valid at all times together, in [-1, 1].

    `total` is the sum of the estimates, `slack` that of the bounds on those that nothing was estimated of, `spread` and
    `scale` (c) as in `compute_log_wealth`; each side takes half of `alpha`.
    """
    if number == 0:
        return -1.0, 1.0
    width = slack + scale * find_deviation(spread, alpha / 2)
    return max(-1.0, (total - width) / number), min(1.0, (total + width) / number)
