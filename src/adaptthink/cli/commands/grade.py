"""`adaptthink grade`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators


def grade(
    file: Annotated[
        Path,
        Parameter(help="JSONL: response, reference_answer and, if not math, kind (choice); finished: false if cut."),
    ],
    /,
    *,
    json: Annotated[
        Path | None,
        Parameter(
            help="Write one line for each line: verdict, extracted, rule.", validator=validators.Path(dir_okay=False)
        ),
    ] = None,
    seconds: Annotated[
        float, Parameter(help="Stop the comparison of one answer after so long.", validator=validators.Number(gt=0))
    ] = 2.0,
) -> None:
    """Grade recorded responses: a verdict for each, what was extracted, and which rule decided."""
    from adaptthink.cli.console import console, count_progress, show_tally
    from adaptthink.grading import Limits
    from adaptthink.grading.lines import grade_file

    with count_progress("graded") as advance:
        tally = grade_file(file, json, Limits(seconds), advance)
    show_tally(tally)
    for fault in tally.bad_lines:
        print(f"{file}, {fault}", file=sys.stderr)
    if json:
        console.print(f"verdicts in {json}")
