"""Training: the loop, rollouts, the reference."""
