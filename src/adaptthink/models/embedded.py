"""The models that the package carries: their names and folders. `make_tiny.py` beside this file made them."""

from pathlib import Path

EMBEDDED = {name: Path(__file__).parent / name for name in ("tiny", "tiny_long")}
