"""Models: loading, scoring, batches, adapters, cards; the embedded model."""
