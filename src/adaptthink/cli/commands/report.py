"""`adaptthink report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import REPORTED, Json, Writable, write_result
from adaptthink.storage.kinds import PathKind, expect


def report(
    folder: Annotated[Path, Parameter(help="A training run's folder, or an evaluation's.")],
    /,
    *more: Annotated[Path, Parameter(help="More evaluation folders: one page shows all models.")],
    output: Annotated[
        Path | None, Parameter(help="Folder for the report [default: the folder itself; several need it]."), Writable
    ] = None,
    figures: Annotated[
        Path | None,
        Parameter(help="Folder for the figures: SVG, PNG at 300 dpi, and CSV with their numbers."),
        Writable,
    ] = None,
    json: Json = None,
) -> None:
    """Write the report of a training run, or of evaluations side by side: report.html and report.md."""
    expect(folder, "report", *REPORTED)
    for another in more:
        expect(another, "report", PathKind.EVALUATION)
    from adaptthink.report import write_report

    html, markdown = write_report(folder, *more, output=output, figure_folder=figures)
    print(html)
    write_result(json, {"html": str(html), "markdown": str(markdown), "figures": figures and str(figures)})
