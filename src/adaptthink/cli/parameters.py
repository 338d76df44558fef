"""What several commands share: their parameters, and the file that a result is written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

from cyclopts import Parameter, validators

from adaptthink.storage.kinds import PathKind


def check_writable(_: object, path: Path | None) -> None:
    """Raise OSError before the work, not after it, if nothing can be written at `path`, or into it if it is a folder.

    Folders that are missing on the way are no fault: they will be made.
    """
    if path is None or (path.exists() and not path.is_dir() and not path.is_file()):  # /dev/stdout, say
        return
    folder = path if path.is_dir() else next(one for one in path.parents if one.exists())
    if not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


Writable = Parameter(validator=check_writable)
WritableFile = Parameter(validator=(validators.Path(dir_okay=False), check_writable))
Json = Annotated[Path | None, Parameter(help="Also write the result as JSON to this file."), WritableFile]
DryRun = Annotated[bool, Parameter(help="Print the resolved settings and stop.", negative="")]
Resume = Annotated[bool, Parameter(help="Continue the interrupted run in --output.", negative="")]
Clean = Annotated[bool, Parameter(help="Delete an earlier run in --output first.", negative="")]
Profile = Annotated[
    bool, Parameter(help="Print where the time went, compared with the roofline of this machine.", negative="")
]
StallMinutes = Annotated[
    float,
    Parameter(
        help="End, to be repeated, where no response and no step is finished for so long; 0: never.",
        validator=validators.Number(gte=0),
    ),
]
Track = Annotated[
    tuple[str, ...],
    Parameter(
        help="Also log to wandb, trackio, tensorboard or mlflow; options: wandb:project=mine,group=a.",
        negative="",
        show_default=False,
    ),
]
Recipes = Annotated[
    tuple[str, ...],
    Parameter(
        help="Recipe files or names (toy_cpu); later ones win.",
        negative="",
        consume_multiple=True,
        show_default=False,
    ),
]
Model = Annotated[str, Parameter(help="A model folder, a hub id, or 'tiny' or 'tiny_long' (embedded).")]
DataFolder = Annotated[
    Path | None, Parameter(help="Folder with local copies of named sets [default: ADAPTTHINK_DATA, else the hub].")
]
ThinkStart = Annotated[str, Parameter(help="w_start: the text that forced thinking begins with.")]
FieldMapping = Annotated[str | None, Parameter(help="Columns of a file: prompt=question,answer=final_answer.")]
ReferenceStore = Annotated[Path | None, Parameter(help="Reference store from presample [default: in the run folder].")]
EvaluationOutput = Annotated[
    Path, Parameter(help="Evaluation folder; an interrupted or a smaller one is completed."), Writable
]
REPORTED = (PathKind.RUN, PathKind.EVALUATION, PathKind.REPRODUCTION)
POSITIVE, NOT_NEGATIVE, POINTS = validators.Number(gt=0), validators.Number(gte=0), validators.Number(gt=0, lt=100)
STALL_MINUTES = 240.0  # longer than any response should take
SHARE = validators.Number(gte=0, lte=1)


def join_words(value: tuple[str, ...]) -> str:
    """Return a default as it would be given on the command line."""
    return " ".join(value)


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a command's result to the path of --json, if there is one."""
    if path:
        from adaptthink.storage.runs import write_json

        write_json(path, result)
