"""`adaptthink score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import (
    SHARE,
    STALL_MINUTES,
    DataFolder,
    FieldMapping,
    Json,
    Model,
    StallMinutes,
    ThinkStart,
    WritableFile,
    write_result,
)
from adaptthink.storage.kinds import PathKind, expect


def score(
    prompts: Annotated[
        str,
        Parameter(
            help="A file, or another name of problems; or - for prompts on standard input, one a line.",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    model: Model = "tiny",
    threshold: Annotated[
        float | None,
        Parameter(
            help="P(no_think) from which the mode is no_think [default: the calibrated one, else no mode].",
            validator=SHARE,
        ),
    ] = None,
    dial: Annotated[
        Path | None, Parameter(help="An adaptthink.json from calibrate [default: the one in the model's folder].")
    ] = None,
    think_start: ThinkStart = "Alright",
    data: DataFolder = None,
    fields: FieldMapping = None,
    instruction: Annotated[
        str | None, Parameter(help="Text put after each prompt [default: the source's own]; '': nothing.")
    ] = None,
    output: Annotated[
        Path, Parameter(help="File of scores, one JSON line a prompt; an interrupted one is completed."), WritableFile
    ] = Path("runs/scores.jsonl"),
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Score how difficult a model finds each prompt: P(no_think), P(think start), and by a threshold the mode."""
    from adaptthink.cli.settings import check_model, check_problem_files
    from adaptthink.problems.sources import Purpose

    check_model(model)
    if prompts != "-":
        check_problem_files(prompts, Purpose.EVALUATION)
    if dial:
        expect(dial, "--dial", PathKind.DIAL)
    expect(output, "--output", PathKind.SCORES)
    from adaptthink.cli.dial import score_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = score_job(
            model,
            prompts,
            output,
            threshold=threshold,
            dial=dial,
            think_start=think_start,
            data=data,
            fields=fields,
            instruction=instruction,
        )
    write_result(json, result)
