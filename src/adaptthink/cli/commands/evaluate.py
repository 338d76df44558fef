"""`adaptthink evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from adaptthink.cli.parameters import (
    STALL_MINUTES,
    DryRun,
    EvaluationOutput,
    Json,
    Model,
    Recipes,
    StallMinutes,
    join_words,
    write_result,
)
from adaptthink.cli.settings import add_flags, read_evaluation_settings, select_given, show_settings
from adaptthink.config.chat import ChatConfig
from adaptthink.config.schema import Config, EvaluateConfig, RequestedMode
from adaptthink.storage.kinds import PathKind, expect


@add_flags(EvaluateConfig, ChatConfig, without=("model",))
def evaluate(
    model: Model,
    /,
    *,
    flags: Config,
    recipe: Recipes = (),
    modes: Annotated[
        tuple[RequestedMode, ...],
        Parameter(help="Modes to evaluate in.", negative="", consume_multiple=True, show_default=join_words),
    ] = ("auto", "think", "no_think"),
    output: EvaluationOutput = Path("runs/evaluation"),
    difficulty_from: Annotated[
        Path | None,
        Parameter(
            help="Evaluation folder whose pass rates are the problems' difficulty [default: forced think of this one]."
        ),
    ] = None,
    delta: Annotated[
        float,
        Parameter(
            help="Accuracy that no_think may cost, for the mode choice.", validator=validators.Number(gte=0, lte=1)
        ),
    ] = 0.05,
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Evaluate a model as it chooses and in both forced modes, by level; every sample is kept in --output."""
    config = read_evaluation_settings(recipe, select_given(flags) | {"model": model})
    expect(output, "--output", PathKind.EVALUATION)
    if difficulty_from:
        expect(difficulty_from, "--difficulty-from", PathKind.EVALUATION)
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import evaluate_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = evaluate_job(config, modes, output, difficulty_from=difficulty_from, delta=delta)
    return write_result(json, result)
