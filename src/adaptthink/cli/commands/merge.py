"""`adaptthink merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import SHARE, Json, Model, Writable, write_result
from adaptthink.cli.settings import check_model
from adaptthink.errors import UserError


def merge(
    first: Model,
    second: Model,
    /,
    *,
    weight: Annotated[
        float, Parameter(help="Share of the first model; the second has the rest.", validator=SHARE)
    ] = 0.5,
    output: Annotated[Path, Parameter(help="Folder of the merged model; it must not exist."), Writable] = Path(
        "runs/merged"
    ),
    json: Json = None,
) -> None:
    """Write the weighted mean of two models' weights."""
    check_model(first)
    check_model(second)
    if output.exists():
        raise UserError(f"--output: '{output}' exists; give a folder that does not")
    from adaptthink.models.merging import merge as merge_models

    merge_models(first, second, weight, output)
    print(f"merged model in {output}")
    write_result(json, {"model": str(output), "weight": weight})
