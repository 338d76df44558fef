"""The process in which a tracker runs: ``python -m adaptthink.integrations.trackers.worker FD``.

It reads one JSON message at a time from the inherited socket FD and answers each: the start, steps, the end. If the
socket closes before the end, the job was killed: the run is ended as failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from adaptthink.integrations.trackers.tracker_runs import TRACKER_RUNS, TrackerRun

ORPHAN_SECONDS = 300  # that a tracker has to finish where the job was killed; then it is too


def main() -> None:
    """Serve one job."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)
    run: TrackerRun | None = None
    with Connection(fd) as connection:
        try:
            while True:
                message = json.loads(connection.recv_bytes())
                answer: dict[str, Any]
                try:
                    if run is None:
                        run = TRACKER_RUNS[message["kind"]](message)
                        answer = {"state": run.state, "message": run.location}
                    else:
                        answer = {"message": hand_on(run, message)}
                except Exception as error:  # noqa: BLE001  (a library raises what it likes)
                    answer = {"fault": describe_error(error)}
                connection.send_bytes(json.dumps(answer).encode())
                if "fault" in answer or "result" in message:
                    return
        except (EOFError, OSError):
            signal.alarm(ORPHAN_SECONDS)
            if run:
                with suppress(Exception):
                    run.end({}, succeeded=False)


def hand_on(run: TrackerRun, message: Mapping[str, Any]) -> str | None:
    """Pass a step or the end on to a tracker; return what a person should know of it."""
    if "result" in message:
        return run.end(message["result"] or {}, succeeded=message["result"] is not None)
    return run.log(message["metrics"], message["step"])


def describe_error(error: Exception) -> str:
    """Describe an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    main()
