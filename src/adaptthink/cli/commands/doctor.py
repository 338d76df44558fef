"""`adaptthink doctor`."""

from __future__ import annotations

from adaptthink.cli.parameters import Json, Model, ThinkStart, write_result
from adaptthink.cli.settings import check_model


def doctor(
    model: Model,
    /,
    *,
    think_start: ThinkStart = "Alright",
    json: Json = None,
) -> None:
    """Check how a model begins and ends its thinking, and whether AdaptThink can train it."""
    check_model(model)
    from adaptthink.cli.jobs import doctor_job

    write_result(json, doctor_job(model, think_start))
