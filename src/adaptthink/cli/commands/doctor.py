"""`adaptthink doctor`."""

from __future__ import annotations

from adaptthink.cli.parameters import Json, Model, ThinkStart, write_result
from adaptthink.cli.settings import check_model
from adaptthink.errors import UserError


def doctor(
    model: Model,
    /,
    *,
    think_start: ThinkStart = "Alright",
    json: Json = None,
) -> None:
    """Check how a model begins and ends its thinking, and whether AdaptThink can train it.

    A check that is not ok also gets one line on standard error, and the exit status is that of bad input.
    """
    check_model(model)
    from adaptthink.cli.jobs import doctor_job

    result = doctor_job(model, think_start)
    write_result(json, result)
    if faults := [check for check in result["checks"] if not check["ok"]]:
        raise UserError(
            "; ".join(
                check["value"] if check["name"] == "model" else f"{check['name']}: {check['value']}" for check in faults
            )
        )
