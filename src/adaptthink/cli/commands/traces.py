"""`adaptthink traces`."""

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
    WritableFile,
    write_result,
)
from adaptthink.cli.settings import add_flags, read_traces_settings, select_given, show_settings
from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import Config, EvaluateConfig
from adaptthink.storage.kinds import PathKind, expect


@add_flags(EvaluateConfig, ChatConfig, without=("kind", "model"))
def traces(
    recipe: Recipes = (),
    *,
    flags: Config,
    teacher: Annotated[
        str | None,
        Parameter(
            help="Model that solves the problems: a folder, a hub id, or its name at the chat endpoint [default: none; "
            "the solutions that arithmetic and words have].",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        Parameter(help="File of traces (JSONL); a teacher's responses are kept beside it, and completed."),
        WritableFile,
    ] = Path("runs/traces.jsonl"),
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Make the traces of a cold start: solutions that problems have, or a teacher's responses that are correct."""
    config = read_traces_settings(recipe, select_given(flags), teacher)
    expect(output, "--output", PathKind.TRACES)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import traces_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = traces_job(config, output, taught=teacher is not None)
    return write_result(json, result)
