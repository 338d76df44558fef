"""`adaptthink data check` and `adaptthink data show`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from adaptthink.cli.parameters import DataFolder, FieldMapping, Json, write_result
from adaptthink.cli.settings import check_problem_files
from adaptthink.config.resolve import resolve
from adaptthink.config.schema import Config, PresampleConfig, RequestedMode, Unread
from adaptthink.errors import UserError
from adaptthink.problems.sources import Purpose
from adaptthink.problems.unread import unread_settings


def data_check(
    problems: Annotated[str, Parameter(help="A set, reasoning_gym:FAMILY, a file, or several (a,b).")],
    /,
    *,
    against: Annotated[
        tuple[str, ...],
        Parameter(help="Sets that must not be contained in it, such as math500.", negative="", consume_multiple=True),
    ] = (),
    data: DataFolder = None,
    fields: FieldMapping = None,
    json: Json = None,
) -> None:
    """Count problems, repeats, what cannot be read, and leaks into other sets."""
    config = read_data_settings(problems, against, data=data, fields=fields)
    from adaptthink.cli.data import check_job

    check = check_job(config, against)
    write_result(json, check)
    if not check["num_kept"]:
        raise UserError(f"{problems}: none of its {check['num_rows']:,} rows can be used")


def data_show(
    problems: Annotated[str, Parameter(help="A set, reasoning_gym:FAMILY, a file, or several (a,b).")],
    /,
    *,
    model: Annotated[
        str, Parameter(help="A model folder, a hub id, 'tiny' or 'tiny_long'; its chat template is used.")
    ] = "tiny",
    count: Annotated[int, Parameter(help="How many, from the beginning.", validator=validators.Number(gte=1))] = 3,
    mode: Annotated[RequestedMode, Parameter(help="The mode that the prompt leads into; auto: none.")] = "auto",
    data: DataFolder = None,
    fields: FieldMapping = None,
    instruction: Annotated[
        str | None, Parameter(help="Text put after each prompt [default: the source's own].")
    ] = None,
    json: Json = None,
) -> None:
    """Print a few problems as the model sees them, with reference answer, kind and level."""
    config = read_data_settings(problems, model=model, data=data, fields=fields, instruction=instruction)
    from adaptthink.cli.data import show_job

    write_result(json, show_job(config, count, mode))


def read_data_settings(problems: str, against: tuple[str, ...] = (), **options: str | Path | None) -> PresampleConfig:
    """Resolve the settings of a data command; options that were not given leave the environment's."""
    flags = {"problems": problems} | {name: value for name, value in options.items() if value is not None}
    names = ((problems, Purpose.CHECK), *((name, Purpose.AGAINST) for name in against))

    def unread(_: Config) -> Iterator[Unread]:
        """Yield the settings that none of the names reads."""
        found = [{one.keys: one for one in unread_settings(*name)} for name in names]
        yield from (one for keys, one in found[0].items() if all(keys in others for others in found))

    config = resolve("presample", PresampleConfig, flags=flags, unread=unread)
    for name in names:
        check_problem_files(*name)
    return config
