"""`adaptthink replay`."""

from __future__ import annotations

from pathlib import Path

from adaptthink.cli.parameters import Json, write_result


def replay(
    dump: Path,
    /,
    *,
    json: Json = None,
) -> None:
    """Repeat a training step that was skipped, with each response alone, and say which of them is not finite.

    DUMP is a folder that a training left in RUN/skipped. Nothing is trained.
    """
    from adaptthink.cli.jobs import replay_job

    write_result(json, replay_job(dump))
