"""`adaptthink calibrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import (
    POINTS,
    POSITIVE,
    STALL_MINUTES,
    DryRun,
    EvaluationOutput,
    Json,
    Model,
    Recipes,
    StallMinutes,
    write_result,
)
from adaptthink.cli.settings import add_flags, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, EvaluateConfig
from adaptthink.storage.kinds import PathKind, expect

EXIT_NOT_CERTIFIED = 1


@add_flags(EvaluateConfig, without=("model",))
def calibrate(
    model: Model,
    /,
    *,
    flags: Config,
    recipe: Recipes = (),
    tolerance: Annotated[
        float,
        Parameter(help="Points of accuracy that may be lost against always thinking.", validator=POINTS),
    ] = 1.0,
    token_budget: Annotated[
        float | None,
        Parameter(
            help="Mean tokens of a response; the threshold in use is then the one chosen for it.", validator=POSITIVE
        ),
    ] = None,
    output: EvaluationOutput = Path("runs/calibration"),
    overwrite: Annotated[
        bool,
        Parameter(help="Store the threshold also over one that was certified on more problems.", negative=""),
    ] = False,
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Choose the threshold on P(no_think) from which a model answers without thinking, with a guarantee.

    If nothing can be certified, nothing is stored with the model, and the exit status is 1.
    """
    config = read_settings("calibrate", EvaluateConfig, recipe, select_given(flags) | {"model": model})
    expect(output, "--output", PathKind.EVALUATION)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.dial import calibrate_job
    from adaptthink.cli.watchdog import end_when_stuck
    from adaptthink.storage.records import to_json

    with end_when_stuck(stall_minutes):
        dial = calibrate_job(config, output, tolerance_points=tolerance, token_budget=token_budget, overwrite=overwrite)
    write_result(json, to_json(dial))
    return None if dial.threshold.certified else sys.exit(EXIT_NOT_CERTIFIED)
