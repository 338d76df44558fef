"""`adaptthink decide`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import SHARE, Json, Model, ThinkStart, write_result
from adaptthink.cli.settings import check_model
from adaptthink.errors import UserError
from adaptthink.storage.kinds import PathKind, expect


def decide(
    model: Model,
    /,
    *prompts: Annotated[str, Parameter(help="What a user would write, with the instruction that the set had.")],
    threshold: Annotated[
        float | None,
        Parameter(help="P(no_think) from which no_think is chosen [default: the calibrated one].", validator=SHARE),
    ] = None,
    dial: Annotated[
        Path | None, Parameter(help="An adaptthink.json from calibrate [default: the one in the model's folder].")
    ] = None,
    think_start: ThinkStart = "Alright",
    json: Json = None,
) -> None:
    """Print the mode that the dial chooses for each prompt: P(no_think), mode, threshold."""
    if not prompts:
        raise UserError("no prompt to decide on; give one or more: adaptthink decide MODEL PROMPT...")
    check_model(model)
    if dial:
        expect(dial, "--dial", PathKind.DIAL)
    from adaptthink.cli.dial import decide_job

    result = decide_job(model, prompts, threshold=threshold, dial_file=dial, think_start=think_start)
    write_result(json, result)
