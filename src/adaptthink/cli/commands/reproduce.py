"""`adaptthink reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import Clean, Json, Writable, write_result
from adaptthink.storage.locks import locked


def reproduce(
    *,
    output: Annotated[Path, Parameter(help="Folder; an interrupted one is completed."), Writable] = Path(
        "runs/reproduce"
    ),
    quick: Annotated[bool, Parameter(help="One seed, fewer steps: minutes, not conclusions.", negative="")] = False,
    clean: Clean = False,
    json: Json = None,
) -> None:
    """Run the paper's experiments on the embedded reasoner and compare its claims with them (up to 90 minutes)."""
    from adaptthink.cli.reproduce import reproduce_job

    with locked(output, f"run folder '{output}'"):
        result = reproduce_job(output, quick=quick, clean=clean)
    write_result(json, result)
