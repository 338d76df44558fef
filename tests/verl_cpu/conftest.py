"""What of these tests is collected only when it is named: `pytest tests/verl_cpu/test_end_to_end.py`, for minutes."""

collect_ignore = ["test_end_to_end.py"]
