"""`adaptthink export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from adaptthink.cli.parameters import Json, Writable, write_result
from adaptthink.errors import UserError
from adaptthink.storage.kinds import PathKind, expect


def export(
    run: Annotated[Path, Parameter(help="Run folder of a training that has ended.")],
    /,
    *,
    output: Annotated[
        Path | None, Parameter(help="Folder that is made; it must not exist [default: RUN/export]."), Writable
    ] = None,
    lora: Annotated[
        Literal["merged", "apart"],
        Parameter(help="Of a LoRA training: the whole model with the adapter merged in, or the adapter alone."),
    ] = "merged",
    base: Annotated[
        str | None, Parameter(help="Name of the base model on the hub, where it was trained from a folder.")
    ] = None,
    license: Annotated[
        str | None, Parameter(help="Licence for the card, such as apache-2.0 [default: the base model's].")
    ] = None,
    push: Annotated[str | None, Parameter(help="Also put it onto the hub, as this repository (you/name).")] = None,
    private: Annotated[
        bool, Parameter(help="Make the repository a private one, if it is not there.", negative="")
    ] = False,
    json: Json = None,
) -> None:
    """Make a folder for the hub of a run's model: weights, tokenizer, template, dial, card with results, licence."""
    expect(run, "export", PathKind.RUN)
    if private and not push:
        raise UserError("--private has no effect: nothing is pushed; give --push REPO too, or leave it out")
    folder = output or run / "export"
    if folder.exists():
        raise UserError(f"--output: '{folder}' exists; give a folder that does not")
    from adaptthink.cli.export import export_job

    result = export_job(run, folder, lora=lora, base=base, licence=license, push=push, private=private)
    write_result(json, result)
