"""`adaptthink run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from adaptthink.callbacks import Callback
from adaptthink.cli.parameters import (
    POINTS,
    STALL_MINUTES,
    Clean,
    DryRun,
    Json,
    Profile,
    Recipes,
    ReferenceStore,
    Resume,
    StallMinutes,
    Track,
    Writable,
    write_result,
)
from adaptthink.cli.settings import add_flags, read_run_settings, select_given, show_settings
from adaptthink.config.schema import Config, EvaluationConfig, TrainConfig
from adaptthink.storage.kinds import PathKind, expect

TOLERANCE_POINTS = 3.0  # of the dial: what half of a thousand problems can certify


@add_flags(TrainConfig)
def run(
    recipe: Recipes = (),
    *,
    flags: Config,
    output: Annotated[Path, Parameter(help="Run folder."), Writable] = Path("runs/run"),
    reference: ReferenceStore = None,
    tolerance: Annotated[
        float,
        Parameter(help="Points of accuracy that the dial may lose against always thinking.", validator=POINTS),
    ] = TOLERANCE_POINTS,
    resume: Resume = False,
    clean: Clean = False,
    profile: Profile = False,
    track: Track = (),
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Pre-sample, evaluate, train, evaluate again, calibrate the dial and write the report, of any model.

    Flags are settings of the training; model, problems, grading and token limits are the evaluations' too. What else
    the evaluations need stands in [evaluate] of a recipe.
    """
    given = select_given(flags)
    if dry_run:
        config, evaluation = read_run_settings(recipe, given)
        show_settings(config)
        print("\n[evaluate]")
        own = {key for key in EvaluationConfig.model_fields if getattr(evaluation, key) != getattr(config, key, None)}
        return show_settings(evaluation, only=own)
    from adaptthink.integrations.trackers import parse_trackers

    return start_run(
        recipe,
        given,
        output,
        reference=reference,
        tolerance=tolerance,
        resume=resume,
        clean=clean,
        profile=profile,
        callbacks=parse_trackers(track),
        stall_minutes=stall_minutes,
        json=json,
    )


def start_run(
    recipes: Sequence[str],
    flags: Mapping[str, Any],
    output: Path,
    *,
    reference: Path | None = None,
    tolerance: float,
    resume: bool,
    clean: bool,
    profile: bool,
    callbacks: Sequence[Callback] = (),
    stall_minutes: float,
    json: Path | None,
) -> None:
    """Resolve the settings of a whole run, and do it."""
    config, evaluation = read_run_settings(recipes, flags)
    expect(output, "--output", PathKind.RUN)
    if reference:
        expect(reference, "--reference", PathKind.STORE)
    from adaptthink.cli.pipeline import run_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = run_job(
            config,
            evaluation,
            output,
            tolerance_points=tolerance,
            reference_store=reference,
            resume=resume,
            clean=clean,
            profiled=profile,
            callbacks=callbacks,
        )
    write_result(json, result)
