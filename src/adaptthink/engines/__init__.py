"""Engines generate tokens: ids in, ids and log-probabilities out. No text, no modes, no rewards."""
