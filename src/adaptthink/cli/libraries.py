"""What libraries print while a command runs: nothing that a user cannot act upon, and nothing a dozen times.

Nothing of them is imported here. A library's user, who may have configured logging and warnings, is left alone.
"""

from __future__ import annotations

import logging
import warnings

HUB_REQUESTS = "huggingface_hub.utils._http"  # the logger that names each request that failed, and each wait
LIBRARIES = "torch|transformers|peft|accelerate|datasets|huggingface_hub"


class OneRetryLine(logging.Filter):
    """Lets one line through of all that the hub's client logs while it cannot reach the hub, and adds what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        text = record.getMessage()
        if "thrown while requesting" not in text and not text.startswith("Retrying in"):
            return True
        first, self.reported = not self.reported, True
        cause = text.partition(" thrown while requesting")[0].strip("'")
        record.msg = (
            f"the hub cannot be reached ({cause}); trying again for up to a minute or two. HF_HUB_OFFLINE=1 keeps to "
            "what was downloaded"
        )
        record.args = ()
        return first


def quieten_libraries() -> None:
    """Keep libraries from writing between a command's own lines what nobody can act upon."""
    logging.getLogger(HUB_REQUESTS).addFilter(OneRetryLine())
    warnings.filterwarnings("ignore", module=rf"({LIBRARIES})(\.|$)")
