"""`adaptthink grade`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from adaptthink.cli.parameters import WritableFile
from adaptthink.config.schema import MAX_FAILED_GRADES


def grade(
    file: Annotated[
        Path,
        Parameter(
            help="JSONL, CSV …: response, reference_answer and, if not math, kind (choice); finished: false if cut."
        ),
    ],
    /,
    *,
    json: Annotated[
        Path | None,
        Parameter(help="Write one line for each line: verdict, extracted, rule."),
        WritableFile,
    ] = None,
    seconds: Annotated[
        float,
        Parameter(
            help="Stop the comparison of one answer after so much processor time.", validator=validators.Number(gt=0)
        ),
    ] = 2.0,
    max_failed_grades: Annotated[
        float,
        Parameter(
            help="Fail if grading timed out or failed on more than this share of the answers.",
            validator=validators.Number(gte=0, lte=1),
        ),
    ] = MAX_FAILED_GRADES,
) -> None:
    """Grade recorded responses: a verdict for each, what was extracted, and which rule decided."""
    from adaptthink.cli.console import console, count_progress, show_tally
    from adaptthink.errors import escape_controls
    from adaptthink.grading import Limits, check_failed_grades
    from adaptthink.grading.lines import grade_file

    with count_progress("graded") as advance:
        tally = grade_file(file, json, Limits(seconds), advance)
    show_tally(tally)
    for fault in tally.bad_rows:
        print(escape_controls(fault), file=sys.stderr)
    if json:
        console.print(f"verdicts in {json}")
    check_failed_grades(tally.verdicts.elements(), max_failed_grades)
