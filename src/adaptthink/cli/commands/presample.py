"""`adaptthink presample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import (
    STALL_MINUTES,
    DryRun,
    Json,
    Recipes,
    StallMinutes,
    Writable,
    write_result,
)
from adaptthink.cli.settings import add_flags, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, PresampleConfig
from adaptthink.storage.kinds import PathKind, expect


@add_flags(PresampleConfig)
def presample(
    recipe: Recipes = (),
    *,
    flags: Config,
    output: Annotated[
        Path, Parameter(help="Reference store (JSONL); an interrupted one is completed."), Writable
    ] = Path("runs/reference.jsonl"),
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Sample the reference: K responses per problem from the model before training."""
    config = read_settings("presample", PresampleConfig, recipe, select_given(flags))
    expect(output, "--output", PathKind.STORE)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import presample_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = presample_job(config, output)
    return write_result(json, result)
