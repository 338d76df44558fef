"""`adaptthink demo`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import (
    STALL_MINUTES,
    Clean,
    Json,
    Profile,
    Recipes,
    Resume,
    StallMinutes,
    Writable,
    write_result,
)
from adaptthink.cli.settings import read_settings
from adaptthink.config.schema import EngineConfig, EvaluateConfig, EvaluationConfig, TrainConfig, Unread
from adaptthink.problems.sources import Purpose
from adaptthink.problems.unread import unread_settings
from adaptthink.storage.kinds import PathKind, expect
from adaptthink.storage.locks import locked


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
    """Teach the embedded reasoner when to think, calibrate its dial, write a report (about two minutes).

    It learns by the gap objective (docs/explanation/gap.md); `--recipe toy_cpu` is the paper's method.
    """
    flags = {} if seed is None else {"seed": seed}
    config = read_settings("train", TrainConfig, recipe, flags)
    evaluation = read_settings("evaluate", EvaluateConfig, recipe, flags, unread=find_unread_in_demo)
    expect(output, "--output", PathKind.RUN)
    from adaptthink.cli.jobs import demo_job
    from adaptthink.cli.watchdog import end_when_stuck
    from adaptthink.training.replay import check_store

    check_store(config, None)  # the demo samples
    with locked(output, f"run folder '{output}'"), end_when_stuck(stall_minutes):
        result = demo_job(config, evaluation, output, resume=resume, clean=clean, profiled=profile)
    write_result(json, result)


def find_unread_in_demo(config: EvaluateConfig) -> Iterator[Unread]:
    """Yield the settings that the demo's evaluation does not read, such as how the trained model is run."""
    yield from config.unread()
    yield from unread_settings(config.problems, Purpose.EVALUATION)
    yield Unread(
        tuple(sorted(EngineConfig.model_fields.keys() - EvaluationConfig.model_fields.keys() | {"model", "chat"})),
        (),
        "the demo evaluates the model that it trains, with the engine of the training",
        "leave it out of [evaluate]",
    )
