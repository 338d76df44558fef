"""`adaptthink plan`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adaptthink.cli.parameters import NOT_NEGATIVE, POSITIVE, Json, Recipes, write_result
from adaptthink.cli.settings import add_flags, find_unread, read_settings, select_given
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import PLANNED, Config, EvaluateConfig, TrainConfig, Unread, VerlConfig
from adaptthink.problems.sources import Purpose
from adaptthink.problems.unread import unread_settings
from adaptthink.storage.kinds import PathKind, expect


@add_flags(VerlConfig, only=PLANNED)
def plan(
    recipe: Recipes = (),
    *,
    flags: Config,
    gpus: Annotated[str, Parameter(help="GPUs, such as 8xH100; cpu: this machine, which is measured.")],
    think_tokens: Annotated[
        float | None,
        Parameter(help="Mean tokens of a think response at the start [default: assumed].", validator=POSITIVE),
    ] = None,
    no_think_tokens: Annotated[
        float | None,
        Parameter(help="Mean tokens of a no_think response at the start [default: assumed].", validator=POSITIVE),
    ] = None,
    prompt_tokens: Annotated[
        int | None, Parameter(help="Length of a prompt [default: assumed].", validator=POSITIVE)
    ] = None,
    reference: Annotated[
        Path | None,
        Parameter(help="Reference store to take the lengths of think responses from, instead of --think-tokens."),
    ] = None,
    price: Annotated[
        float | None,
        Parameter(help="Price of a GPU for an hour; not given: no cost is shown.", validator=NOT_NEGATIVE),
    ] = None,
    json: Json = None,
) -> None:
    """Estimate a training before it is started: memory, seconds of a step, hours, and what would not fit."""
    if reference:
        expect(reference, "--reference", PathKind.STORE)
    unread = find_unread if runs_on_verl(gpus) else find_unread_without_verl
    config = read_settings("plan", VerlConfig, recipe, select_given(flags), unread=unread)
    from adaptthink.cli.plan import plan_job

    result = plan_job(
        config,
        gpus,
        think_tokens=think_tokens,
        no_think_tokens=no_think_tokens,
        prompt_tokens=prompt_tokens,
        reference=reference,
        price=price,
        evaluation=resolve("evaluate", EvaluateConfig, recipes=recipe) if recipe else None,
    )
    write_result(json, result)


def runs_on_verl(gpus: str) -> bool:
    """Return whether a training on these GPUs runs on verl; raises UserError for text that names none."""
    from adaptthink.planning.hardware import read_cluster

    return gpus.strip().lower() != "cpu" and read_cluster(gpus).count > 1


def find_unread_without_verl(config: VerlConfig) -> Iterator[Unread]:
    """Yield the settings that the estimate of a training on one device does not read."""
    yield from TrainConfig.unread(config)
    yield from unread_settings(config.problems, Purpose.TRAINING)
    yield Unread(
        tuple(sorted(VerlConfig.model_fields.keys() - TrainConfig.model_fields.keys())),
        (),
        "it is for verl, which a training on one device does not need",
        "give --gpus more than one, or leave it out",
    )
