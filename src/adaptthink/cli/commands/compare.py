"""`adaptthink compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from adaptthink.cli.parameters import Json, WritableFile, write_result
from adaptthink.storage.kinds import PathKind, expect


def compare(
    *rows: Annotated[
        str,
        Parameter(help="Evaluation folders, the base first: FOLDER (its auto row), FOLDER:think or FOLDER:no_think."),
    ],
    force: Annotated[
        bool,
        Parameter(
            help="Compare unlike evaluations too, on the problems that all have; print how they differ.",
            negative="",
        ),
    ] = False,
    markdown: Annotated[
        Path | None,
        Parameter(help="Also write the tables to this Markdown file."),
        WritableFile,
    ] = None,
    paper: Annotated[
        Literal["1.5b", "7b"] | None,
        Parameter(help="Put the paper's rows beside ours, on the sets that it has.", show_default=False),
    ] = None,
    json: Json = None,
) -> None:
    """Compare evaluations with the first: accuracy, length, no_think, and which differences are significant."""
    for row in rows:
        expect(Path(row), "compare", PathKind.EVALUATION)
    from adaptthink.cli.compare import compare_job

    write_result(json, compare_job(rows, forced=force, markdown=markdown, paper=paper))
