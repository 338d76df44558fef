"""Figures of the paper (arXiv 2505.13417), which reports and tables put beside ours."""

from __future__ import annotations

DELTA_SWEEP = {  # the 1.5B model, means of its three sets: δ -> ΔAcc in points, ΔLength in percent, no_think in percent
    0.0: (5.5, -32.8, 40.2), 0.01: (2.8, -36.1, 47.5), 0.02: (2.9, -38.6, 53.2), 0.05: (2.4, -53.0, 68.0),
    0.075: (1.2, -52.4, 73.4), 0.1: (-0.5, -64.5, 88.5),
}  # fmt: skip

SETS = ("gsm8k", "math500", "aime24")
SAMPLES = {"gsm8k": 1, "math500": 1, "aime24": 16}  # of a problem; T = 0.6, top_p 0.95, at most 16,384 tokens
Cell = tuple[float, float, float | None]  # accuracy in percent, mean tokens, no_think in percent if it is reported
RESULTS: dict[str, dict[str, tuple[Cell, Cell, Cell]]] = {  # tables 1 and 2
    "1.5b": {
        "Original, Thinking": ((79.0, 978, 0), (80.6, 4887, 0), (29.4, 12073, 0)),
        "Original, NoThinking": ((69.8, 280, 100), (67.2, 658, 100), (14.0, 2190, 100)),
        "DPO_shortest": ((78.3, 804, None), (82.4, 3708, None), (30.7, 10794, None)),
        "OverThink": ((77.2, 709, None), (81.2, 4131, None), (28.3, 11269, None)),
        "DAST": ((77.2, 586, None), (83.0, 2428, None), (26.9, 7745, None)),
        "O1-Pruner": ((74.8, 458, None), (82.2, 3212, None), (28.9, 10361, None)),
        "TLMRE": ((80.7, 863, None), (85.0, 3007, None), (29.2, 8982, None)),
        "ModelMerging": ((79.7, 603, None), (63.0, 2723, None), (18.1, 10337, None)),
        "RFT_MixThinking": ((76.0, 1077, 8.8), (72.4, 4341, 33.4), (25.2, 11157, 21.0)),
        "AdaptThink, δ = 0.05": ((83.1, 480, 86.9), (82.0, 1782, 76.8), (31.0, 6679, 40.4)),
    },
    "7b": {
        "Original, Thinking": ((87.9, 682, 0), (90.2, 3674, 0), (53.5, 10306, 0)),
        "Original, NoThinking": ((85.1, 283, 100), (80.6, 697, 100), (24.2, 1929, 100)),
        "AdaptThink, δ = 0.05": ((91.0, 309, 99.6), (92.0, 1875, 76.6), (55.6, 8599, 6.3)),
    },
}
