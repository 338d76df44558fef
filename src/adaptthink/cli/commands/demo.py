"""`adaptthink demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.commands.run import TOLERANCE_POINTS, start_run
from adaptthink.cli.parameters import STALL_MINUTES, Clean, Json, Profile, Recipes, Resume, StallMinutes, Writable


def demo(
    *,
    output: Annotated[Path, Parameter(help="Run folder."), Writable] = Path("runs/demo"),
    recipe: Annotated[Recipes, Parameter(help="Recipe files or names; later ones win [default: toy_cpu toy_gap].")] = (
        "toy_cpu",
        "toy_gap",
    ),
    seed: Annotated[int | None, Parameter(help="Seed of everything random [default: the recipe's, else 0].")] = None,
    resume: Resume = False,
    clean: Clean = False,
    profile: Profile = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Teach the embedded reasoner when to think, calibrate its dial, write a report (two to five minutes).

    It learns by the gap objective (docs/explanation/gap.md); `--recipe toy_cpu` is the paper's method. It is
    `adaptthink run` with these recipes.
    """
    start_run(
        recipe,
        {} if seed is None else {"seed": seed},
        output,
        tolerance=TOLERANCE_POINTS,
        resume=resume,
        clean=clean,
        profile=profile,
        stall_minutes=stall_minutes,
        json=json,
    )
