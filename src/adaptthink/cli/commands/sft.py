"""`adaptthink sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import (
    STALL_MINUTES,
    Clean,
    DryRun,
    Json,
    Recipes,
    Resume,
    StallMinutes,
    Track,
    Writable,
    write_result,
)
from adaptthink.cli.settings import add_flags, check_model, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, SftConfig
from adaptthink.storage.kinds import PathKind, expect


@add_flags(SftConfig)
def sft(
    recipe: Recipes = (),
    *,
    flags: Config,
    traces: Annotated[
        Path, Parameter(help="Traces to learn from: prompt, thinking and answer in each row, or messages.")
    ] = Path("runs/traces.jsonl"),
    output: Annotated[Path, Parameter(help="Run folder."), Writable] = Path("runs/sft"),
    resume: Resume = False,
    clean: Clean = False,
    track: Track = (),
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Give a model its cold start: teach it to think, and to answer at once when that is forced, from traces."""
    from adaptthink.integrations.trackers import parse_trackers

    trackers = parse_trackers(track)
    config = read_settings("sft", SftConfig, recipe, select_given(flags))
    check_model(config.model)
    expect(output, "--output", PathKind.COLD_START)
    expect(traces, "--traces", PathKind.TRACES, PathKind.PROBLEMS)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import sft_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = sft_job(config, traces, output, resume=resume, clean=clean, callbacks=trackers)
    return write_result(json, result)
