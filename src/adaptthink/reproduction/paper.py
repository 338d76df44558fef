"""Figures of the paper that the report draws beside ours. arXiv 2505.13417, the 1.5B model, means of its three sets."""

from __future__ import annotations

DELTA_SWEEP = {  # δ -> ΔAcc in points, ΔLength in percent, no_think in percent
    0.0: (5.5, -32.8, 40.2), 0.01: (2.8, -36.1, 47.5), 0.02: (2.9, -38.6, 53.2), 0.05: (2.4, -53.0, 68.0),
    0.075: (1.2, -52.4, 73.4), 0.1: (-0.5, -64.5, 88.5),
}  # fmt: skip
