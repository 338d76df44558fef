"""`adaptthink train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from adaptthink.callbacks import Callback
from adaptthink.cli.parameters import (
    STALL_MINUTES,
    Clean,
    DryRun,
    Json,
    Profile,
    Recipes,
    ReferenceStore,
    Resume,
    StallMinutes,
    Track,
    Writable,
    write_result,
)
from adaptthink.cli.settings import add_flags, read_settings, select_given, show_settings
from adaptthink.config.schema import Config, TrainConfig, VerlConfig
from adaptthink.errors import UserError
from adaptthink.storage.kinds import PathKind, expect
from adaptthink.storage.locks import locked


@add_flags(VerlConfig)
def train(
    recipe: Recipes = (),
    *,
    flags: Config,
    backend: Annotated[
        Literal["native", "verl"],
        Parameter(help="What trains: this program, or verl on a Ray cluster (docs/how-to/verl.md)."),
    ] = "native",
    verl_python: Annotated[
        Path | None, Parameter(help="verl: the Python of the environment that has it [default: this one].")
    ] = None,
    output: Annotated[Path, Parameter(help="Run folder."), Writable] = Path("runs/train"),
    reference: ReferenceStore = None,
    resume: Resume = False,
    clean: Clean = False,
    profile: Profile = False,
    track: Track = (),
    dry_run: DryRun = False,
    stall_minutes: StallMinutes = STALL_MINUTES,
    json: Json = None,
) -> None:
    """Train a model to choose when to think."""
    from adaptthink.integrations.trackers import parse_trackers

    trackers = parse_trackers(track)
    expect(output, "--output", PathKind.RUN)
    if reference:
        expect(reference, "--reference", PathKind.STORE)
    if backend == "verl":
        return train_on_verl(
            read_settings("verl", VerlConfig, recipe, select_given(flags)),
            output,
            reference=reference,
            python=sys.executable if verl_python is None else str(verl_python),
            resume=resume,
            clean=clean,
            profile=profile,
            callbacks=trackers,
            dry_run=dry_run,
            stall_minutes=stall_minutes,
            json=json,
        )
    config = read_settings("train", TrainConfig, recipe, select_given(flags))
    if verl_python is not None:
        raise UserError("--verl-python has no effect: it is for --backend verl; give that too, or leave it out")
    if dry_run:
        return show_settings(config)
    from adaptthink.cli.jobs import train_job
    from adaptthink.cli.watchdog import end_when_stuck

    with end_when_stuck(stall_minutes):
        result = train_job(
            config,
            output,
            reference_store=reference,
            resume=resume,
            clean=clean,
            profiled=profile,
            callbacks=trackers,
        )
    return write_result(json, result)


def train_on_verl(
    config: VerlConfig,
    output: Path,
    *,
    reference: Path | None,
    python: str,
    resume: bool,
    clean: bool,
    profile: bool,
    callbacks: Sequence[Callback],
    dry_run: bool,
    stall_minutes: float,
    json: Path | None,
) -> None:
    """Train on verl, or with `dry_run` print the command that would start it."""
    if profile:
        raise UserError("--profile measures the native trainer; leave it out with --backend verl")
    from adaptthink.integrations.verl.launcher import show_command, verl_job

    if dry_run:
        return show_command(config, output, python)
    from adaptthink.cli.watchdog import end_when_stuck

    with locked(output, f"run folder '{output}'"), end_when_stuck(stall_minutes):
        from adaptthink.cli.console import Terminal
        from adaptthink.cli.jobs import report_training

        result = verl_job(
            config,
            output,
            reference_store=reference,
            python=python,
            resume=resume,
            clean=clean,
            callbacks=[Terminal(config.steps), *callbacks],
        )
        report_training(output)
    return write_result(json, result)
