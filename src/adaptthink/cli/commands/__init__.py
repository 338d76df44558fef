"""One file per command: it resolves the settings and calls the job. Heavy imports stand inside the functions."""
