"""`adaptthink watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.storage.kinds import PathKind, expect


def watch(
    run: Annotated[Path, Parameter(help="Run folder; it need not be there yet.")],
    /,
) -> None:
    """Show a training in the terminal while it runs, until it ends, or what one that has ended did.

    It reads the run folder alone, so it may be started and ended at any time, also on another machine that sees it.
    """
    expect(run, "watch", PathKind.RUN)
    from adaptthink.cli.watch import watch_job

    watch_job(run)
