"""Run folders, locks and files of JSON lines."""
