"""How long tests wait for what must come: so long that it does not matter how busy the machine is.

A limit on time guards against hanging, and no more. Where a test is about a time-out, what is timed never ends, or the
test moves the clock.
"""

import time

WAIT_SECONDS = 1800  # seconds; on an idle machine no test takes a tenth of it


def wait_until(condition):
    """Return once a condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
