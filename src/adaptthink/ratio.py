"""The forms of the importance ratio: `objective` computes them, settings name them, and those load no torch."""

from typing import Literal

Ratio = Literal["sequence_mean", "sequence", "token"]
