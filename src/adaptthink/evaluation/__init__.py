"""Evaluation: samples on disk, scores, comparisons, and the quality of the mode choice."""
