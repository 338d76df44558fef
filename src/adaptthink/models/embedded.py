"""The models that the package carries: their names and folders. `make_tiny.py` beside this file made them."""

from pathlib import Path
from typing import Any

EMBEDDED = {name: Path(__file__).parent / name for name in ("tiny", "tiny_long")}


def is_embedded(tokenizer: Any) -> bool:
    """Return whether a tokenizer belongs to an embedded model or to one trained from it: they share a chat template."""
    return any(tokenizer.chat_template == (path / "chat_template.jinja").read_text() for path in EMBEDDED.values())
