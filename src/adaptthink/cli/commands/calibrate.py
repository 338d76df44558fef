"""`adaptthink calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import POINTS, POSITIVE, DryRun, EvaluationOutput, Json, Model, Recipes, write_result
from adaptthink.cli.settings import add_flags, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, EvaluateConfig
from adaptthink.storage.kinds import PathKind, expect


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
    dry_run: DryRun = False,
    json: Json = None,
) -> None:
    """Choose the threshold on P(no_think) from which a model answers without thinking, with a guarantee."""
    config = read_settings("calibrate", EvaluateConfig, recipe, select_given(flags) | {"model": model})
    expect(output, "--output", PathKind.EVALUATION)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.dial import calibrate_job

    result = calibrate_job(config, output, tolerance_points=tolerance, token_budget=token_budget)
    return write_result(json, result)
